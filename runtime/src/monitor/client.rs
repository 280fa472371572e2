//! The monitor's client: small, blocking, one connection a call, so that calls from several threads run side by side.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::Process;
use serde::de::DeserializeOwned;

use super::daemon::lives;
use super::protocol::{Attach, Create, Event, Exec, Exit, Hello, Reply, Request, State, VERSION, encode, length};
use super::{SOCKET, exit_path};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::rights;

/// One pod's monitor, by its directory. Cheap to make and to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct Client {
    dir: PathBuf,
}

/// Standard streams of a process, each where it is given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streams<'a> {
    /// Where it reads.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Where it writes.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Where it complains.
    pub stderr: Option<BorrowedFd<'a>>,
}

impl<'a> Streams<'a> {
    fn given(&self) -> ([bool; 3], Vec<BorrowedFd<'a>>) {
        let all = [self.stdin, self.stdout, self.stderr];
        (all.map(|fd| fd.is_some()), all.into_iter().flatten().collect())
    }
}

impl Client {
    /// The monitor of `dir`, if one answers there.
    ///
    /// # Errors
    /// `NotFound` if none does: it never was, it has left, or it was killed. The records of exits stay readable
    /// ([`exit_record`]).
    pub fn connect(dir: impl Into<PathBuf>) -> Result<Self> {
        let client = Self { dir: dir.into() };
        client.dial().map(|_| client)
    }

    /// The pod's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a container; it waits for [`Client::start`]. Returns the pid of its first process.
    ///
    /// # Errors
    /// The runtime's: `Invalid`, `Exists`, `Unsupported`, `Program`, `System`. Nothing is left behind then.
    pub fn create(&self, create: &Create) -> Result<i32> {
        match self.call(&Request::Create(create.clone()))? {
            Reply::Created { pid } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs the container's program.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `Program` (not there, not executable), `System`.
    pub fn start(&self, id: &str) -> Result<()> {
        self.done(&Request::Start { id: id.to_owned() })
    }

    /// Sends a signal to the first process, or to all.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` if it has ended.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        self.done(&Request::Kill { id: id.to_owned(), signal, all })
    }

    /// Removes an exited container (with `force` a running one too) from the runtime.
    ///
    /// # Errors
    /// `WrongState` if it runs; `NotFound` without `force`.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        self.done(&Request::Delete { id: id.to_owned(), force })
    }

