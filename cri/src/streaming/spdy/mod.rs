//! SPDY/3.1 as Kubernetes' clients speak it: a server's half, over any byte stream.
//!
//! `kubectl` before 1.31 uses it for exec, attach and port-forward (and newer ones fall back to it); port-forward over
//! WebSocket carries it inside. Source: SPDY Protocol, Draft 3.1.

mod connection;
mod frame;
mod headers;

pub(super) use connection::connect;
pub(super) use frame::Reset;
pub(super) use headers::Headers;

#[cfg(test)]
pub(super) mod client;
