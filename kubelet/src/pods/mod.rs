//! Pods: one worker task each. `actions` decides, `apply` does, `status` says.

pub(crate) mod actions;
pub(crate) mod apply;
pub(crate) mod conditions;
pub(crate) mod container;
pub(crate) mod ending;
pub(crate) mod env;
pub(crate) mod fields;
pub(crate) mod hooks;
pub(crate) mod images;
pub(crate) mod labels;
pub(crate) mod logs;
pub(crate) mod make;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod seen;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod timing;
pub(crate) mod worker;
pub(crate) mod writer;
