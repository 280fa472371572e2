//! Exec, attach and port-forward: which descriptors a process gets, and who copies between them and a client.
//!
//! A process in a container gets pipes (or a terminal) of its own; the daemon holds the other ends. Nothing of a stream
//! goes through the monitor, so a slow client stalls itself only.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use gantry_runtime::sys::tty;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::containers;
use crate::convert::exec_process;
use crate::error::{Context, Error, Kind, Result};
use crate::monitor::{Ends, Exec};
use crate::node::{Container, Node, Pod};
use crate::streaming::{PortForward, Session, Stdio, Streams, TerminalSize};

/// How much an ExecSync keeps of both outputs together: with it the answer fits into a gRPC message of 16 MiB.
const MOST_OUTPUT: usize = (16 << 20) - (64 << 10);

/// How long output is still read after the process has ended, when something else holds its pipes open.
const DRAIN: Duration = Duration::from_secs(1);

/// What an ExecSync gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the process wrote to standard output, as far as it was kept.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, as far as it was kept.
    pub stderr: Vec<u8>,
    /// Its exit code.
    pub code: i32,
}

/// Runs a command in a running container and waits for its end.
///
/// # Errors
/// [`Kind::Timeout`] when it takes longer than `patience`: it has been killed then.
pub async fn exec_sync(node: &Arc<Node>, id: &str, cmd: &[String], patience: Option<Duration>) -> Result<Outcome> {
    let container = containers::running(node, id)?;
    let process = exec_process(&containers::spec(node, &container).await?, cmd, false)?;
    let (out, out_end) = pipe()?;
    let (err, err_end) = pipe()?;
    let ends = Ends { stdin: None, stdout: Some(out_end), stderr: Some(err_end) };
    let mut exec = container.pod.monitor.exec(&container.id, process, ends).await?;
    let mut output = Output::new(out, err)?;
    let all = async {
        let exit = tokio::select! {
            exit = exec.ended() => exit?,
            // Ends only when the process has closed both; then there is its end to wait for.
            () = output.read() => exec.ended().await?,
        };
        let _ = tokio::time::timeout(DRAIN, output.read()).await;
        Ok::<i32, Error>(exit.code)
    };
    let ended = match patience {
        None => Ok(all.await),
        Some(patience) => tokio::time::timeout(patience, all).await,
    };
    match ended {
        Ok(code) => Ok(Outcome { code: code?, stdout: output.kept.0, stderr: output.kept.1 }),
        Err(_) => {
            exec.kill()?;
            let what = format!("exec in container {}: {cmd:?} timed out and was killed", container.id);
            Err(Error::new(Kind::Timeout, what))
        }
    }
}

/// Two pipes that are read to their end, and what is kept of them.
struct Output {
    out: Option<Receiver>,
    err: Option<Receiver>,
    kept: (Vec<u8>, Vec<u8>),
}

impl Output {
    fn new(out: OwnedFd, err: OwnedFd) -> Result<Self> {
        let receiver = |fd| Receiver::from_owned_fd(fd).context(|| "read from a pipe");
        Ok(Self { out: Some(receiver(out)?), err: Some(receiver(err)?), kept: Default::default() })
    }

    /// Reads until both have ended. May be dropped and called again: nothing is lost in between.
    async fn read(&mut self) {
        let (mut one, mut other) = ([0; 16384], [0; 16384]);
        while self.out.is_some() || self.err.is_some() {
            tokio::select! {
                got = next(self.out.as_mut(), &mut one), if self.out.is_some() => match got {
                    0 => self.out = None,
                    got => keep(&mut self.kept.0, self.kept.1.len(), &one[..got]),
                },
                got = next(self.err.as_mut(), &mut other), if self.err.is_some() => match got {
                    0 => self.err = None,
                    got => keep(&mut self.kept.1, self.kept.0.len(), &other[..got]),
                },
            }
        }
    }
}

/// How many bytes came; 0 for the end and for a pipe that fails.
async fn next(pipe: Option<&mut Receiver>, chunk: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(chunk).await.unwrap_or(0),
        None => 0,
    }
}

/// Keeps as much as there is room for; the rest is read and dropped, so that the writer does not wait for ever.
fn keep(kept: &mut Vec<u8>, elsewhere: usize, more: &[u8]) {
    let room = MOST_OUTPUT.saturating_sub(kept.len() + elsewhere);
    kept.extend_from_slice(&more[..more.len().min(room)]);
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).context(|| "make a pipe")
}

/// The URL at which a client finds the streams of a command in a running container.
pub fn exec_url(node: &Arc<Node>, id: &str, cmd: Vec<String>, streams: Streams) -> Result<String> {
    let container = containers::running(node, id)?;
    if cmd.is_empty() {
        return Err(Error::new(Kind::Invalid, "cmd: must not be empty"));
    }
    let owned = Arc::clone(node);
    node.streaming.exec_url(streams, move |session| async move {
        let process = exec_process(&containers::spec(&owned, &container).await?, &cmd, streams.tty)?;
        match streams.tty {
            true => on_terminal(&container, process, session).await,
            false => on_pipes(&container, process, session).await,
        }
    })
}

