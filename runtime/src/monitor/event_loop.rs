//! The monitor's loop: one thread, one `poll`, everything else is a reaction.
//!
//! ```text
//! interests (what each part waits for) -> poll -> for each that is ready: react -> sweep up
//! ```
//!
//! The list of interests is made anew each time from what there is: a pod has a handful of them, and there is no second
//! place that could disagree.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::children::{Buffers, Container, Detached};
use super::connection::{Connection, Role};
use super::journal::Journal;
use super::log_file::LogFile;
use super::output::Stream;
use super::pause::Pause;
use super::protocol::{Event, Reply};
use crate::cgroup::Layout;
use crate::error::{Context, Error, Result};

/// How much of one stream is read before the others have their turn.
const TURN: usize = 1 << 20;

/// After so long without output the buffers are given back.
const IDLE: Duration = Duration::from_secs(1);

/// Output that comes in small pieces is let gather for so long, so that a line a wake-up becomes a batch a wake-up.
const GATHER: Duration = Duration::from_micros(400);

/// A reading that brought less than this was a small piece.
const SMALL: usize = 8 << 10;

/// More clients at once are not served.
const MOST_CONNECTIONS: usize = 512;

/// Everything that a monitor has in its hands.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) dir: PathBuf,
    pub(super) root: PathBuf,
    pub(super) layout: Layout,
    pub(super) containers: BTreeMap<u32, Container>,
    pub(super) connections: BTreeMap<u32, Connection>,
    pub(super) execs: BTreeMap<i32, Exec>,
    pub(super) pause: Option<Pause>,
    pub(super) journal: Journal,
    /// Set once the monitor is to end.
    pub(super) leaving: bool,
    /// Held for as long as the monitor lives.
    _lock: File,
    listener: UnixListener,
    signals: SignalFd,
    buffers: Option<Buffers>,
    last_key: u32,
    last_output: Option<(Instant, usize)>,
}

/// A process that a client started inside a container.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) container: String,
    /// Who wants to hear of its end, if anybody still does.
    pub(super) connection: u32,
    pub(super) started_at: i64,
}

/// What a ready descriptor belongs to. Keys are never used twice, so one that has gone is found missing, not mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Listener,
    Signals,
    Connection(u32),
    Output(u32, Stream),
    Input(u32),
    ClientInput(u32, u32),
    ClientOutput(u32, u32, Stream),
    Oom(u32),
}

impl Monitor {
    /// A monitor with nothing in its hands yet; `signals` delivers SIGCHLD and SIGTERM.
    pub(super) fn new(
        dir: &Path,
        root: &Path,
        lock: File,
        listener: UnixListener,
        signals: SignalFd,
        journal: Journal,
    ) -> Result<Self> {
        listener.set_nonblocking(true).context(|| "set up the socket")?;
        Ok(Self {
            dir: dir.to_owned(),
            root: root.to_owned(),
            // Without cgroups there are no limits and no OOM flag, but logs and exits all the same.
            layout: Layout::discover().unwrap_or_default(),
            containers: BTreeMap::new(),
            connections: BTreeMap::new(),
            execs: BTreeMap::new(),
            pause: None,
            journal,
            leaving: false,
            _lock: lock,
            listener,
            signals,
            buffers: None,
            last_key: 0,
            last_output: None,
        })
    }

    /// Serves until a client asks for the end.
    pub(super) fn run(&mut self) -> Result<()> {
        while !(self.leaving && self.connections.values().all(|client| !client.is_waiting())) {
            let ready = self.wait()?;
            if ready.is_empty() {
                self.buffers = None;
                self.last_output = None;
            }
            self.let_gather(&ready);
            for (token, flags) in ready {
                self.react(token, flags);
            }
            self.sweep();
        }
        Ok(())
    }

    /// A key that was never used before.
    pub(super) fn new_key(&mut self) -> u32 {
        self.last_key += 1;
        self.last_key
    }

