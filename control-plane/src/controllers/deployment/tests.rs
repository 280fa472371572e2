//! Rollouts played step by step over the pure functions.
