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
//!
//! | module | what it holds |
//! |---|---|
//! | `tokens`, `handshake`, `serve` | URLs; request to protocol (pure); connections and their tasks |
//! | `mux` | streams over one connection: bounded inboxes, windows, one queue |
//! | `spdy`, `websocket`, `tunnel` | the transports: frames, channels, the one inside the other |
//! | `remote`, `forward`, `status` | exec and attach; port-forward; how the outcome is told |
//! | `session`, `descriptor` | what the work sees; pumping to file descriptors |

mod descriptor;
mod forward;
mod handshake;
mod mux;
mod remote;
mod serve;
mod session;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod tokens;
mod tunnel;
mod websocket;

pub use session::{Session, Stdio, Streams, TerminalSize};

use crate::error::{Context as _, Error, Kind, Result};
use futures_util::future::BoxFuture;
use serve::House;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokens::{Task, Tokens};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What is done for one client: takes the client's streams, gives the exit code (0 to 255).
type Work = Box<dyn FnOnce(Session) -> BoxFuture<'static, Result<i32>> + Send>;

/// Where forwarded connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// Network namespace to connect in, or none for the daemon's own (pods on the host's network).
    pub netns: Option<PathBuf>,
    /// Ports of the CRI request, which the older WebSocket protocol uses; others name their port in each stream.
    pub ports: Vec<u16>,
}

/// The HTTP/1.1 server for streams. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    address: SocketAddr,
    house: Arc<House>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not what waits in it: tokens are secrets.
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on `address` (port 0 allowed) and serves until `shutdown`, when every session ends too.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, shutdown: CancellationToken) -> Result<Self> {
        let what = || format!("bind streaming server to {address}");
        let listener = tokio::net::TcpListener::bind(address).await.context(what)?;
        let address = listener.local_addr().context(what)?;
        let house = Arc::new(House { tokens: Tokens::default(), shutdown, tasks: TaskTracker::new() });
        house.tasks.spawn(serve::accept(listener, house.clone()));
        Ok(Self { address, house })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits, after the shutdown, until the last session has ended.
    pub async fn stopped(&self) {
        self.house.shutdown.cancelled().await;
        self.house.tasks.wait().await;
    }

    /// URL for `kubectl exec`: `work` starts the process, and its result is the exit code. The future of `work` is
    /// dropped as soon as the client is gone, so what must be undone then belongs in a drop guard.
    ///
    /// # Errors
    /// `Invalid` when no stream is asked for, or stderr beside a terminal; `Exhausted` when too many URLs wait.
    pub fn exec_url<F, W>(&self, streams: Streams, work: F) -> Result<String>
    where
        F: FnOnce(Session) -> W + Send + 'static,
        W: Future<Output = Result<i32>> + Send + 'static,
    {
        check(streams)?;
        self.url(Task::Exec(streams, Box::new(|session| Box::pin(work(session)))))
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
        check(streams)?;
        self.url(Task::Attach(streams, Box::new(|session| Box::pin(work(session)))))
    }

    /// URL for `kubectl port-forward`; needs no work of the caller.
    ///
    /// # Errors
    /// `Exhausted` when too many URLs wait to be used.
    pub fn port_forward_url(&self, target: PortForward) -> Result<String> {
        self.url(Task::PortForward(target))
    }

    fn url(&self, task: Task) -> Result<String> {
        let name = task.name();
        let token = self.house.tokens.put(task, Instant::now())?;
        Ok(format!("http://{}/{name}/{token}", self.address))
    }
}

/// As the CRI says of `ExecRequest`: at least one stream, and a terminal has no stderr of its own.
fn check(streams: Streams) -> Result<()> {
    let invalid = |why: &str| Err(Error::new(Kind::Invalid, why));
    match streams {
        Streams { stdin: false, stdout: false, stderr: false, .. } => {
            invalid("one of stdin, stdout and stderr must be asked for")
        }
        Streams { tty: true, stderr: true, .. } => invalid("stderr cannot be asked for beside a terminal"),
        _ => Ok(()),
    }
}