    /// The container of this name, if there is one.
    pub(super) fn find(&mut self, id: &str) -> Option<(u32, &mut Container)> {
        self.containers.iter_mut().find(|(_, container)| container.id == id).map(|(key, container)| (*key, container))
    }

    /// Tells every subscriber.
    pub(super) fn tell(&mut self, event: &Event) {
        let reply = Reply::Event(event.clone());
        let subscribers: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, client)| client.role == Role::Subscriber)
            .map(|(key, _)| *key)
            .collect();
        for key in subscribers {
            self.answer(key, &reply);
        }
    }

    /// Sends a reply; a client that cannot be reached is let go.
    pub(super) fn answer(&mut self, connection: u32, reply: &Reply) {
        let sent = self.connections.get_mut(&connection).map(|client| client.send(reply, None));
        if let Some(Err(why)) = sent {
            self.journal.debug(&why.to_string());
            self.close(connection);
        }
    }

    /// Ends connections of attached clients, with the reason.
    pub(super) fn let_go(&mut self, detached: Vec<Detached>) {
        for (connection, reason) in detached {
            self.answer(connection, &Reply::Detached { reason });
            if let Some(client) = self.connections.get_mut(&connection)
                && let Role::Attached(key) = client.role
            {
                client.role = Role::Answered;
                if let Some(container) = self.containers.get_mut(&key) {
                    container.detach(connection);
                }
            }
        }
    }

    /// Reads all output that is there of a container whose process has ended.
    pub(super) fn drain_rest(&mut self, key: u32) {
        let buffers = self.buffers.get_or_insert_default();
        let mut detached = Vec::new();
        if let Some(container) = self.containers.get_mut(&key) {
            container.drain_rest(buffers, &mut detached);
        }
        self.let_go(detached);
    }

    fn wait(&self) -> Result<Vec<(Token, PollFlags)>> {
        let interests = self.interests();
        let mut fds: Vec<PollFd<'_>> = interests.iter().map(|(_, fd)| fd.clone()).collect();
        let owes = self.containers.values().any(|container| container.unrecorded || container.owes_log());
        let idle = PollTimeout::try_from(IDLE).unwrap_or(PollTimeout::MAX);
        let timeout = if self.buffers.is_some() || owes { idle } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(Error::system("poll", errno.into())),
        }
        let flags = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let both = interests.iter().map(|(token, _)| *token).zip(flags);
        Ok(both.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// What every part waits for.
    pub(super) fn interests(&self) -> Vec<(Token, PollFd<'_>)> {
        let mut list = Vec::with_capacity(16);
        let mut add = |token, fd, flags| list.push((token, PollFd::new(fd, flags)));
        let (input, output) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        add(Token::Signals, self.signals.as_fd(), input);
        if !self.leaving && self.connections.len() < MOST_CONNECTIONS {
            add(Token::Listener, self.listener.as_fd(), input);
        }
        for (key, client) in &self.connections {
            let flags = if client.is_waiting() { input | output } else { input };
            add(Token::Connection(*key), client.as_fd(), flags);
        }
        for (key, container) in &self.containers {
            for stream in Stream::BOTH {
                if let Some(source) = &container.outputs[stream.index()] {
                    add(Token::Output(*key, stream), source.fd.as_fd(), input);
                }
            }
            let waiting = !container.input.waiting.is_empty();
            if let Some(fd) = container.input.fd.as_ref().filter(|_| waiting) {
                add(Token::Input(*key), fd.as_fd(), output);
            }
            if let Some(watch) = &container.oom {
                add(Token::Oom(*key), watch.as_fd(), PollFlags::from_bits_truncate(watch.events()));
            }
            for client in &container.attachments {
                if let Some(fd) = client.stdin.as_ref().filter(|_| !waiting) {
                    add(Token::ClientInput(*key, client.key), fd.as_fd(), input);
                }
                for stream in Stream::BOTH {
                    if let Some(sink) = client.sinks[stream.index()].as_ref().filter(|sink| sink.is_waiting()) {
                        add(Token::ClientOutput(*key, client.key, stream), sink.as_fd(), output);
                    }
                }
            }
        }
        list
    }

    /// Sleeps a moment where output comes often and in small pieces; it costs nobody anything but that moment.
    fn let_gather(&self, ready: &[(Token, PollFlags)]) {
        let only_output = !ready.is_empty() && ready.iter().all(|(token, _)| matches!(token, Token::Output(..)));
        if let Some((at, count)) = self.last_output
            && only_output
            && count < SMALL
            && at.elapsed() < GATHER
        {
            std::thread::sleep(GATHER);
        }
    }

    /// Does what a descriptor's readiness asks for.
    pub(super) fn react(&mut self, token: Token, flags: PollFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.take_signals(),
            Token::Connection(key) => self.serve(key, flags),
            Token::Output(key, stream) => self.read_output(key, stream),
            Token::Input(key) => {
                if let Some(container) = self.containers.get_mut(&key) {
                    container.input.flush();
                }
            }
            Token::ClientInput(key, client) => {
                if let Some(container) = self.containers.get_mut(&key) {
                    container.take_input(client);
                }
            }
            Token::ClientOutput(key, client, stream) => {
                let gone = self.containers.get_mut(&key).and_then(|container| container.flush_client(client, stream));
                self.let_go(gone.into_iter().collect());
            }
            Token::Oom(key) => {
                let Some(container) = self.containers.get_mut(&key) else { return };
                let id = container.id.clone();
                if container.oom_happened() {
                    self.tell(&Event::Oom { id });
                }
            }
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => match Connection::accept(stream) {
                Ok(client) => {
                    let key = self.new_key();
                    self.connections.insert(key, client);
                }
                Err(why) => self.journal.warn(&why.to_string()),
            },
            // It has gone before it was served, or there are no descriptors left: then it is asked again, not at once.
            Err(why) => {
                self.journal.debug(&format!("accept a client: {why}"));
                std::thread::sleep(GATHER);
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo == Signal::SIGTERM as u32 && self.is_unused() {
                self.leaving = true;
            }
        }
        self.reap();
    }

    /// A client has said something, takes more, or has gone.
    fn serve(&mut self, key: u32, flags: PollFlags) {
        let Some(client) = self.connections.get_mut(&key) else { return };
        if flags.contains(PollFlags::POLLOUT)
            && let Err(why) = client.flush()
        {
            self.journal.debug(&why.to_string());
            return self.close(key);
        }
        if !flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        match client.read() {
            Ok(None) => {}
            Ok(Some((request, fds))) => {
                let reply = self.ask(key, request, fds);
                if let Some(reply) = reply {
                    self.answer(key, &reply);
                }
            }
            Err(why) => {
                self.journal.debug(&why.to_string());
                self.answer(key, &Reply::failed(&why));
                self.close(key);
            }
        }
    }

    /// Forgets a client; what it started goes on.
    fn close(&mut self, key: u32) {
        let Some(client) = self.connections.remove(&key) else { return };
        if let Role::Attached(container) = client.role
            && let Some(container) = self.containers.get_mut(&container)
        {
            container.detach(key);
        }
    }

    fn read_output(&mut self, key: u32, stream: Stream) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let buffers = self.buffers.get_or_insert_default();
        let mut detached = Vec::new();
        let count = container.drain(stream, TURN, buffers, &mut detached);
        self.last_output = Some((Instant::now(), count));
        self.let_go(detached);
    }

    /// What remains to be done after any reaction: exits and logs that could not be written, clients that have everything.
    fn sweep(&mut self) {
        self.containers.values_mut().filter_map(|container| container.log.as_mut()).for_each(LogFile::mend);
        let due: Vec<u32> =
            self.containers.iter().filter(|(_, container)| container.unrecorded).map(|(key, _)| *key).collect();
        for key in due {
            self.record(key);
        }
        let served = self.containers.values().filter(|container| !container.attachments.is_empty());
        let served: Vec<Detached> = served.flat_map(Container::served).collect();
        self.let_go(served);
        self.connections.retain(|_, client| !client.is_over());
    }
}
