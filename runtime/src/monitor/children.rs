//! A container as its monitor holds it: process, streams, log and attached clients.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{read, write};

use super::attach::{Attachment, Taken};
use super::clock;
use super::log_file::LogFile;
use super::output::{Lines, Stream};
use super::protocol::{ContainerState, Exit, Status};
use crate::Created;
use crate::cgroup::{Cgroup, OomWatch};
use crate::error::{Context, Result};

/// One container that was created and not deleted.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// Until it is started: what tells whether its program could be executed.
    pub(super) waits: Option<Created>,
    pub(super) status: Status,
    pub(super) created_at: i64,
    pub(super) started_at: i64,
    pub(super) exit: Option<Exit>,
    /// Whether `exit` still has to be written down: the disk was full when it was due.
    pub(super) unrecorded: bool,
    pub(super) tty: bool,
    /// Whether its first process is the first of a PID namespace, whose end ends all others.
    pub(super) own_pids: bool,
    pub(super) log: Option<LogFile>,
    pub(super) outputs: [Option<Output>; 2],
    pub(super) input: Input,
    pub(super) attachments: Vec<Attachment>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) oom: Option<OomWatch>,
    pub(super) oom_kills: u64,
}

/// One stream that the container writes to.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    pub(super) lines: Lines,
}

/// What the container reads.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// A pipe, or the terminal's master; `None` is closed or `/dev/null`.
    pub(super) fd: Option<OwnedFd>,
    /// What an attached client sent and the pipe did not take yet.
    pub(super) waiting: Vec<u8>,
    /// It ends with the first client that attaches to it.
    pub(super) once: bool,
    /// To be closed as soon as nothing waits.
    pub(super) ending: bool,
}

/// Memory for reading and formatting, shared by all containers and given back when nothing has come for a while.
#[derive(Debug)]
pub(super) struct Buffers {
    input: Vec<u8>,
    log: Vec<u8>,
}

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// How much of a client's input is taken at once; as much may wait for the container.
const INPUT_CHUNK: usize = 4 << 10;

impl Default for Buffers {
    fn default() -> Self {
        Self { input: vec![0; CHUNK], log: Vec::with_capacity(3 * CHUNK) }
    }
}

/// A client whose attachment is to end, and why.
pub(super) type Detached = (u32, Option<String>);

impl Container {
    /// As clients see it.
    pub(super) fn state(&self) -> ContainerState {
        ContainerState {
            id: self.id.clone(),
            pid: self.pid,
            status: self.status,
            created_at: self.created_at,
            started_at: self.started_at,
            exit: self.exit,
        }
    }

