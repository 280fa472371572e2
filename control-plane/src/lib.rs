//! Gantry's control plane: a durable store, the Kubernetes API over TLS, a scheduler and controllers, in one process.
//!
//! ```text
//! HTTPS ──> access (who, may they) ──> api (route, verbs) ──> kinds (defaults, validation) ──> store (revisions)
//!                                        └── client ──> scheduler, controllers                    └── watch ──> api
//! ```
//!
//! [`run`] is the whole of it. Objects are JSON with a schema, kinds are data (`kinds/`), so that custom resources can
//! take the same road as built-in ones. The store's revision is the `resourceVersion` of everything.
#![forbid(unsafe_code)]

mod access;
mod api;
pub mod client;
pub mod controllers;
pub mod error;
pub mod kinds;
pub mod pki;
mod run;
pub mod scheduler;
pub mod store;
#[cfg(test)]
mod testing;

pub use error::{Error, Kind, Result};
pub use run::{Config, run};
