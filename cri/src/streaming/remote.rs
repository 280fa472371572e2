//! Exec and attach: a client's streams, over whichever transport, joined to the work.

use super::mux::{Mux, PIECE, Stream};
use super::session::{Ends, Sizes, Streams, TerminalSize, pair};
use super::spdy::Reset;
use super::{Work, status};
use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use std::future::pending;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);

/// The client's streams.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) error: Stream,
    pub(super) stdin: Option<Stream>,
    pub(super) stdout: Option<Stream>,
    pub(super) stderr: Option<Stream>,
    pub(super) resize: Option<Stream>,
}

/// What a sub-protocol version changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// The name in `X-Stream-Protocol-Version`; empty for clients that name none.
    pub(super) name: &'static str,
    /// Whether there is a stream of terminal sizes.
    resize: bool,
    /// Whether the outcome is told as a JSON status.
    pub(super) status: bool,
}

const fn version(name: &'static str, resize: bool, status: bool) -> Version {
    Version { name, resize, status }
}

/// Over SPDY. v5 adds the half close to WebSocket, which SPDY always had.
pub(super) const VERSIONS: [Version; 6] = [
    version("v5.channel.k8s.io", true, true),
    version("v4.channel.k8s.io", true, true),
    version("v3.channel.k8s.io", true, false),
    version("v2.channel.k8s.io", false, false),
    version("channel.k8s.io", false, false),
    version("", false, false),
];

impl Remote {
    /// Waits until a SPDY client has opened the streams that it asked for, which it names by their header `streamtype`.
    /// Those that it opens later are refused.
    ///
    /// # Errors
    /// When it does not within 30 seconds.
    pub(super) async fn gather(
        mut arriving: mpsc::Receiver<Stream>,
        wanted: Streams,
        version: Version,
    ) -> Result<Self> {
        let mut slots = Slots::default();
        let gather = async {
            while !slots.complete(wanted, version) {
                let Some(stream) = arriving.recv().await else {
                    return Err(Error::internal("the client went before it opened its streams"));
                };
                match slots.place(stream, wanted, version) {
                    Ok(stream) => stream.accept().await?,
                    Err(unwanted) => unwanted.reset(Reset::Protocol).await,
                }
            }
            Ok(())
        };
        tokio::time::timeout(OPENING, gather)
            .await
            .map_err(|_| Error::internal("the client did not open its streams in time"))??;
        let error = slots.error.ok_or_else(|| Error::internal("the client opened no error stream"))?;
        let Slots { stdin, stdout, stderr, resize, .. } = slots;
        Ok(Self { error, stdin, stdout, stderr, resize })
    }
}

impl Remote {
    /// The streams of a WebSocket client, there from the start: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize.
    ///
    /// # Errors
    /// Only for a connection that has such streams already.
    pub(super) fn channels(mux: &Mux, wanted: Streams) -> Result<Self> {
        let open = |id: u32, wanted: bool| wanted.then(|| mux.open(id, Vec::new())).flatten();
        let error = open(3, true).ok_or_else(|| Error::internal("the error channel is open already"))?;
        let (stdin, stdout) = (open(0, wanted.stdin), open(1, wanted.stdout));
        Ok(Self { error, stdin, stdout, stderr: open(2, wanted.stderr), resize: open(4, wanted.tty) })
    }
}

#[derive(Debug, Default)]
struct Slots {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Slots {
    fn complete(&self, wanted: Streams, version: Version) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == wanted.stdin
            && self.stdout.is_some() == wanted.stdout
            && self.stderr.is_some() == wanted.stderr
            && self.resize.is_some() == (wanted.tty && version.resize)
    }

    /// Keeps a stream that is wanted and not there yet; gives any other back.
    fn place(&mut self, stream: Stream, wanted: Streams, version: Version) -> Result<&Stream, Stream> {
        let (slot, open) = match stream.header("streamtype") {
            "error" => (&mut self.error, true),
            "stdin" => (&mut self.stdin, wanted.stdin),
            "stdout" => (&mut self.stdout, wanted.stdout),
            "stderr" => (&mut self.stderr, wanted.stderr),
            "resize" => (&mut self.resize, wanted.tty && version.resize),
            _ => return Err(stream),
        };
        match slot {
            None if open => Ok(slot.insert(stream)),
            _ => Err(stream),
        }
    }
}

/// Does the work for the client and tells it the outcome. Dropped by the caller when the client goes.
pub(super) async fn run(remote: Remote, wanted: Streams, work: Work, json: bool) {
    let (session, ends) = pair(wanted);
    let Remote { error, stdin, stdout, stderr, resize } = remote;
    let Ends { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr, resize: sizes } = ends;
    let outputs = async {
        let work = work(session);
        tokio::join!(work, output(from_stdout, stdout), output(from_stderr, stderr)).0
    };
    let inputs = async {
        tokio::join!(input(stdin, to_stdin), resizes(resize, sizes));
        pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = outputs => outcome,
        () = inputs => Err(Error::internal("input ended the session")),
    };
    let said = if json { status::json(&outcome) } else { status::text(&outcome) };
    // A client that is gone by now has nobody to tell.
    let to = error.writer();
    let _ = to.write(Bytes::from(said)).await;
    let _ = to.finish().await;
}

async fn output(from: Option<DuplexStream>, to: Option<Stream>) {
    let (Some(mut from), Some(stream)) = (from, to) else { return };
    let to = stream.writer();
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if to.write(buffer.split().freeze()).await.is_err() {
            // The client wants no more of this stream; the process finds its pipe closed.
            return;
        }
    }
    let _ = to.finish().await;
}

async fn input(from: Option<Stream>, to: Option<DuplexStream>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(data) = from.read().await {
        if to.write_all(&data).await.is_err() {
            // The process reads no more; what still comes is thrown away with the stream.
            return;
        }
    }
}

async fn resizes(from: Option<Stream>, to: mpsc::Sender<TerminalSize>) {
    let Some(mut from) = from else { return };
    let mut sizes = Sizes::default();
    while let Some(piece) = from.read().await {
        for size in sizes.push(&piece) {
            if to.send(size).await.is_err() {
                return;
            }
        }
    }
}
