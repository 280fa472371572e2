//! Port-forward: a connection into the pod for each pair of streams.
//!
//! SPDY: for each of the user's connections the client opens a stream `error` and a stream `data` with equal
//! `requestid` and `port`. WebSocket channels: channel 2n is data and 2n+1 errors of the n-th port of the request, and the first
//! message of each is the port (two bytes, little-endian). Source: `kubelet/pkg/cri/streaming/portforward`.

use super::PortForward;
use super::mux::{Mux, PIECE, Stream, Writer};
use super::spdy::Reset;
use crate::network;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long one stream of a pair waits for the other.
const PAIRING: Duration = Duration::from_secs(30);
/// After the pod has said all, this long is waited for the rest of what the client says.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// The protocol's only version; its name in `X-Stream-Protocol-Version`.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";

/// The streams of one of the user's connections.
#[derive(Debug, Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
    since: Option<Instant>,
}

/// Serves each pair that arrives, until the client is gone; the caller drops this then.
pub(super) async fn over_spdy(mut arriving: mpsc::Receiver<Stream>, target: &PortForward) {
    let mut waiting: HashMap<String, Pair> = HashMap::new();
    let mut running = FuturesUnordered::new();
    let mut tick = tokio::time::interval(PAIRING / 2);
    loop {
        tokio::select! {
            stream = arriving.recv() => {
                let Some(stream) = stream else { break };
                if let Some((data, error)) = place(&mut waiting, stream).await {
                    running.push(one(data, error, target));
                }
            }
            Some(()) = running.next() => {}
            now = tick.tick() => {
                waiting.retain(|_, pair| pair.since.is_none_or(|since| now < since + PAIRING));
            }
        }
    }
    while running.next().await.is_some() {}
}

/// Puts a stream with the one that it belongs to; gives both when they are complete.
async fn place(waiting: &mut HashMap<String, Pair>, stream: Stream) -> Option<(Stream, Stream)> {
    let kind = stream.header("streamtype").to_owned();
    let id = match stream.header("requestid") {
        // Clients of old name none and open the error stream first, the data stream right after it.
        "" if kind == "data" => format!("#{}", stream.id.saturating_sub(2)),
        "" => format!("#{}", stream.id),
        id => id.to_owned(),
    };
    let pair = waiting.entry(id.clone()).or_default();
    let slot = match &*kind {
        "data" => &mut pair.data,
        "error" => &mut pair.error,
        _ => {
            stream.reset(Reset::Protocol).await;
            return None;
        }
    };
    if slot.is_some() {
        stream.reset(Reset::Protocol).await;
        return None;
    }
    // A client that is gone ends everything elsewhere.
    let _ = stream.accept().await;
    *slot = Some(stream);
    pair.since.get_or_insert_with(Instant::now);
    match waiting.remove(&id)? {
        Pair { data: Some(data), error: Some(error), .. } => Some((data, error)),
        half => {
            waiting.insert(id, half);
            None
        }
    }
}

async fn one(data: Stream, error: Stream, target: &PortForward) {
    let port = data.header("port").to_owned();
    match port.parse() {
        Ok(port) => forward(data, error, port, target).await,
        Err(_) => refuse(&data, &error, &format!("{port:?} is not a port")).await,
    }
}

/// Connects and copies both ways until both have ended, or the client has dropped the stream.
async fn forward(mut data: Stream, error: Stream, port: u16, target: &PortForward) {
    let connection = match network::connect(target.netns.as_deref(), port).await {
        Ok(connection) => connection,
        Err(why) => {
            let why = format!("error forwarding port {port} to pod: {why}");
            return refuse(&data, &error, &why).await;
        }
    };
    let (from_pod, to_pod) = connection.into_split();
    let writer = data.writer();
    let down = async {
        download(from_pod, &writer).await;
        // The client is free to close now; kubectl before 1.28 keeps its user's connection open until it hears this.
        let _ = error.writer().finish().await;
    };
    let both = async {
        let up = upload(&mut data, to_pod);
        tokio::pin!(up, down);
        tokio::select! {
            () = &mut up => down.await,
            () = &mut down => drop(tokio::time::timeout(LAST_WORDS, up).await),
        }
    };
    tokio::select! {
        () = both => {}
        () = writer.gone() => {}
    }
}

async fn refuse(data: &Stream, error: &Stream, why: &str) {
    // Where the client is gone there is nobody to tell.
    let _ = error.writer().write(Bytes::from(why.to_owned())).await;
    let _ = error.writer().finish().await;
    let _ = data.writer().finish().await;
}

async fn upload(data: &mut Stream, mut to_pod: OwnedWriteHalf) {
    while let Some(piece) = data.read().await {
        if to_pod.write_all(&piece).await.is_err() {
            return;
        }
    }
    // Fails where the pod has closed already.
    let _ = to_pod.shutdown().await;
}

async fn download(mut from_pod: OwnedReadHalf, to: &Writer) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        match from_pod.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if to.write(buffer.split().freeze()).await.is_err() {
            return;
        }
    }
    let _ = to.finish().await;
}

/// Serves the ports of the request, each once; its streams are there from the start.
pub(super) async fn over_channels(mux: &Mux, target: &PortForward) {
    let pairs = target.ports.iter().zip(0u32..).filter_map(|(port, at)| {
        let data = mux.open(2 * at, Vec::new())?;
        let error = mux.open(2 * at + 1, Vec::new())?;
        Some((*port, data, error))
    });
    let mut running: FuturesUnordered<_> = pairs
        .map(|(port, data, error)| async move {
            for stream in [&data, &error] {
                let _ = stream.writer().write(Bytes::copy_from_slice(&port.to_le_bytes())).await;
            }
            forward(data, error, port, target).await;
        })
        .collect();
    while running.next().await.is_some() {}
}
