//! Work inside a pod's network namespace: on a thread that enters it, does the work and ends.
//!
//! setns(2) changes the calling thread only, so the daemon stays where it is; and a thread that ends cannot be
//! handed other work while it is in the wrong namespace, as one of a pool could.

use crate::error::{Context as _, Error, Kind, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// `NSFS_MAGIC` (linux/magic.h): the file system of namespace files.
const NSFS: FsType = FsType(0x6e73_6673);
/// A connection inside a namespace is answered at once, or the listener's backlog is full.
const CONNECT: Duration = Duration::from_secs(10);

/// Opens the namespace file at `path`.
pub(super) fn open(path: &Path) -> Result<File> {
    let file = File::open(path).context(|| format!("open namespace {}", path.display()))?;
    let system = fstatfs(&file).context(|| format!("statfs {}", path.display()))?;
    if system.filesystem_type() != NSFS {
        let why = format!("{} is not a namespace", path.display());
        return Err(Error::new(Kind::Invalid, why));
    }
    Ok(file)
}

/// Runs `work` on a thread of its own and waits for it, blocking.
pub(super) fn alone<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name(name.into())
            .spawn_scoped(scope, work)
            .context(|| format!("start thread {name}"))?
            .join()
            .unwrap_or_else(|_| Err(Error::internal(format!("thread {name} panicked"))))
    })
}

/// Runs `work` inside the network namespace, blocking.
pub(super) fn within<T: Send>(netns: impl AsFd + Send, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    alone("netns", || {
        setns(netns, CloneFlags::CLONE_NEWNET).context(|| "enter network namespace")?;
        work()
    })
}

/// Runs blocking work without holding up the runtime. Once begun it runs to its end, also when the caller is dropped.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|cause| Err(Error::internal(format!("network task: {cause}"))))
}

/// Connects to `port` of the loopback addresses, 127.0.0.1 first, inside the network namespace at `netns`, or in the
/// daemon's own for `None`.
///
/// # Errors
/// When the namespace cannot be entered, or neither address takes the connection in 10 s.
pub async fn connect(netns: Option<&Path>, port: u16) -> Result<TcpStream> {
    let netns = netns.map(Path::to_owned);
    let sockets = move || -> Result<_> {
        let v4 = TcpSocket::new_v4().context(|| "make a socket")?;
        // A kernel without IPv6 has no such socket, and then nothing listens on ::1 either.
        Ok((v4, TcpSocket::new_v6().ok()))
    };
    let (v4, v6) = blocking(move || match netns {
        Some(path) => within(open(&path)?, sockets),
        None => sockets(),
    })
    .await?;
    let first = dial(v4, ([127, 0, 0, 1], port).into()).await;
    match (first, v6) {
        (Err(_), Some(v6)) => dial(v6, ([0, 0, 0, 0, 0, 0, 0, 1], port).into())
            .await
            .context(|| format!("connect to port {port} on 127.0.0.1 or ::1")),
        (outcome, _) => outcome.context(|| format!("connect to 127.0.0.1:{port}")),
    }
}

async fn dial(socket: TcpSocket, to: std::net::SocketAddr) -> std::io::Result<TcpStream> {
    tokio::time::timeout(CONNECT, socket.connect(to)).await.map_err(|_| std::io::ErrorKind::TimedOut)?
}
