//! Gantry's CRI server: pods and containers for a kubelet or `crictl`, over gRPC on a unix socket.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`], [`error`] | what it can be told; what it says when something failed |
//! | [`network`] | addresses and links of pods |
//! | [`streaming`] | exec, attach and port-forward connections |
#![forbid(unsafe_code)]

pub mod config;
pub mod error;
pub mod network;
pub mod streaming;

pub use config::Config;
pub use error::{Error, Kind, Result};