    /// Every container with its status and exit.
    ///
    /// # Errors
    /// `NotFound` if the monitor is gone.
    pub fn state(&self) -> Result<State> {
        match self.call(&Request::State)? {
            Reply::State(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs a further process with the caller's descriptors as its streams (not copied: give it pipes or files). With
    /// `terminal: true` in `process` the streams have to be empty and [`Running::terminal`] is the master.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `Program`, `System`.
    pub fn exec(&self, id: &str, process: &Process, streams: Streams<'_>) -> Result<Running> {
        let (given, fds) = streams.given();
        let request = Request::Exec(Box::new(Exec { id: id.to_owned(), process: process.clone(), streams: given }));
        let mut connection = self.open(&request, &fds)?;
        match connection.reply()? {
            Reply::Started { pid } => {
                let terminal = connection.fds.pop();
                Ok(Running { pid, id: id.to_owned(), terminal, client: self.clone(), connection })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Connects pipes or sockets to the container's main process. Its log is written all the same.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` if it has ended.
    pub fn attach(&self, id: &str, streams: Streams<'_>) -> Result<Attached> {
        let (given, fds) = streams.given();
        let request = Request::Attach(Attach { id: id.to_owned(), streams: given });
        let mut connection = self.open(&request, &fds)?;
        match connection.reply()? {
            Reply::Done => Ok(Attached { connection }),
            other => Err(unexpected(&other)),
        }
    }

    /// Sets the size of a container's terminal, in characters.
    ///
    /// # Errors
    /// `NotFound`; `WrongState` if it has no terminal.
    pub fn resize(&self, id: &str, width: u16, height: u16) -> Result<()> {
        self.done(&Request::Resize { id: id.to_owned(), width, height })
    }

    /// Opens the container's log by its path again: call it after renaming the file. Lines up to the call are in the
    /// old file, whole, and later ones in the new.
    ///
    /// # Errors
    /// `NotFound`; `System` if the file cannot be opened: the old one is then kept.
    pub fn reopen_log(&self, id: &str) -> Result<()> {
        self.done(&Request::ReopenLog { id: id.to_owned() })
    }

    /// Ends the container's standard input.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn close_stdin(&self, id: &str) -> Result<()> {
        self.done(&Request::CloseStdin { id: id.to_owned() })
    }

    /// The pid of the process that holds the pod's shared PID namespace, started if it was not.
    ///
    /// # Errors
    /// `System`, if it cannot be cloned or put into the cgroup.
    pub fn pause(&self, cgroup: Option<&Path>) -> Result<i32> {
        match self.call(&Request::Pause { cgroup: cgroup.map(Path::to_owned) })? {
            Reply::Started { pid } => Ok(pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Events from now on. To miss none, subscribe first and ask for the state after.
    ///
    /// # Errors
    /// `NotFound` if the monitor is gone.
    pub fn subscribe(&self) -> Result<Events> {
        let mut connection = self.open(&Request::Subscribe, &[])?;
        match connection.reply()? {
            Reply::Done => Ok(Events { connection }),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the monitor and returns once its socket is closed.
    ///
    /// # Errors
    /// `WrongState` while a container runs.
    pub fn shutdown(&self) -> Result<()> {
        let mut connection = self.open(&Request::Shutdown, &[])?;
        match connection.reply()? {
            Reply::Done => connection.until_closed(),
            other => Err(unexpected(&other)),
        }
    }

    fn done(&self, request: &Request) -> Result<()> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn call(&self, request: &Request) -> Result<Reply> {
        self.open(request, &[])?.reply()
    }

    fn open(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Connection> {
        let mut connection = self.dial()?;
        let bytes = encode(&Hello { version: VERSION, request: request.clone() });
        connection.send(&bytes, fds).context(|| format!("ask the monitor of {}", self.dir.display()))?;
        Ok(connection)
    }

    fn dial(&self) -> Result<Connection> {
        let path = self.dir.join(SOCKET);
        if !lives(&self.dir) {
            return Err(Error::new(Kind::NotFound, format!("no monitor lives in {}", self.dir.display())));
        }
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Connection { stream, bytes: Vec::new(), fds: Vec::new() }),
            Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                let what = format!("no monitor answers on {}", path.display());
                Err(Error::new(Kind::NotFound, what))
            }
            Err(why) => Err(why).context(|| format!("connect to {}", path.display())),
        }
    }
}

/// A process that [`Client::exec`] started. Dropping it does not end the process.
#[derive(Debug)]
pub struct Running {
    /// Process id on the host.
    pub pid: i32,
    /// Master of its terminal, if it has one: read, write and resize it (`sys::tty::resize`) directly.
    pub terminal: Option<OwnedFd>,
    id: String,
    client: Client,
    connection: Connection,
}

impl Running {
    /// Waits until it has ended.
    ///
    /// # Errors
    /// `System`, if the monitor goes before.
    pub fn wait(mut self) -> Result<Exit> {
        self.wait_for(None)?.ok_or_else(|| Error::new(Kind::System, "the wait ended without an exit"))
    }

    /// Waits at most so long; `None` is that it still runs (see [`Running::kill`]).
    ///
    /// # Errors
    /// `System`, if the monitor goes before.
    pub fn wait_for(&mut self, patience: Option<Duration>) -> Result<Option<Exit>> {
        if !self.connection.ready(patience)? {
            return Ok(None);
        }
        match self.connection.reply()? {
            Reply::Exited(exit) => Ok(Some(exit)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `NotFound` once it has ended.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.client.done(&Request::KillExec { id: self.id.clone(), pid: self.pid, signal })
    }
}

impl AsFd for Running {
    /// Readable once it has ended, for callers with a loop of their own.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream.as_fd()
    }
}

/// An attachment; dropping it detaches.
#[derive(Debug)]
pub struct Attached {
    connection: Connection,
}

impl Attached {
    /// Waits until the container's output has ended. `Some` is the reason of another end: this client read too slowly.
    ///
    /// # Errors
    /// `System`, if the monitor goes before.
    pub fn wait(mut self) -> Result<Option<String>> {
        match self.connection.reply()? {
            Reply::Detached { reason } => Ok(reason),
            other => Err(unexpected(&other)),
        }
    }
}

impl AsFd for Attached {
    /// Readable once it is detached.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream.as_fd()
    }
}

/// Events of one monitor, in order; the end of the iteration is the end of the monitor.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.connection.message::<Reply>() {
            Ok(None) => None,
            Ok(Some(Reply::Event(event))) => Some(Ok(event)),
            Ok(Some(other)) => Some(Err(unexpected(&other))),
            Err(why) => Some(Err(why)),
        }
    }
}

impl AsFd for Events {
    /// Readable when an event or the end is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream.as_fd()
    }
}

/// The record of a container's exit, also when no monitor lives any more; `None` if it has not ended (or its monitor
/// was killed before it did).
///
/// # Errors
/// `System` for a record that cannot be read.
pub fn exit_record(dir: &Path, id: &str) -> Result<Option<Exit>> {
    let path = exit_path(dir, id);
    let text = match fs::read(&path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.context(|| format!("read {}", path.display()))?,
    };
    let record = serde_json::from_slice(&text);
    record.map(Some).map_err(|why| Error::new(Kind::System, format!("read {}: {why}", path.display())))
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Connection {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), crate::sys::Errno> {
        let mut sent = rights::send(self.stream.as_fd(), bytes, fds)?;
        while sent < bytes.len() {
            sent += rights::send(self.stream.as_fd(), &bytes[sent..], &[])?;
        }
        Ok(())
    }

    /// The next reply, an error if it is one or if there is none.
    fn reply(&mut self) -> Result<Reply> {
        let reply = self.message::<Reply>()?;
        reply
            .ok_or_else(|| Error::new(Kind::System, "the monitor closed the connection without an answer"))?
            .into_result()
    }

    fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(length) = length(&self.bytes)?
                && self.bytes.len() >= 4 + length
            {
                let message = serde_json::from_slice(&self.bytes[4..4 + length]);
                self.bytes.drain(..4 + length);
                return message
                    .map(Some)
                    .map_err(|why| Error::new(Kind::System, format!("read the monitor's answer: {why}")));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> Result<bool> {
        let mut chunk = [0; 4096];
        let got = rights::receive(self.stream.as_fd(), &mut chunk, &mut self.fds);
        match got {
            // The monitor was killed with an answer of ours unread.
            Err(errno) if errno.raw() == libc::ECONNRESET => Ok(false),
            got => {
                let got = got.context(|| "read the monitor's answer")?;
                self.bytes.extend_from_slice(&chunk[..got]);
                Ok(got > 0)
            }
        }
    }

    fn ready(&self, patience: Option<Duration>) -> Result<bool> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let timeout = match patience {
            None => PollTimeout::NONE,
            Some(patience) => PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX),
        };
        loop {
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(Error::system("wait for the monitor", errno.into())),
                Ok(count) => return Ok(count > 0),
            }
        }
    }

    fn until_closed(&mut self) -> Result<()> {
        while self.fill()? {}
        Ok(())
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::new(Kind::System, format!("the monitor's answer does not fit the question: {reply:?}"))
}
