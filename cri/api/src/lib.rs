//! The Container Runtime Interface, version 1: messages, client and server, generated from `proto/api.proto`.
//!
//! Everything is re-exported flat, under the names that tonic and prost give: a message `PodSandboxConfig`, an enum
//! `NamespaceMode::Node`, the modules `runtime_service_client::RuntimeServiceClient`,
//! `image_service_client::ImageServiceClient`, `runtime_service_server::RuntimeService` and so on. An enum field of a
//! message is an `i32`: read it with the accessor of the same name (`status.state()`), write it with `as i32`.
//!
//! To call a runtime:
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use gantry_cri_api::{VersionRequest, runtime_service_client::RuntimeServiceClient};
//! let channel = gantry_cri_api::connect("/run/gantry/cri.sock").await?;
//! let mut runtime = RuntimeServiceClient::new(channel.clone()); // clones share one connection
//! println!("{}", runtime.version(VersionRequest::default()).await?.into_inner().runtime_name);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod redact;
mod socket;

/// What the compiler of the proto writes; its public names are this crate's.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
mod generated {
    tonic::include_proto!("runtime.v1");
}

pub use generated::*;
pub use socket::{MAX_MESSAGE, connect, connect_lazy};
pub use tonic;
