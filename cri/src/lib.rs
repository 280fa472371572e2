//! Gantry's CRI server: pods and containers for a kubelet or `crictl`, over gRPC on a unix socket.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`], [`error`] | what it can be told; what it says when something failed |
//! | [`convert`] | DECIDE: CRI configuration to OCI specification, pure |
//! | [`store`] | records on disk |
//! | [`network`] | addresses and links of pods |
//! | [`streaming`] | exec, attach and port-forward connections |
//! | [`fault`] | places to die at, for the tests of recovery |
#![forbid(unsafe_code)]

pub mod config;
pub mod convert;
pub mod error;
pub mod fault;
pub mod network;
pub mod store;
pub mod streaming;

pub use config::Config;
pub use error::{Error, Kind, Result};
