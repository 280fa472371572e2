//! The pod's monitor, seen from async code: every call of [`gantry_runtime::monitor::Client`] on a blocking thread and
//! with a limit of time, so that one monitor that hangs stalls nobody but its own pod.
//!
//! What lasts (events, the wait for an exec) takes no thread: it waits for the connection to become readable.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gantry_runtime::monitor::client::{Attached, Running};
use gantry_runtime::monitor::protocol::{self, Create, Event, Exit, Hello, Reply, Request, State};
use gantry_runtime::monitor::{Client, SealedBinary, Streams, exit_record};
use oci_spec::runtime::Process;
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::error::{Context, Error, Kind, Result};

/// How long a monitor may take for anything but creating a container.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long making a container may take: mounts of slow disks and hooks are part of it.
const CREATE_PATIENCE: Duration = Duration::from_secs(120);

/// The runtime's root in a pod's directory.
const RUNTIME: &str = "runtime";

/// One pod's monitor, by its directory. Cheap; holds no connection.
#[derive(Clone, Debug)]
pub struct Monitor {
    dir: PathBuf,
}

/// Our or the process' ends of three streams.
#[derive(Debug, Default)]
pub struct Ends {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

impl Ends {
    fn borrow(&self) -> Streams<'_> {
        Streams {
            stdin: self.stdin.as_ref().map(AsFd::as_fd),
            stdout: self.stdout.as_ref().map(AsFd::as_fd),
            stderr: self.stderr.as_ref().map(AsFd::as_fd),
        }
    }
}

impl Monitor {
    /// The monitor of the pod with this run directory, whether it lives or not.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where the runtime keeps the state of the pod's containers.
    pub fn runtime_root(&self) -> PathBuf {
        self.dir.join(RUNTIME)
    }

    /// Starts it; it listens when this returns.
    pub async fn spawn(&self, binary: &Arc<SealedBinary>) -> Result<()> {
        let (binary, dir) = (Arc::clone(binary), self.dir.clone());
        blocking(PATIENCE, "start the monitor", move || gantry_runtime::monitor::spawn(&binary, &dir)).await
    }

    /// Makes a container that waits for its start.
    pub async fn create(&self, create: Create) -> Result<i32> {
        let what = format!("create container {}", create.id);
        self.call(CREATE_PATIENCE, what, move |client| client.create(&create)).await
    }

    /// Runs its program.
    pub async fn start(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.call(PATIENCE, format!("start container {id}"), move |client| client.start(&id)).await
    }

