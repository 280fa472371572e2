//! Where the kubelet gets objects from: the API's pods of this node, static manifests, and the ConfigMaps,
//! Secrets and Services that pods refer to.

pub(crate) mod files;
pub(crate) mod objects;
pub(crate) mod pods;
