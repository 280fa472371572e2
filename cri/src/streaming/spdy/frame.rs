//! Frames of SPDY/3.1: bytes to frames and back, without any I/O.
//!
//! Source: SPDY Protocol, Draft 3.1, section 2.2 and 2.6.
//!
//! ```text
//! control: 1 version:15 type:16 | flags:8 length:24 | payload      data: 0 stream:31 | flags:8 length:24 | payload
//! ```
//!
//! A data frame of up to 16 MiB is handed on in the pieces it arrives in; a control frame is at most 16 KiB. So the
//! decoder never holds more than one read and one control frame.

use super::headers::{Deflater, Headers, Inflater};
use crate::error::{Error, Kind, Result};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const VERSION: u16 = 3;
/// The specification's least is 8 KiB; Kubernetes' clients need some hundred bytes.
const CONTROL_MAX: usize = 16 << 10;
const FIN: u8 = 1;
const ID: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub(super) const INITIAL_WINDOW: u32 = 7;

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(in crate::streaming) enum Reset {
    /// PROTOCOL_ERROR
    Protocol = 1,
    /// REFUSED_STREAM
    Refused = 3,
}

/// One frame. Those whose type is unknown are skipped, as the specification wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    Rst {
        id: u32,
        status: u32,
    },
    /// Identifier and value of each entry.
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    /// A frame's data, or a part of it; `fin` is on its last part.
    Data {
        id: u32,
        fin: bool,
        payload: Bytes,
    },
}

/// Turns the bytes of one direction into frames.
#[derive(Debug)]
pub(super) struct Decoder {
    /// What was read and not yet taken.
    pub(super) buffer: BytesMut,
    inflater: Inflater,
    /// Stream, fin and missing bytes of a data frame of which a part was handed on.
    open: Option<(u32, bool, usize)>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::new(), inflater: Inflater::new(), open: None }
    }

    /// The next frame of the buffer, or none before more is read.
    ///
    /// # Errors
    /// For what is not SPDY/3; the connection cannot go on.
    pub(super) fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some((id, fin, missing)) = self.open {
                return Ok(self.piece(id, fin, missing));
            }
            let Some((head, _)) = self.buffer.split_first_chunk::<8>() else {
                return Ok(None);
            };
            let [first, second] = [&head[..4], &head[4..]].map(|mut half| half.get_u32());
            let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
            if first >> 31 == 0 {
                self.buffer.advance(8);
                self.open = Some((first & ID, flags & FIN != 0, length));
                continue;
            }
            if length > CONTROL_MAX {
                return Err(invalid(format!("a control frame has {length} bytes")));
            }
            if self.buffer.len() < 8 + length {
                return Ok(None);
            }
            let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
            if version != VERSION {
                return Err(invalid(format!("a frame is of SPDY version {version}")));
            }
            let payload = self.buffer.split_to(8 + length).freeze().slice(8..);
            if let Some(frame) = self.control(kind, flags & FIN != 0, payload)? {
                return Ok(Some(frame));
            }
        }
    }

    fn piece(&mut self, id: u32, fin: bool, missing: usize) -> Option<Frame> {
        if missing > 0 && self.buffer.is_empty() {
            return None;
        }
        let payload = self.buffer.split_to(missing.min(self.buffer.len())).freeze();
        let left = missing - payload.len();
        self.open = (left > 0).then_some((id, fin, left));
        Some(Frame::Data { id, fin: fin && left == 0, payload })
    }

    fn control(&mut self, kind: u16, fin: bool, mut payload: Bytes) -> Result<Option<Frame>> {
        let short = |_| invalid(format!("a frame of type {kind} ends too early"));
        let mut number = || payload.try_get_u32().map_err(short);
        let frame = match kind {
            SYN_STREAM => {
                let (id, _associated) = (number()? & ID, number()?);
                // priority and slot
                payload.try_get_u16().map_err(short)?;
                Frame::SynStream { id, fin, headers: self.inflater.read(&payload)? }
            }
            SYN_REPLY => Frame::SynReply { id: number()? & ID, fin, headers: self.inflater.read(&payload)? },
            HEADERS => Frame::Headers { id: number()? & ID, fin, headers: self.inflater.read(&payload)? },
            RST_STREAM => Frame::Rst { id: number()? & ID, status: number()? },
            SETTINGS => {
                // The frame's length bounds the count: each entry has 8 bytes.
                let count = number()?;
                let entries = (0..count).map(|_| Ok((number()? & 0x00ff_ffff, number()?)));
                Frame::Settings(entries.collect::<Result<_>>()?)
            }
            PING => Frame::Ping(number()?),
            GOAWAY => Frame::GoAway { last: number()? & ID, status: number()? },
            WINDOW_UPDATE => Frame::WindowUpdate { id: number()? & ID, delta: number()? & ID },
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

fn invalid(what: String) -> Error {
    Error::new(Kind::Invalid, format!("spdy: {what}"))
}

/// Turns frames into the bytes of one direction.
#[derive(Debug)]
pub(super) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { deflater: Deflater::new()? })
    }

    /// Appends the frame to `out`.
    pub(super) fn write(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<()> {
        let mut payload = BytesMut::new();
        let (kind, fin) = match frame {
            Frame::Data { id, fin, payload } => {
                out.put_u32(*id);
                out.put_u32(u32::from(*fin) << 24 | payload.len() as u32);
                out.put_slice(payload);
                return Ok(());
            }
            Frame::SynStream { id, fin, headers } => {
                payload.put_u32(*id);
                payload.put_u32(0);
                payload.put_u16(0);
                self.deflater.write(headers, &mut payload)?;
                (SYN_STREAM, *fin)
            }
            Frame::SynReply { id, fin, headers } | Frame::Headers { id, fin, headers } => {
                payload.put_u32(*id);
                self.deflater.write(headers, &mut payload)?;
                let kind = if matches!(frame, Frame::Headers { .. }) { HEADERS } else { SYN_REPLY };
                (kind, *fin)
            }
            Frame::Settings(entries) => {
                payload.put_u32(entries.len() as u32);
                for (id, value) in entries {
                    payload.put_u32(*id);
                    payload.put_u32(*value);
                }
                (SETTINGS, false)
            }
            Frame::Ping(id) => {
                payload.put_u32(*id);
                (PING, false)
            }
            Frame::Rst { id, status } => (two(&mut payload, *id, *status, RST_STREAM), false),
            Frame::GoAway { last, status } => (two(&mut payload, *last, *status, GOAWAY), false),
            Frame::WindowUpdate { id, delta } => (two(&mut payload, *id, *delta, WINDOW_UPDATE), false),
        };
        out.put_u32(1 << 31 | u32::from(VERSION) << 16 | u32::from(kind));
        out.put_u32(u32::from(fin) << 24 | payload.len() as u32);
        out.put_slice(&payload);
        Ok(())
    }
}

fn two(payload: &mut BytesMut, first: u32, second: u32, kind: u16) -> u16 {
    payload.put_u32(first);
    payload.put_u32(second);
    kind
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
