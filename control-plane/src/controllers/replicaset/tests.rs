//! The ReplicaSet controller as text: claims, counts, ranking, expectations.