    /// Reads up to `most` bytes of a stream into the log and to attached clients. Returns how many it was; a stream
    /// that has ended is closed.
    pub(super) fn drain(
        &mut self,
        stream: Stream,
        most: usize,
        buffers: &mut Buffers,
        detached: &mut Vec<Detached>,
    ) -> usize {
        let mut total = 0;
        while total < most {
            let Some(output) = &mut self.outputs[stream.index()] else { break };
            match read(&output.fd, &mut buffers.input) {
                Ok(count) if count > 0 => {
                    total += count;
                    let bytes = &buffers.input[..count];
                    output.lines.format(bytes, &clock::stamp(clock::now()), &mut buffers.log);
                    write_log(&mut self.log, &mut buffers.log);
                    copy(&mut self.attachments, stream, bytes, detached);
                    if count < buffers.input.len() {
                        break;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                // The end; a terminal tells it with EIO.
                Ok(_) | Err(_) => {
                    self.finish_line(stream, buffers);
                    self.outputs[stream.index()] = None;
                }
            }
        }
        total
    }

    /// Reads all that is there, after the process has ended; processes that it left behind may still hold the pipe, so
    /// the end of the stream may never come, and no more than any pipe holds is taken.
    pub(super) fn drain_rest(&mut self, buffers: &mut Buffers, detached: &mut Vec<Detached>) {
        const MOST: usize = 2 << 20;
        for stream in Stream::BOTH {
            let mut total = 0;
            while total < MOST {
                match self.drain(stream, CHUNK, buffers, detached) {
                    0 => break,
                    count => total += count,
                }
            }
            self.finish_line(stream, buffers);
        }
    }

    /// Writes out a line that has not ended.
    fn finish_line(&mut self, stream: Stream, buffers: &mut Buffers) {
        if let Some(output) = &mut self.outputs[stream.index()] {
            output.lines.finish(&clock::stamp(clock::now()), &mut buffers.log);
            write_log(&mut self.log, &mut buffers.log);
        }
    }

    /// Ends what the first process left behind: without a PID namespace of its own the kernel does not.
    pub(super) fn end_the_rest(&self) -> Result<()> {
        match &self.cgroup {
            Some(cgroup) if !self.own_pids => cgroup.kill_all(),
            _ => Ok(()),
        }
    }

    /// Whether the log lacks something that it does not tell of yet.
    pub(super) fn owes_log(&self) -> bool {
        self.log.as_ref().is_some_and(|log| !log.is_whole())
    }

    /// Goes on in a new log file.
    pub(super) fn reopen_log(&mut self) -> Result<()> {
        match &mut self.log {
            Some(log) => log.reopen(),
            None => Ok(()),
        }
    }

    /// Takes what an attached client has to say, if the container has taken what came before.
    pub(super) fn take_input(&mut self, attachment: u32) {
        let Some(client) = self.attachments.iter_mut().find(|client| client.key == attachment) else { return };
        let Some(from) = &client.stdin else { return };
        let mut chunk = [0; INPUT_CHUNK];
        match read(from, &mut chunk) {
            Ok(count) if count > 0 => {
                if self.input.fd.is_some() {
                    self.input.waiting.extend_from_slice(&chunk[..count]);
                    self.input.flush();
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(_) | Err(_) => {
                client.stdin = None;
                self.input.client_has_left(self.tty);
            }
        }
    }

    /// A client's connection is gone: so is its attachment.
    pub(super) fn detach(&mut self, connection: u32) {
        let had_input = self.attachments.iter().any(|client| client.connection == connection && client.stdin.is_some());
        self.attachments.retain(|client| client.connection != connection);
        if had_input {
            self.input.client_has_left(self.tty);
        }
    }

    /// Writes what waits for a client; `Some` ends its attachment.
    pub(super) fn flush_client(&mut self, attachment: u32, stream: Stream) -> Option<Detached> {
        let client = self.attachments.iter_mut().find(|client| client.key == attachment)?;
        let sink = client.sinks[stream.index()].as_mut()?;
        match sink.flush() {
            Taken::Yes => None,
            Taken::TooSlow | Taken::Gone => Some((client.connection, None)),
        }
    }

    /// The clients that have got everything there is: the container has ended, or has closed both of its outputs and
    /// the client has nothing to say to it.
    pub(super) fn served(&self) -> Vec<Detached> {
        let silent = self.outputs.iter().all(Option::is_none);
        let over = |client: &Attachment| self.exit.is_some() || (silent && client.stdin.is_none());
        let waits = |client: &Attachment| client.sinks.iter().flatten().any(|sink| sink.is_waiting());
        let served = self.attachments.iter().filter(|client| over(client) && !waits(client));
        served.map(|client| (client.connection, None)).collect()
    }

    /// The kernel has killed in the container since the last look.
    pub(super) fn oom_happened(&mut self) -> bool {
        if self.oom.as_ref().is_some_and(|watch| !watch.seen()) {
            self.oom = None;
        }
        let kills = self.cgroup.as_ref().map_or(0, Cgroup::oom_kills);
        let more = kills > self.oom_kills;
        self.oom_kills = self.oom_kills.max(kills);
        more
    }

    /// Sets the terminal's size, in characters.
    pub(super) fn resize(&self, width: u16, height: u16) -> Result<()> {
        let terminal: Option<BorrowedFd<'_>> = self.outputs[0].as_ref().map(|output| output.fd.as_fd());
        match terminal {
            Some(terminal) => crate::sys::tty::resize(terminal, height, width).context(|| "resize the terminal"),
            None => Ok(()),
        }
    }
}

impl Input {
    /// Writes what waits, as much as is taken now.
    pub(super) fn flush(&mut self) {
        while let Some(fd) = &self.fd
            && !self.waiting.is_empty()
        {
            match write(fd, &self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // The container does not read any more.
                Err(_) => self.fd = None,
            }
        }
        self.waiting = Vec::new();
        if self.ending {
            self.fd = None;
        }
    }

    /// Closes it, once the container has read what is on its way.
    pub(super) fn end(&mut self) {
        self.ending = true;
        self.flush();
    }

    fn client_has_left(&mut self, tty: bool) {
        // A terminal has no end to be closed on its own.
        if self.once && !tty {
            self.end();
        }
    }
}

fn write_log(log: &mut Option<LogFile>, lines: &mut Vec<u8>) {
    if let Some(log) = log
        && !lines.is_empty()
    {
        log.write(lines);
    }
    lines.clear();
}

fn copy(attachments: &mut [Attachment], stream: Stream, bytes: &[u8], detached: &mut Vec<Detached>) {
    for client in attachments {
        let Some(sink) = &mut client.sinks[stream.index()] else { continue };
        match sink.give(bytes) {
            Taken::Yes => {}
            Taken::Gone => detached.push((client.connection, None)),
            Taken::TooSlow => {
                let why = format!("the client is more than {} KiB behind", super::attach::MOST_LAG >> 10);
                detached.push((client.connection, Some(why)));
            }
        }
    }
}