    /// Sends a signal to the first process or to all. One that has ended is no error.
    pub async fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let id = id.to_owned();
        let what = format!("send signal {signal} to container {id}");
        let sent = self.call(PATIENCE, what, move |client| client.kill(&id, signal, all)).await;
        match sent {
            Err(why) if matches!(why.kind(), Kind::NotFound | Kind::WrongState) => Ok(()),
            sent => sent,
        }
    }

    /// Removes it from the runtime, its cgroup too; kills it first where it runs. Idempotent. Works without a living
    /// monitor as well: then the runtime's own state on disk is what there is.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let (dir, name) = (self.dir.clone(), id.to_owned());
        blocking(PATIENCE, format!("delete container {id}"), move || match Client::connect(&dir) {
            Ok(client) => client.delete(&name, true),
            Err(_) => gantry_runtime::delete(&dir.join(RUNTIME), &name, true),
        })
        .await
    }

    /// Every container that it looks after. [`Kind::NotFound`] if it does not live.
    pub async fn state(&self) -> Result<State> {
        self.call(PATIENCE, "ask for the state of the pod", |client| client.state()).await
    }

    /// Opens the log by its path again.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.call(PATIENCE, format!("reopen the log of container {id}"), move |client| client.reopen_log(&id)).await
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, id: &str, width: u16, height: u16) -> Result<()> {
        let id = id.to_owned();
        self.call(PATIENCE, format!("resize container {id}"), move |client| client.resize(&id, width, height)).await
    }

    /// The pid of the process that holds the pod's shared PID namespace.
    pub async fn pause(&self, cgroup: &str) -> Result<i32> {
        let cgroup = PathBuf::from(cgroup);
        self.call(PATIENCE, "share the PID namespace", move |client| client.pause(Some(&cgroup))).await
    }

    /// Ends the monitor. One that does not live, or is just leaving, is no error.
    pub async fn shutdown(&self) -> Result<()> {
        let Err(why) = self.call(PATIENCE, "end the monitor", |client| client.shutdown()).await else { return Ok(()) };
        match self.call(PATIENCE, "look for the monitor", |_| Ok(())).await {
            Err(gone) if gone.kind() == Kind::NotFound => Ok(()),
            _ => Err(why),
        }
    }

    /// Runs one more process; the descriptors become its own.
    pub async fn exec(&self, id: &str, process: Value, ends: Ends) -> Result<Exec> {
        let process: Process = serde_json::from_value(process).context(|| "read the container's process")?;
        let (name, what) = (id.to_owned(), format!("exec in container {id}"));
        // Owned from its first moment: whoever asked may have gone before it runs.
        let start = move |client: Client| client.exec(&name, &process, ends.borrow()).map(Owned::new);
        let mut owned = self.call(CREATE_PATIENCE, what, start).await?;
        let running = owned.running()?;
        let (terminal, ready) = (running.terminal.take(), watch(running.as_fd())?);
        Ok(Exec { owned, ready, terminal })
    }

    /// Connects streams to the main process.
    pub async fn attach(&self, id: &str, ends: Ends) -> Result<Attachment> {
        let (name, what) = (id.to_owned(), format!("attach to container {id}"));
        let attached = self.call(PATIENCE, what, move |client| client.attach(&name, ends.borrow())).await?;
        Ok(Attachment { ready: watch(attached.as_fd())?, attached })
    }

    /// Events from now on; ask for the state after this, so that none is missed.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it does not live; that somebody holds its socket open says nothing, since a container in
    /// its first moments is a clone of it. [`Kind::Timeout`] if it does not answer.
    pub async fn subscribe(&self) -> Result<Events> {
        self.call(PATIENCE, "look for the monitor", |_| Ok(())).await?;
        let path = self.dir.join(gantry_runtime::monitor::SOCKET);
        match tokio::time::timeout(PATIENCE, subscribe(&path)).await {
            Ok(events) => events,
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                let what = format!("subscribe to the monitor: it gave no answer in {seconds} s");
                Err(Error::new(Kind::Timeout, what))
            }
        }
    }

    /// How a container ended, from the record that its monitor left.
    pub fn exit_record(&self, id: &str) -> Result<Option<Exit>> {
        Ok(exit_record(&self.dir, id)?)
    }

    async fn call<T: Send + 'static>(
        &self,
        patience: Duration,
        what: impl Into<String>,
        ask: impl FnOnce(Client) -> gantry_runtime::Result<T> + Send + 'static,
    ) -> Result<T> {
        let dir = self.dir.clone();
        blocking(patience, what, move || ask(Client::connect(dir)?)).await
    }
}

async fn subscribe(path: &Path) -> Result<Events> {
    let mut stream = UnixStream::connect(path).await.context(|| format!("no monitor answers on {}", path.display()))?;
    let hello = protocol::encode(&Hello { version: protocol::VERSION, request: Request::Subscribe });
    stream.write_all(&hello).await.context(|| "subscribe to the monitor")?;
    let mut events = Events { stream, bytes: Vec::new() };
    match events.reply().await? {
        Some(Reply::Done) => Ok(events),
        other => Err(Error::internal(format!("subscribe to the monitor: it answered {other:?}"))),
    }
}

async fn blocking<T: Send + 'static>(
    patience: Duration,
    what: impl Into<String>,
    work: impl FnOnce() -> gantry_runtime::Result<T> + Send + 'static,
) -> Result<T> {
    let what = what.into();
    match tokio::time::timeout(patience, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done.map_err(|why| Error::from(why).within(what)),
        Ok(Err(why)) => Err(Error::internal(format!("{what}: {why}"))),
        Err(_) => {
            let seconds = patience.as_secs();
            Err(Error::new(Kind::Timeout, format!("{what}: the monitor gave no answer in {seconds} s")))
        }
    }
}

