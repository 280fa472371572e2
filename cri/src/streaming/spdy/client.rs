//! A client's half of SPDY for the tests: as much of it as `kubectl` does.

use super::frame::{Decoder, Encoder, Frame};
use super::headers::Headers;
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What arrived on one stream so far.
#[derive(Debug, Default)]
pub(in crate::streaming) struct Got {
    pub(in crate::streaming) data: Vec<u8>,
    pub(in crate::streaming) accepted: bool,
    pub(in crate::streaming) ended: bool,
    pub(in crate::streaming) reset: Option<u32>,
}

/// The connection; one frame is read or written at a time.
pub(in crate::streaming) struct Client<T> {
    io: T,
    decoder: Decoder,
    encoder: Encoder,
    next: u32,
    pub(in crate::streaming) streams: HashMap<u32, Got>,
    pub(in crate::streaming) pongs: Vec<u32>,
    pub(in crate::streaming) went_away: bool,
    /// Bytes that the server said it consumed.
    pub(in crate::streaming) granted: u32,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(in crate::streaming) fn new(io: T) -> Self {
        Self {
            io,
            decoder: Decoder::new(),
            encoder: Encoder::new().unwrap(),
            next: 1,
            streams: HashMap::new(),
            pongs: Vec::new(),
            went_away: false,
            granted: 0,
        }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.write(&frame, &mut bytes).unwrap();
        // The server may have closed already; then reading says so.
        let _ = self.io.write_all(&bytes).await;
        let _ = self.io.flush().await;
    }

    pub(in crate::streaming) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers: Headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.streams.insert(id, Got::default());
        self.send(Frame::SynStream { id, fin: false, headers }).await;
        id
    }

    /// Opens streams by their types, as for exec.
    pub(in crate::streaming) async fn open_types<const N: usize>(&mut self, types: [&str; N]) -> [u32; N] {
        let mut ids = [0; N];
        for (id, kind) in ids.iter_mut().zip(types) {
            *id = self.open(&[("streamtype", kind)]).await;
        }
        ids
    }

    pub(in crate::streaming) async fn data(&mut self, id: u32, data: &[u8]) {
        self.send(Frame::Data { id, fin: false, payload: Bytes::copy_from_slice(data) }).await;
    }

    pub(in crate::streaming) async fn finish(&mut self, id: u32) {
        self.send(Frame::Data { id, fin: true, payload: Bytes::new() }).await;
    }

    pub(in crate::streaming) async fn reset(&mut self, id: u32) {
        self.send(Frame::Rst { id, status: 5 }).await;
    }

    pub(in crate::streaming) async fn ping(&mut self, id: u32) {
        self.send(Frame::Ping(id)).await;
    }

    pub(in crate::streaming) async fn settings(&mut self, window: u32) {
        self.send(Frame::Settings(vec![(super::frame::INITIAL_WINDOW, window)])).await;
    }

    pub(in crate::streaming) async fn grow(&mut self, id: u32, delta: u32) {
        self.send(Frame::WindowUpdate { id, delta }).await;
    }

    pub(in crate::streaming) async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).await;
        let _ = self.io.flush().await;
    }

    /// Takes the next frame in; false at the end of the connection.
    pub(in crate::streaming) async fn step(&mut self) -> bool {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                self.take(frame);
                return true;
            }
            match self.io.read_buf(&mut self.decoder.buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Data { id, fin, payload } => {
                let stream = self.streams.get_mut(&id).unwrap();
                assert!(stream.accepted && !stream.ended, "data out of turn on {id}");
                stream.data.extend_from_slice(&payload);
                stream.ended |= fin;
            }
            Frame::SynReply { id, .. } => self.streams.get_mut(&id).unwrap().accepted = true,
            Frame::Rst { id, status } => self.streams.get_mut(&id).unwrap().reset = Some(status),
            Frame::Ping(id) => self.pongs.push(id),
            Frame::GoAway { .. } => self.went_away = true,
            Frame::WindowUpdate { delta, .. } => self.granted += delta,
            other => panic!("the server sends {other:?}"),
        }
    }

    /// Reads until the server has closed.
    pub(in crate::streaming) async fn drain(&mut self) {
        while self.step().await {}
    }

    /// Reads until `done`.
    pub(in crate::streaming) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            assert!(self.step().await, "the server closed");
        }
    }

    pub(in crate::streaming) fn got(&self, id: u32) -> &[u8] {
        &self.streams[&id].data
    }
}
