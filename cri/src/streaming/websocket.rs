//! WebSocket channels: every message starts with the number of its channel.
//!
//! Source: Kubernetes' `k8s.io/streaming` and `kubelet/pkg/cri/streaming` (the sub-protocols' constants and their
//! comments), RFC 6455.
//!
//! | sub-protocol | message | status (channel 3) |
//! |---|---|---|
//! | none, `channel.k8s.io` | binary: number, data | text, nothing on success |
//! | `base64.channel.k8s.io` | text: digit, base64 | likewise |
//! | `v4.channel.k8s.io`, `v4.base64.channel.k8s.io` | the same two | `metav1.Status` as JSON |
//! | `v5.channel.k8s.io` | binary; `255, n` closes channel n | `metav1.Status` as JSON |

use super::mux::{KEEPALIVE, Mux, Outgoing, linger};
use crate::error::{Context as _, Error, Kind, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Utf8Bytes, coding::CloseCode};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

/// Longest message from a client. Its libraries write what they are given in one message; kubectl's have 32 KiB.
const MESSAGE_MAX: usize = 8 << 20;
/// The channel of v5 whose messages close another one.
const CLOSE: u8 = 255;

/// A sub-protocol's way to put channels in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Protocol {
    /// Its name; empty for a client that named none.
    pub(super) name: &'static str,
    base64: bool,
    /// Whether the outcome is told as a JSON status.
    pub(super) status: bool,
    /// Whether a client can close its input alone.
    half_close: bool,
}

const fn protocol(name: &'static str, base64: bool, status: bool, half_close: bool) -> Protocol {
    Protocol { name, base64, status, half_close }
}

/// Those for exec and attach.
pub(super) const CHANNELS: [Protocol; 6] = [
    protocol("v5.channel.k8s.io", false, true, true),
    protocol("v4.channel.k8s.io", false, true, false),
    protocol("v4.base64.channel.k8s.io", true, true, false),
    protocol("channel.k8s.io", false, false, false),
    protocol("base64.channel.k8s.io", true, false, false),
    protocol("", false, false, false),
];

/// Those for port-forward with channels; the tunnel is [`TUNNEL`].
pub(super) const FORWARD: [Protocol; 3] = [
    protocol("v4.channel.k8s.io", false, false, false),
    protocol("v4.base64.channel.k8s.io", true, false, false),
    protocol("", false, false, false),
];

/// SPDY inside of binary messages.
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// A connection that was just upgraded.
pub(super) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .read_buffer_size(32 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(1 << 20)
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The channels of `socket` as streams; the caller opens those that it wants (with the number as the id) before it runs
/// the future. Messages for others are thrown away.
pub(super) fn connect<T: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<T>,
    protocol: Protocol,
) -> (Mux, impl Future<Output = Result<()>>) {
    let (mux, queue) = Mux::new();
    let streams = mux.clone();
    let transport = async move {
        let (sink, stream) = socket.split();
        let outcome = tokio::select! {
            ended = read(stream, &streams, protocol) => ended,
            Err(why) = write(sink, queue, protocol) => Err(why),
        };
        streams.drop_all();
        outcome
    };
    (mux, transport)
}

