//! The whole server against client halves of our own, on 127.0.0.1.

mod forward;
mod limits;
mod spdy;
mod websocket;

use super::*;
use futures_util::{SinkExt as _, StreamExt as _};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

const INPUT: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
const OUTPUT: Streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
const TERMINAL: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };

async fn server() -> Server {
    Server::bind(([127, 0, 0, 1], 0).into(), CancellationToken::new()).await.unwrap()
}

/// A limit for what must not take for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("in time")
}

/// Sends a request with these header lines; gives the answer's head and the connection.
async fn request(url: &str, method: &str, lines: &[(&str, &str)]) -> (String, TcpStream) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut io = TcpStream::connect(host).await.unwrap();
    let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let text = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n");
    io.write_all(text.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8(head).unwrap();
    // Go's HTTP library takes the whole header away when `close` is in it too, and kubectl then sees no upgrade.
    assert_eq!(head.contains(" 101 "), head.contains("\r\nconnection: Upgrade\r\n"), "{head}");
    (head, io)
}

/// A SPDY client, once the server has agreed to `protocol`.
async fn spdy(url: &str, protocol: &str) -> super::spdy::client::Client<TcpStream> {
    let lines = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocol)];
    let (head, io) = soon(request(url, "POST", &lines)).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains(&format!("x-stream-protocol-version: {protocol}\r\n")), "{head}");
    super::spdy::client::Client::new(io)
}

/// A WebSocket client, once the server has agreed to `protocol`.
async fn websocket(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    let lines = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", protocol),
    ];
    let (head, io) = soon(request(url, "GET", &lines)).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains(&format!("sec-websocket-protocol: {protocol}\r\n")), "{head}");
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

/// Sends the input back on stdout, its length on stderr, and exits with the code.
async fn echo(session: Session, code: i32) -> Result<i32> {
    let Session { stdin, stdout, stderr, .. } = session;
    let (mut stdin, mut stdout, mut stderr) = (stdin.unwrap(), stdout.unwrap(), stderr.unwrap());
    let count = tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    stderr.write_all(format!("{count} bytes").as_bytes()).await.unwrap();
    Ok(code)
}

/// Writes `size` bytes that are easy to check.
async fn flood(session: Session, size: usize) -> Result<i32> {
    let mut stdout = session.stdout.unwrap();
    let piece: Vec<u8> = pattern(0, 40_000).collect();
    let mut sent = 0;
    while sent < size {
        let now = piece.len().min(size - sent);
        stdout.write_all(&piece[..now]).await.unwrap();
        sent += now;
    }
    Ok(0)
}

/// The bytes of [`flood`] from `start` on; they repeat after 40,000.
fn pattern(start: usize, count: usize) -> impl Iterator<Item = u8> {
    (start..start + count).map(|at| ((at % 40_000) % 251) as u8)
}

fn assert_flood(data: &[u8], size: usize) {
    assert_eq!(data.len(), size);
    assert!(data.iter().copied().eq(pattern(0, size)), "bytes changed on the way");
}

fn status(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).unwrap()
}