/// Tells when a connection has something to read, by a descriptor of its own.
fn watch(connection: BorrowedFd<'_>) -> Result<AsyncFd<OwnedFd>> {
    let copy = connection.try_clone_to_owned().context(|| "watch the monitor's connection")?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe for the sake of types that close their descriptor early; OwnedFd does not"
    )]
    AsyncFd::with_interest(copy, Interest::READABLE).context(|| "watch the monitor's connection")
}

/// A process that was started in a running container. Dropping it before its end kills it: its client has gone, and
/// nobody else will ever read what it writes. One that had a terminal gets the time to heed the hang-up.
#[derive(Debug)]
pub struct Exec {
    owned: Owned,
    ready: AsyncFd<OwnedFd>,
    /// Master of its terminal, where it has one.
    pub terminal: Option<OwnedFd>,
}

/// How long a process whose terminal has hung up may take to leave by itself.
const HANG_UP: Duration = Duration::from_secs(5);

/// A process whose end is somebody's business.
#[derive(Debug)]
struct Owned {
    /// Until it has ended.
    running: Option<Running>,
    patience: Duration,
}

impl Owned {
    fn new(running: Running) -> Self {
        let patience = if running.terminal.is_some() { HANG_UP } else { Duration::ZERO };
        Self { running: Some(running), patience }
    }

    fn running(&mut self) -> Result<&mut Running> {
        self.running.as_mut().ok_or_else(|| Error::internal("the exec has ended already"))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let patience = self.patience;
        let mut end = move || match running.wait_for(Some(patience)) {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                if let Err(why) = kill(&running) {
                    tracing::warn!(pid = running.pid, %why, "a process whose client has gone could not be killed");
                }
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(end)),
            Err(_) => end(),
        }
    }
}

/// Kills it. One that has ended, or whose monitor has, is no error.
fn kill(running: &Running) -> Result<()> {
    match running.kill(libc::SIGKILL) {
        Err(why) if why.kind() == gantry_runtime::Kind::NotFound => Ok(()),
        other => Ok(other?),
    }
}

impl Exec {
    /// Waits for its end; may be dropped and called again until it has given that.
    pub async fn ended(&mut self) -> Result<Exit> {
        loop {
            let mut ready = self.ready.readable().await.context(|| "wait for the exec")?;
            // Readable means that the answer is there or that the monitor is gone; both are read without a wait.
            if let Some(exit) = self.owned.running()?.wait_for(Some(Duration::ZERO))? {
                self.owned.running = None;
                return Ok(exit);
            }
            ready.clear_ready();
        }
    }

    /// Kills it. One that has ended is no error.
    pub fn kill(&self) -> Result<()> {
        self.owned.running.as_ref().map_or(Ok(()), kill)
    }
}

/// Streams that are connected to a container; dropping it disconnects them.
#[derive(Debug)]
pub struct Attachment {
    attached: Attached,
    ready: AsyncFd<OwnedFd>,
}

impl Attachment {
    /// Waits until the container's output has ended, or for the reason why it is no longer fed.
    pub async fn ended(self) -> Result<Option<String>> {
        self.ready.readable().await.context(|| "wait for the attached streams")?.retain_ready();
        Ok(self.attached.wait()?)
    }
}

/// What happens in one pod, as it happens.
#[derive(Debug)]
pub struct Events {
    stream: UnixStream,
    bytes: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the monitor has ended.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        match self.reply().await? {
            None => Ok(None),
            Some(Reply::Event(event)) => Ok(Some(event)),
            Some(other) => Err(Error::internal(format!("the monitor sent {other:?} in place of an event"))),
        }
    }

    async fn reply(&mut self) -> Result<Option<Reply>> {
        loop {
            if let Some(length) = protocol::length(&self.bytes)?
                && let Some(text) = self.bytes.get(4..4 + length)
            {
                let reply: Reply = serde_json::from_slice(text).context(|| "read the monitor's event")?;
                self.bytes.drain(..4 + length);
                return Ok(Some(reply.into_result()?));
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(why) if why.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(why) => return Err(why).context(|| "read the monitor's events"),
            }
        }
    }
}