async fn read<T>(mut stream: SplitStream<WebSocketStream<T>>, mux: &Mux, protocol: Protocol) -> Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = stream.next().await {
        let message = match message.map_err(std::io::Error::other).context(|| "read from the client")? {
            Message::Binary(message) => message,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => break,
            // The library answers pings.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        match decode(message, protocol)? {
            Received::Data(channel, data) => mux.deliver(u32::from(channel), data).await,
            Received::End(channel) => mux.end(u32::from(channel)),
            Received::Nothing => {}
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Received {
    Data(u8, Bytes),
    End(u8),
    Nothing,
}

fn decode(mut message: Bytes, protocol: Protocol) -> Result<Received> {
    let invalid = |why: String| Error::new(Kind::Invalid, format!("websocket: {why}"));
    if message.is_empty() {
        return Ok(Received::Nothing);
    }
    let channel = message.split_to(1)[0];
    if protocol.base64 {
        let number = channel.wrapping_sub(b'0');
        if number > 9 {
            return Err(invalid(format!("a message starts with {channel:#04x}, not with a digit")));
        }
        let data = BASE64.decode(&message).map_err(|why| invalid(format!("a message is not base64: {why}")))?;
        return Ok(Received::Data(number, data.into()));
    }
    match (channel, message.first()) {
        (CLOSE, Some(0)) if protocol.half_close => Ok(Received::End(0)),
        (CLOSE, other) if protocol.half_close => {
            Err(invalid(format!("the client closes channel {other:?}, which only stdin can be")))
        }
        _ => Ok(Received::Data(channel, message)),
    }
}

fn encode(channel: u32, data: &Bytes, protocol: Protocol) -> Message {
    let channel = channel as u8;
    if protocol.base64 {
        let digit = char::from(b'0' + channel);
        return Message::text(format!("{digit}{}", BASE64.encode(data)));
    }
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.put_u8(channel);
    message.put_slice(data);
    Message::Binary(message.freeze())
}

/// The plain end. With its code: without one, kubectl's library takes the end of each stream for an error.
pub(super) fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// Ends with an error only: when the client cannot be written to, or does not close after `Close`, which the
/// reading half sees first.
async fn write<T>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    mut queue: mpsc::Receiver<Outgoing>,
    protocol: Protocol,
) -> Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let message = match tokio::time::timeout(KEEPALIVE, queue.recv()).await {
            Err(_) => Message::Ping(Bytes::new()),
            Ok(Some(Outgoing::Data(channel, data))) => encode(channel, &data, protocol),
            Ok(None | Some(Outgoing::Close)) => break,
            // Streams open and close by convention here, and there are no windows.
            Ok(Some(_)) => continue,
        };
        sink.send(message).await.map_err(std::io::Error::other).context(|| "write to the client")?;
    }
    sink.send(farewell()).await.map_err(std::io::Error::other).context(|| "close towards the client")?;
    linger().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Protocol {
        *CHANNELS.iter().find(|protocol| protocol.name == name).unwrap()
    }

    #[test]
    fn binary_messages_carry_their_channel() {
        let v4 = named("v4.channel.k8s.io");
        let message = encode(1, &Bytes::from_static(b"hi"), v4);
        assert_eq!(message, Message::Binary(Bytes::from_static(b"\x01hi")));
        let back = decode(message.into_data(), v4).unwrap();
        assert_eq!(back, Received::Data(1, Bytes::from_static(b"hi")));
        assert_eq!(decode(Bytes::new(), v4).unwrap(), Received::Nothing);
    }

    #[test]
    fn base64_messages_are_text() {
        let v4 = named("v4.base64.channel.k8s.io");
        let message = encode(3, &Bytes::from_static(b"hi"), v4);
        assert_eq!(message, Message::text("3aGk="));
        assert_eq!(decode(message.into_data(), v4).unwrap(), Received::Data(3, Bytes::from_static(b"hi")));
        assert!(decode(Bytes::from_static(b"\x00aGk="), v4).is_err());
        assert!(decode(Bytes::from_static(b"0***"), v4).is_err());
    }

    #[test]
    fn only_v5_closes_and_only_stdin() {
        let close = Bytes::from_static(&[255, 0]);
        assert_eq!(decode(close.clone(), named("v5.channel.k8s.io")).unwrap(), Received::End(0));
        assert!(matches!(decode(close, named("v4.channel.k8s.io")).unwrap(), Received::Data(255, _)));
        for wrong in [&[255][..], &[255, 1]] {
            assert!(decode(Bytes::copy_from_slice(wrong), named("v5.channel.k8s.io")).is_err());
        }
    }
}
