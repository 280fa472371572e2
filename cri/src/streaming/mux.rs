//! Many streams over one connection, as exec and port-forward see them, whether SPDY or WebSocket carries them.
//!
//! ```text
//!            transport (spdy::connection, websocket)              work (remote, forward)
//! client --> reads, puts data into each stream's Inbox  ----->  Stream::read
//! client <-- writes what comes out of one bounded queue <-----  Writer::write, finish
//! ```
//!
//! Everything is bounded: an inbox that is full stops the reading from the connection, the queue that is full stops
//! the writer. A connection is one future, its work another, and [`serve`] runs both in one task: neither outlives it.

use super::spdy::{Headers, Reset};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Bytes that a stream holds for a slow reader; also the window that SPDY peers start with.
pub(super) const WINDOW: usize = 64 << 10;
/// Longest piece of data in one frame or message.
pub(super) const PIECE: usize = 32 << 10;
/// Frames that wait for a slow client.
const QUEUE: usize = 8;
/// How long the client may take to close, once it was sent everything.
const LINGER: Duration = Duration::from_secs(10);
/// How long it may take, once the work is done, to be sent everything: over a slow line the last frames need minutes.
const LAST_FRAMES: Duration = Duration::from_secs(600);
/// A ping this often finds a client that went without a word while nothing is being read from it.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);
/// Open streams of one connection; a port-forward has two for each of the user's connections.
const STREAMS_MAX: usize = 512;

/// What the work sends, for the transport to put in its own form.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// The stream that the client opened is taken.
    Accept(u32),
    Data(u32, Bytes),
    /// No more data from this side.
    Finish(u32),
    Reset(u32, Reset),
    /// So many bytes of the stream were consumed.
    Consumed(u32, u32),
    /// Answer to a ping.
    Pong(u32),
    /// Everything was said.
    Close,
}

/// The streams of one connection.
#[derive(Debug, Clone)]
pub(super) struct Mux {
    shared: Arc<Shared>,
    pub(super) out: mpsc::Sender<Outgoing>,
}

#[derive(Debug)]
struct Shared {
    streams: Mutex<HashMap<u32, Arc<Flow>>>,
    /// Whether the peer keeps windows. Kubernetes' own SPDY library neither keeps nor announces any, so a window
    /// counts from the first word that the peer says of it.
    windowed: AtomicBool,
    /// Window of new streams towards the peer.
    initial: AtomicI64,
}

/// Both directions of one stream between transport and work.
#[derive(Debug)]
struct Flow {
    state: Mutex<State>,
    /// The inbox has data, or ended.
    readable: Notify,
    /// The inbox has room again.
    roomy: Notify,
    /// The window towards the peer opened, or the stream is gone.
    writable: Notify,
    /// The client dropped the stream, or went.
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    inbox: VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
    /// Bytes that may be sent before the peer says more; negative after it shrank.
    credit: i64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl Mux {
    /// An empty set, and what its streams send.
    pub(super) fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (out, queue) = mpsc::channel(QUEUE);
        let shared = Shared {
            streams: Mutex::default(),
            windowed: AtomicBool::new(false),
            initial: AtomicI64::new(WINDOW as i64),
        };
        (Self { shared: Arc::new(shared), out }, queue)
    }

    /// A new stream, or none for an id in use or one too many.
    pub(super) fn open(&self, id: u32, headers: Headers) -> Option<Stream> {
        let mut streams = lock(&self.shared.streams);
        if streams.len() >= STREAMS_MAX || streams.contains_key(&id) {
            return None;
        }
        let credit = self.shared.initial.load(Ordering::Relaxed);
        let flow = Arc::new(Flow {
            state: Mutex::new(State { credit, ..State::default() }),
            readable: Notify::new(),
            roomy: Notify::new(),
            writable: Notify::new(),
            gone: CancellationToken::new(),
        });
        streams.insert(id, flow.clone());
        let writer = Writer { id, flow, mux: self.clone() };
        Some(Stream { id, headers, writer, consumed: 0 })
    }

    fn flow(&self, id: u32) -> Option<Arc<Flow>> {
        lock(&self.shared.streams).get(&id).cloned()
    }

    /// Data from the client; waits while the stream is full. Data of a stream that nobody reads any more is dropped.
    pub(super) async fn deliver(&self, id: u32, data: Bytes) {
        let Some(flow) = self.flow(id) else { return };
        loop {
            {
                let mut state = lock(&flow.state);
                if state.ended || data.is_empty() {
                    return;
                }
                if state.bytes < WINDOW {
                    state.bytes += data.len();
                    state.inbox.push_back(data);
                    flow.readable.notify_one();
                    return;
                }
            }
            flow.roomy.notified().await;
        }
    }

    /// The client sends no more on this stream.
    pub(super) fn end(&self, id: u32) {
        if let Some(flow) = self.flow(id) {
            lock(&flow.state).ended = true;
            flow.readable.notify_one();
        }
    }

    /// The client dropped this stream, both ways.
    pub(super) fn drop_stream(&self, id: u32) {
        if let Some(flow) = self.flow(id) {
            flow.leave();
        }
    }

    /// The client is gone: every stream ends.
    pub(super) fn drop_all(&self) {
        lock(&self.shared.streams).values().for_each(|flow| flow.leave());
    }

