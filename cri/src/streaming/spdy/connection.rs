//! One SPDY connection: frames in, into the inboxes of the streams; what the streams send, out as frames.

use super::frame::{Decoder, Encoder, Frame, INITIAL_WINDOW, Reset};
use crate::error::{Context as _, Error, Kind, Result};
use crate::streaming::mux::{Mux, Outgoing, Stream, linger};
use bytes::BytesMut;
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

/// Streams that wait to be looked at.
const BACKLOG: usize = 16;
/// Frames are gathered up to this size into one write.
const GATHER: usize = 64 << 10;

/// The server's half over `io`: the streams, those that the client opens one after another, and the future that has
/// to be run for anything to happen. It ends when the client has gone, which a ping after each `keepalive` without
/// output finds out.
pub(in crate::streaming) fn connect<T: AsyncRead + AsyncWrite>(
    io: T,
    keepalive: Duration,
) -> (Mux, mpsc::Receiver<Stream>, impl Future<Output = Result<()>>) {
    let (mux, queue) = Mux::new();
    let (opened, arriving) = mpsc::channel(BACKLOG);
    let (reader, writer) = tokio::io::split(io);
    let incoming = Incoming { mux: mux.clone(), opened, decoder: Decoder::new(), last: 0 };
    let streams = mux.clone();
    let transport = async move {
        let outcome = tokio::select! {
            ended = incoming.run(reader) => ended,
            Err(why) = write(writer, queue, keepalive) => Err(why),
        };
        streams.drop_all();
        outcome
    };
    (mux, arriving, transport)
}

struct Incoming {
    mux: Mux,
    opened: mpsc::Sender<Stream>,
    decoder: Decoder,
    /// Id of the last stream that the client opened.
    last: u32,
}

impl Incoming {
    async fn run<T: AsyncRead>(mut self, mut reader: ReadHalf<T>) -> Result<()> {
        loop {
            while let Some(frame) = self.decoder.next()? {
                self.take(frame).await?;
            }
            self.decoder.buffer.reserve(GATHER / 4);
            let count = reader.read_buf(&mut self.decoder.buffer).await.context(|| "read from the client")?;
            if count == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<()> {
        match frame {
            Frame::SynStream { id, fin, headers } => self.open(id, fin, headers).await?,
            Frame::Data { id, fin, payload } => {
                self.mux.deliver(id, payload).await;
                if fin {
                    self.mux.end(id);
                }
            }
            Frame::SynReply { id, fin: true, .. } | Frame::Headers { id, fin: true, .. } => self.mux.end(id),
            Frame::Rst { id, .. } => self.mux.drop_stream(id),
            Frame::WindowUpdate { id, delta } => self.mux.grow(id, delta),
            Frame::Settings(entries) => {
                for (_, window) in entries.iter().filter(|(id, _)| *id == INITIAL_WINDOW) {
                    self.mux.start_with(*window);
                }
            }
            // The client's own pings have odd ids; an even one answers ours.
            Frame::Ping(id) if !id.is_multiple_of(2) => self.send(Outgoing::Pong(id)).await,
            // GOAWAY: the client opens no more streams, those that are open go on until it closes.
            Frame::Ping(_) | Frame::GoAway { .. } | Frame::SynReply { .. } | Frame::Headers { .. } => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: super::Headers) -> Result<()> {
        if id.is_multiple_of(2) || id <= self.last {
            let why = format!("spdy: the client opens stream {id} after {}", self.last);
            return Err(Error::new(Kind::Invalid, why));
        }
        self.last = id;
        let Some(stream) = self.mux.open(id, headers) else {
            self.send(Outgoing::Reset(id, Reset::Refused)).await;
            return Ok(());
        };
        if fin {
            self.mux.end(id);
        }
        if let Err(unwanted) = self.opened.send(stream).await {
            unwanted.0.reset(Reset::Refused).await;
        }
        Ok(())
    }

    async fn send(&self, what: Outgoing) {
        // The receiver ends with this connection only.
        let _ = self.mux.out.send(what).await;
    }
}

/// Ends with an error only: when the client cannot be written to, or does not close after `Close`, which the
/// reading half sees first.
async fn write<T: AsyncWrite>(
    mut writer: WriteHalf<T>,
    mut queue: mpsc::Receiver<Outgoing>,
    keepalive: Duration,
) -> Result<()> {
    let mut encoder = Encoder::new()?;
    let mut bytes = BytesMut::new();
    let mut pings = (2u32..).step_by(2);
    let (mut last, mut open) = (0, true);
    while open {
        let mut next = match tokio::time::timeout(keepalive, queue.recv()).await {
            Ok(first) => first.and_then(frame),
            Err(_) => pings.next().map(Frame::Ping),
        };
        loop {
            let Some(frame) = next else {
                open = false;
                break;
            };
            if let Frame::SynReply { id, .. } = frame {
                last = id;
            }
            encoder.write(&frame, &mut bytes)?;
            if bytes.len() >= GATHER {
                break;
            }
            next = match queue.try_recv() {
                Ok(more) => self::frame(more),
                Err(_) => break,
            };
        }
        writer.write_all_buf(&mut bytes).await.context(|| "write to the client")?;
        writer.flush().await.context(|| "write to the client")?;
    }
    let farewell = Frame::GoAway { last, status: 0 };
    encoder.write(&farewell, &mut bytes)?;
    writer.write_all_buf(&mut bytes).await.context(|| "write to the client")?;
    writer.shutdown().await.context(|| "close towards the client")?;
    linger().await
}

/// The frame for what a stream sends; none for the end of it all.
fn frame(what: Outgoing) -> Option<Frame> {
    Some(match what {
        Outgoing::Accept(id) => Frame::SynReply { id, fin: false, headers: Vec::new() },
        Outgoing::Data(id, payload) => Frame::Data { id, fin: false, payload },
        Outgoing::Finish(id) => Frame::Data { id, fin: true, payload: bytes::Bytes::new() },
        Outgoing::Reset(id, why) => Frame::Rst { id, status: why as u32 },
        Outgoing::Consumed(id, delta) => Frame::WindowUpdate { id, delta },
        Outgoing::Pong(id) => Frame::Ping(id),
        Outgoing::Close => return None,
    })
}