async fn on_pipes(container: &Container, process: serde_json::Value, session: Session) -> Result<i32> {
    let (ours, theirs) = pipes(&session)?;
    let mut exec = container.pod.monitor.exec(&container.id, process, theirs).await?;
    session.pump(ours, async move { Ok(exec.ended().await?.code) }).await
}

async fn on_terminal(container: &Container, process: serde_json::Value, mut session: Session) -> Result<i32> {
    let mut exec: Exec = container.pod.monitor.exec(&container.id, process, Ends::default()).await?;
    let terminal = exec.terminal.take().ok_or_else(|| Error::internal("the monitor gave no terminal"))?;
    let copy = |wanted: bool| wanted.then(|| terminal.try_clone()).transpose().context(|| "copy the terminal");
    let stdio = Stdio { stdin: copy(session.stdin.is_some())?, stdout: copy(session.stdout.is_some())?, stderr: None };
    let mut sizes = take_sizes(&mut session);
    let resizing = async move {
        while let Some(size) = sizes.recv().await {
            let _ = tty::resize(terminal.as_fd(), size.height, size.width);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        code = session.pump(stdio, async move { Ok(exec.ended().await?.code) }) => code,
        () = resizing => Err(Error::internal("resizing ended")),
    }
}

/// The URL at which a client finds the streams of a container's main process.
pub fn attach_url(node: &Arc<Node>, id: &str, streams: Streams) -> Result<String> {
    let container = containers::running(node, id)?;
    let config = &container.record.get().config;
    if streams.tty != config.tty {
        return Err(Error::new(Kind::Invalid, "tty: must be as the container was made"));
    }
    let streams = Streams { stdin: streams.stdin && config.stdin, ..streams };
    node.streaming.attach_url(streams, move |mut session| async move {
        let (ours, theirs) = pipes(&session)?;
        let attached = container.pod.monitor.attach(&container.id, theirs).await?;
        let mut sizes = take_sizes(&mut session);
        let pod = Arc::clone(&container.pod);
        let resizing = async move {
            while let Some(size) = sizes.recv().await {
                let _ = pod.monitor.resize(&container.id, size.width, size.height).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            code = session.pump(ours, async move { attached.ended().await.map(|_| 0) }) => code,
            () = resizing => Err(Error::internal("resizing ended")),
        }
    })
}

/// The URL at which a client reaches ports of a pod.
pub fn port_forward_url(node: &Node, pod: &Pod, ports: &[i32]) -> Result<String> {
    let record = crate::pods::ready(pod)?;
    let port = |port: &i32| match u16::try_from(*port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Error::new(Kind::Invalid, format!("port: {port} is not a port"))),
    };
    let ports = ports.iter().map(port).collect::<Result<_>>()?;
    let netns = (!record.host_network()).then(|| pod.netns.join("net"));
    node.streaming.port_forward_url(PortForward { netns, ports })
}

fn take_sizes(session: &mut Session) -> tokio::sync::mpsc::Receiver<TerminalSize> {
    std::mem::replace(&mut session.resize, tokio::sync::mpsc::channel(1).1)
}

/// A pipe for each stream that the client has: our ends, and those of the process.
fn pipes(session: &Session) -> Result<(Stdio, Ends)> {
    let (mut ours, mut theirs) = (Stdio::default(), Ends::default());
    if session.stdin.is_some() {
        let (read, write) = pipe()?;
        (ours.stdin, theirs.stdin) = (Some(write), Some(read));
    }
    if session.stdout.is_some() {
        let (read, write) = pipe()?;
        (ours.stdout, theirs.stdout) = (Some(read), Some(write));
    }
    if session.stderr.is_some() {
        let (read, write) = pipe()?;
        (ours.stderr, theirs.stderr) = (Some(read), Some(write));
    }
    Ok((ours, theirs))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn both_outputs_are_read_to_their_end() {
        let (out, out_end) = pipe().unwrap();
        let (err, err_end) = pipe().unwrap();
        let mut output = Output::new(out, err).unwrap();
        std::thread::spawn(move || {
            File::from(out_end).write_all(&vec![b'o'; 200_000]).unwrap();
            File::from(err_end).write_all(b"e").unwrap();
        });
        output.read().await;
        assert_eq!((output.kept.0.len(), output.kept.1.as_slice()), (200_000, &b"e"[..]));
    }

    #[test]
    fn case_15_output_beyond_the_limit_is_dropped() {
        let mut kept = vec![0; MOST_OUTPUT - 10];
        keep(&mut kept, 4, &[1; 100]);
        assert_eq!(kept.len(), MOST_OUTPUT - 4);
        keep(&mut kept, 4, &[1; 100]);
        assert_eq!(kept.len(), MOST_OUTPUT - 4);
    }
}