    /// The client's window of one stream grew.
    pub(super) fn grow(&self, id: u32, delta: u32) {
        self.shared.windowed.store(true, Ordering::Relaxed);
        if let Some(flow) = self.flow(id) {
            flow.credit(i64::from(delta));
        }
    }

    /// The client says with how large a window streams start, those that are open included.
    pub(super) fn start_with(&self, window: u32) {
        self.shared.windowed.store(true, Ordering::Relaxed);
        let before = self.shared.initial.swap(i64::from(window), Ordering::Relaxed);
        for flow in lock(&self.shared.streams).values() {
            flow.credit(i64::from(window) - before);
        }
    }
}

impl Flow {
    fn leave(&self) {
        lock(&self.state).ended = true;
        self.gone.cancel();
        for waiting in [&self.readable, &self.roomy, &self.writable] {
            waiting.notify_one();
        }
    }

    fn credit(&self, delta: i64) {
        let mut state = lock(&self.state);
        state.credit = state.credit.saturating_add(delta);
        drop(state);
        self.writable.notify_one();
    }
}

/// One stream; dropping it forgets it, and what still arrives for it is thrown away.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    headers: Headers,
    writer: Writer,
    consumed: u32,
}

impl Drop for Stream {
    fn drop(&mut self) {
        lock(&self.writer.mux.shared.streams).remove(&self.id);
        self.writer.flow.leave();
    }
}

impl Stream {
    /// The header of this (lower-case) name, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map_or("", |(_, value)| value)
    }

    /// The sending side, which works for as long as the stream is kept.
    pub(super) fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// Tells the client that its stream is taken.
    pub(super) async fn accept(&self) -> Result<()> {
        self.writer.send(Outgoing::Accept(self.id)).await
    }

    /// The next data, or none at the end.
    pub(super) async fn read(&mut self) -> Option<Bytes> {
        let flow = self.writer.flow.clone();
        loop {
            let next = {
                let mut state = lock(&flow.state);
                match state.inbox.pop_front() {
                    None if state.ended => return None,
                    next => next.inspect(|data| state.bytes -= data.len()),
                }
            };
            if let Some(data) = next {
                flow.roomy.notify_one();
                self.confirm(data.len() as u32).await;
                return Some(data);
            }
            flow.readable.notified().await;
        }
    }

    /// Lets the client send more, not for each piece but for half a window.
    async fn confirm(&mut self, count: u32) {
        self.consumed += count;
        if self.consumed as usize >= WINDOW / 2 {
            // On failure the client is gone, which the next read finds.
            let _ = self.writer.send(Outgoing::Consumed(self.id, self.consumed)).await;
            self.consumed = 0;
        }
    }

    /// Refuses or abandons the stream.
    pub(super) async fn reset(self, why: Reset) {
        // When the client is gone there is nobody to tell.
        let _ = self.writer.send(Outgoing::Reset(self.id, why)).await;
    }
}

/// The sending side of a stream.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    id: u32,
    flow: Arc<Flow>,
    mux: Mux,
}

impl Writer {
    /// Sends data, as the client's window allows.
    ///
    /// # Errors
    /// When the client is gone or dropped the stream.
    pub(super) async fn write(&self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let count = self.reserve(data.len().min(PIECE)).await?;
            self.send(Outgoing::Data(self.id, data.split_to(count))).await?;
        }
        Ok(())
    }

    async fn reserve(&self, wanted: usize) -> Result<usize> {
        loop {
            if self.flow.gone.is_cancelled() {
                return Err(gone());
            }
            {
                let mut state = lock(&self.flow.state);
                let count = match self.mux.shared.windowed.load(Ordering::Relaxed) {
                    true => wanted.min(usize::try_from(state.credit).unwrap_or(0)),
                    false => wanted,
                };
                if count > 0 {
                    state.credit -= count as i64;
                    return Ok(count);
                }
            }
            self.flow.writable.notified().await;
        }
    }

    /// Ends this side of the stream.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn finish(&self) -> Result<()> {
        self.send(Outgoing::Finish(self.id)).await
    }

    /// Waits until the client has dropped the stream (and not merely ended its side).
    pub(super) async fn gone(&self) {
        self.flow.gone.cancelled().await;
    }

    async fn send(&self, what: Outgoing) -> Result<()> {
        self.mux.out.send(what).await.map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::internal("the client is gone")
}

/// What the writing half of a transport does after the last word: the client closes, which the reading half sees first.
pub(super) async fn linger() -> Result<()> {
    tokio::time::sleep(LINGER).await;
    Err(Error::internal("the client did not close after the end"))
}

/// Runs a connection and the work on it. When the work is done, what it sent is delivered and the connection closed;
/// when the client goes first, the work is dropped where it stands.
pub(super) async fn serve(
    mux: &Mux,
    transport: impl Future<Output = Result<()>>,
    work: impl Future<Output = ()>,
) -> Result<()> {
    tokio::pin!(transport);
    tokio::select! {
        biased;
        ended = &mut transport => return ended,
        () = work => {}
    }
    let close = async {
        // The receiver lives as long as the transport.
        let _ = mux.out.send(Outgoing::Close).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = transport => ended,
        () = close => Ok(()),
        () = tokio::time::sleep(LAST_FRAMES) => Ok(()),
    }
}
