//! Gantry's CRI server: pods and containers for a kubelet or `crictl`, over gRPC on a unix socket.
//!
//! ```text
//! kubelet --gRPC--> service --> pods, containers --> monitor (one process a pod) --> the container
//!                                 |      |     `---> images (root filesystem)
//!                                 |      `--> convert: CRI configuration to OCI specification (pure)
//!                                 `--> network (address)          store: every record, on disk first
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`], [`error`] | what it can be told; what it says when something failed |
//! | [`serve`] | [`run`] |
//! | `service` | the edge: decode, call, encode |
//! | [`pods`], [`containers`], [`resources`] | the verbs |
//! | [`volumes`], [`cdi`] | images as volumes; vendors' devices |
//! | [`convert`], [`rootfs`], [`host`], [`files`] | DECIDE, pure; and the facts that it needs |
//! | [`node`], [`kept`], [`store`] | what is known, in memory and on disk |
//! | [`monitor`], [`exits`], [`recover`] | what monitors tell; start-up after whatever happened |
//! | [`streams`], [`streaming`] | exec, attach, port-forward: descriptors; connections |
//! | [`network`] | addresses and links of pods: the built-in bridge, or CNI |
//! | [`stats`], [`metrics`] | figures |
//! | [`fault`] | places to die at, for the tests of recovery |
#![forbid(unsafe_code)]

pub mod cdi;
pub mod config;
pub mod containers;
pub mod convert;
pub mod error;
pub mod exits;
pub mod fault;
pub mod files;
pub mod host;
pub mod kept;
pub mod metrics;
pub mod monitor;
pub mod network;
pub mod node;
pub mod pods;
pub mod recover;
pub mod resources;
pub mod rootfs;
pub mod serve;
mod service;
pub mod stats;
pub mod store;
pub mod streaming;
pub mod streams;
pub mod volumes;

pub use config::Config;
pub use error::{Error, Kind, Result};
pub use serve::{dismantle, run};
