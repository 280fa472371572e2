//! Exec over WebSocket, as `kubectl` from 1.31 and the client libraries do it.

use super::*;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use std::collections::BTreeMap;

/// Reads to the end; gives what each channel said.
async fn to_end(socket: &mut WebSocketStream<TcpStream>) -> BTreeMap<u8, Vec<u8>> {
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(data) => channels.entry(data[0]).or_default().extend(&data[1..]),
            Message::Text(text) => {
                let (digit, data) = text.split_at(1);
                channels.entry(digit.parse().unwrap()).or_default().extend(BASE64.decode(data).unwrap());
            }
            Message::Close(frame) => assert_eq!(u16::from(frame.expect("a code").code), 1000),
            _ => {}
        }
    }
    channels
}

async fn send(socket: &mut WebSocketStream<TcpStream>, channel: u8, data: &[u8]) {
    let message = [&[channel], data].concat();
    socket.send(Message::Binary(message.into())).await.unwrap();
}

#[tokio::test]
async fn v5_closes_its_input_alone() {
    let server = server().await;
    let url = server.exec_url(INPUT, |session| echo(session, 7)).unwrap();
    let mut client = websocket(&url, "v5.channel.k8s.io").await;
    send(&mut client, 0, b"").await;
    send(&mut client, 0, b"hello").await;
    send(&mut client, 255, &[0]).await;
    let got = soon(to_end(&mut client)).await;
    assert_eq!((&*got[&1], &*got[&2]), (&b"hello"[..], &b"5 bytes"[..]));
    assert_eq!(status(&got[&3])["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn v4_and_its_elders() {
    let server = server().await;
    for (protocol, said) in [
        ("v4.channel.k8s.io", r#"{"metadata":{},"status":"Success"}"#),
        ("v4.base64.channel.k8s.io", r#"{"metadata":{},"status":"Success"}"#),
        ("channel.k8s.io", ""),
        ("base64.channel.k8s.io", ""),
    ] {
        // No half close: the process ends by itself.
        let work = |session: Session| async move {
            let Session { stdin, stdout, .. } = session;
            let mut five = [0; 5];
            stdin.unwrap().read_exact(&mut five).await.unwrap();
            stdout.unwrap().write_all(&five).await.unwrap();
            Ok(0)
        };
        let url = server.exec_url(INPUT, work).unwrap();
        let mut client = websocket(&url, protocol).await;
        match protocol.contains("base64") {
            true => client.send(Message::text(format!("0{}", BASE64.encode("hello")))).await.unwrap(),
            false => send(&mut client, 0, b"hello").await,
        }
        let got = soon(to_end(&mut client)).await;
        assert_eq!(got[&1], b"hello", "{protocol}");
        assert_eq!(String::from_utf8(got.get(&3).cloned().unwrap_or_default()).unwrap(), said, "{protocol}");
    }
}

#[tokio::test]
async fn fifty_megabytes_arrive_whole() {
    let server = server().await;
    let size = 50 << 20;
    let url = server.exec_url(OUTPUT, move |session| flood(session, size)).unwrap();
    let mut client = websocket(&url, "v5.channel.k8s.io").await;
    let got = soon(to_end(&mut client)).await;
    assert_flood(&got[&1], size);
    assert_eq!(status(&got[&3])["status"], "Success");
}

#[tokio::test]
async fn input_flows_both_ways_at_once() {
    let server = server().await;
    let url = server.exec_url(INPUT, |session| echo(session, 0)).unwrap();
    let (mut sink, mut stream) = websocket(&url, "v5.channel.k8s.io").await.split();
    let size: usize = 10 << 20;
    let sender = tokio::spawn(async move {
        let input: Vec<u8> = pattern(0, size).collect();
        for piece in input.chunks(100_000) {
            let message = [&[0], piece].concat();
            sink.send(Message::Binary(message.into())).await.unwrap();
        }
        sink.send(Message::Binary(vec![255, 0].into())).await.unwrap();
        sink
    });
    let mut back = Vec::new();
    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(data) = message
                && data[0] == 1
            {
                back.extend_from_slice(&data[1..]);
            }
        }
    };
    soon(read).await;
    assert_flood(&back, size);
    drop(sender.await.unwrap());
}

#[tokio::test]
async fn a_terminal_hears_its_size_and_pings_are_answered() {
    let server = server().await;
    let work = |mut session: Session| async move {
        let size = session.resize.recv().await.unwrap();
        session.stdout.unwrap().write_all(format!("{}x{}", size.width, size.height).as_bytes()).await.unwrap();
        Ok(0)
    };
    let url = server.exec_url(TERMINAL, work).unwrap();
    let mut client = websocket(&url, "v5.channel.k8s.io").await;
    client.send(Message::Ping(b"x"[..].into())).await.unwrap();
    assert_eq!(soon(client.next()).await.unwrap().unwrap(), Message::Pong(b"x"[..].into()));
    send(&mut client, 4, b"{\"Width\":80,\"Height\":24}\n").await;
    assert_eq!(soon(to_end(&mut client)).await[&1], b"80x24");
}

#[tokio::test]
async fn an_error_before_the_start_is_told() {
    let server = server().await;
    let url = server.exec_url(OUTPUT, |_| async { Err(Error::internal("no such file")) }).unwrap();
    let mut client = websocket(&url, "v4.channel.k8s.io").await;
    let got = soon(to_end(&mut client)).await;
    assert_eq!(status(&got[&3])["message"], "no such file");
}

#[tokio::test]
async fn closing_anything_but_stdin_ends_the_session() {
    let server = server().await;
    let url = server.exec_url(INPUT, |session| echo(session, 0)).unwrap();
    let mut client = websocket(&url, "v5.channel.k8s.io").await;
    send(&mut client, 255, &[1]).await;
    assert_eq!(soon(to_end(&mut client)).await, BTreeMap::new());
}
