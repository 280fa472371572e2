//! One client's streams as the work sees them, and the pump between them and a process' file descriptors.

use super::descriptor;
use crate::error::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::future::{Future, pending};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes that wait between the client and the work, each way.
const BUFFER: usize = 64 << 10;
/// After the exit of a process, its output is read until this long passes without any: an orphan of it may hold the
/// pipe open for ever.
const QUIET: Duration = Duration::from_secs(1);

/// Which streams a client asked for (`runtime.v1.ExecRequest`, `AttachRequest`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// The client sends input.
    pub stdin: bool,
    /// The client wants output.
    pub stdout: bool,
    /// The client wants errors apart; not together with `tty`.
    pub stderr: bool,
    /// There is a terminal: sizes arrive in [`Session::resize`].
    pub tty: bool,
}

/// Size of a terminal, in characters. On the wire `{"Width":80,"Height":24}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The streams of one client. Each is bounded (64 KiB): a slow client makes the writer wait.
#[derive(Debug)]
pub struct Session {
    /// To read; end of file when the client closes its input.
    pub stdin: Option<DuplexStream>,
    /// To write; drop it (or shut it down) to end the client's output.
    pub stdout: Option<DuplexStream>,
    /// To write; as `stdout`.
    pub stderr: Option<DuplexStream>,
    /// Terminal sizes; ends with the client.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// The other ends of a [`Session`].
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stdin: Option<DuplexStream>,
    pub(super) stdout: Option<DuplexStream>,
    pub(super) stderr: Option<DuplexStream>,
    pub(super) resize: mpsc::Sender<TerminalSize>,
}

/// A session with these streams.
pub(super) fn pair(streams: Streams) -> (Session, Ends) {
    let stream = |wanted: bool| wanted.then(|| tokio::io::duplex(BUFFER)).unzip();
    let (stdin, to_stdin) = stream(streams.stdin);
    let (stdout, from_stdout) = stream(streams.stdout);
    let (stderr, from_stderr) = stream(streams.stderr);
    let (sizes, resize) = mpsc::channel(8);
    let session = Session { stdin, stdout, stderr, resize };
    let ends = Ends { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr, resize: sizes };
    (session, ends)
}

/// Our ends of a process' standard streams: pipes, sockets, or (stdin and stdout alike) a terminal's master. They are
/// made non-blocking, which holds for every duplicate of them too; regular files are refused.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Write end of the process' input; closed when the client ends its input.
    pub stdin: Option<OwnedFd>,
    /// Read end of the process' output.
    pub stdout: Option<OwnedFd>,
    /// Read end of the process' errors.
    pub stderr: Option<OwnedFd>,
}

impl Session {
    /// Takes the terminal sizes out, for whoever passes them on while [`pump`](Self::pump) has the rest.
    pub fn take_resize(&mut self) -> mpsc::Receiver<TerminalSize> {
        std::mem::replace(&mut self.resize, mpsc::channel(1).1)
    }

    /// Copies between the client and a process until `exit` gives the exit code and the output has been read to its end
    /// (or, where an orphan holds the pipe open, until a second passes without output). Then gives that code.
    ///
    /// # Errors
    /// That of `exit`, or a descriptor that cannot be polled or read.
    pub async fn pump(self, stdio: Stdio, exit: impl Future<Output = Result<i32>> + Send) -> Result<i32> {
        let exited = CancellationToken::new();
        let (input, outputs) = self.join(stdio, exited.clone())?;
        let code = async {
            let code = exit.await?;
            exited.cancel();
            Ok(code)
        };
        let input = async {
            input.await;
            pending().await
        };
        tokio::select! {
            outcome = async { tokio::try_join!(outputs, code) } => outcome.map(|((), code)| code),
            outcome = input => outcome,
        }
    }

    /// As [`pump`](Self::pump) where nobody waits for the process (attach): until its output ends, or, for a client
    /// that wants no output, its input.
    ///
    /// # Errors
    /// For a descriptor that cannot be polled or read.
    pub async fn pump_output(self, stdio: Stdio) -> Result<()> {
        let silent = self.stdout.is_none() && self.stderr.is_none();
        let (input, outputs) = self.join(stdio, CancellationToken::new())?;
        let input = async {
            input.await;
            if silent { Ok(()) } else { pending().await }
        };
        let outputs = async {
            outputs.await?;
            if silent { pending().await } else { Ok(()) }
        };
        tokio::select! {
            outcome = outputs => outcome,
            outcome = input => outcome,
        }
    }

    fn join(
        self,
        stdio: Stdio,
        exited: CancellationToken,
    ) -> Result<(impl Future<Output = ()> + Send, impl Future<Output = Result<()>> + Send)> {
        let stdin = stdio.stdin.map(descriptor::writer).transpose()?;
        let read = |fd: Option<OwnedFd>| fd.map(descriptor::reader).transpose();
        let (stdout, stderr) = (read(stdio.stdout)?, read(stdio.stderr)?);
        let outputs = async move {
            let out = output(stdout, self.stdout, &exited);
            let err = output(stderr, self.stderr, &exited);
            tokio::try_join!(out, err).map(drop)
        };
        Ok((input(self.stdin, stdin), outputs))
    }
}

/// Ends when the client has no more input or the process takes none.
async fn input(from: Option<DuplexStream>, to: Option<Sender>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    // EPIPE and a client that went are both plain ends of input.
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn output(from: Option<Receiver>, to: Option<DuplexStream>, exited: &CancellationToken) -> Result<()> {
    let (Some(mut from), Some(mut to)) = (from, to) else { return Ok(()) };
    let mut buffer = vec![0; 32 << 10];
    loop {
        let quiet = async {
            exited.cancelled().await;
            tokio::time::sleep(QUIET).await;
        };
        let count = tokio::select! {
            biased;
            count = descriptor::read(&mut from, &mut buffer) => count.context(|| "read a process' output")?,
            () = quiet => 0,
        };
        // A client that went ends the whole session elsewhere; here it is the end of the output.
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return Ok(());
        }
    }
}

/// Reads terminal sizes out of a stream of JSON objects, however it is cut into pieces.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    text: Vec<u8>,
}

impl Sizes {
    /// The sizes that `piece` completes; what is not JSON is thrown away.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<TerminalSize> {
        self.text.extend_from_slice(piece);
        let mut sizes = Vec::new();
        while let Some(end) = self.text.iter().position(|byte| *byte == b'}') {
            let object: Vec<u8> = self.text.drain(..=end).collect();
            sizes.extend(serde_json::from_slice::<TerminalSize>(&object));
        }
        // An object has some thirty bytes.
        if self.text.len() > 1024 {
            self.text.clear();
        }
        sizes
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
