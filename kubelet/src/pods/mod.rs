//! Pods: one worker task each. `actions` decides, `apply` does, `status` says.

pub(crate) mod actions;
pub(crate) mod conditions;
pub(crate) mod container;
pub(crate) mod env;
pub(crate) mod fields;
pub(crate) mod labels;
pub(crate) mod memory;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod seen;
pub(crate) mod status;
