//! Port-forward over SPDY, over SPDY inside a WebSocket, and over channels, to a server on this machine's loopback.

use super::*;
use crate::streaming::spdy::client::Client;
use crate::streaming::tunnel::Tunnel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// Serves connections that answer with the upper case of what they hear, after it ended; gives its port.
async fn shouter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await.unwrap();
                stream.write_all(&heard.to_ascii_uppercase()).await.unwrap();
            });
        }
    });
    port
}

fn target(ports: Vec<u16>) -> PortForward {
    PortForward { netns: None, ports }
}

async fn pair<T: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<T>, port: &str, id: &str) -> (u32, u32) {
    let error = client.open(&[("streamtype", "error"), ("port", port), ("requestid", id)]).await;
    let data = client.open(&[("streamtype", "data"), ("port", port), ("requestid", id)]).await;
    (error, data)
}

async fn converse<T: AsyncRead + AsyncWrite + Unpin>(mut client: Client<T>) {
    let port = shouter().await.to_string();
    let (error, data) = pair(&mut client, &port, "0").await;
    let (error2, data2) = pair(&mut client, &port, "1").await;
    client.data(data, b"one").await;
    client.data(data2, b"two").await;
    client.finish(data2).await;
    soon(client.until(|client| client.streams[&error2].ended)).await;
    assert_eq!(client.got(data2), b"TWO");
    assert_eq!(client.got(data), b"");
    client.finish(data).await;
    soon(client.until(|client| client.streams[&error].ended)).await;
    assert_eq!(client.got(data), b"ONE");
    assert_eq!(client.got(error), b"");
    assert!(client.streams[&data].ended);
}

#[tokio::test]
async fn connections_are_forwarded_over_spdy() {
    let server = server().await;
    let url = server.port_forward_url(target(vec![])).unwrap();
    converse(spdy(&url, "portforward.k8s.io").await).await;
}

#[tokio::test]
async fn connections_are_forwarded_over_the_tunnel() {
    let server = server().await;
    let url = server.port_forward_url(target(vec![])).unwrap();
    let socket = websocket(&url, "SPDY/3.1+portforward.k8s.io").await;
    converse(Client::new(Tunnel::new(socket))).await;
}

#[tokio::test]
async fn connections_are_forwarded_over_channels() {
    let server = server().await;
    let port = shouter().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = server.port_forward_url(target(vec![port, closed])).unwrap();
    let mut client = websocket(&url, "v4.channel.k8s.io").await;
    let mut channels = vec![Vec::new(); 4];
    let answered = |channels: &[Vec<u8>]| channels[0].len() >= 2 && channels[3].len() > 2;
    while !answered(&channels) {
        let message = soon(client.next()).await.unwrap().unwrap().into_data();
        channels[usize::from(message[0])].extend_from_slice(&message[1..]);
    }
    assert_eq!(channels[0][..2], port.to_le_bytes());
    assert_eq!(channels[3][..2], closed.to_le_bytes());
    assert!(String::from_utf8_lossy(&channels[3]).contains("Connection refused"));
    client.send(Message::Binary(b"\x00hello"[..].into())).await.unwrap();
    client.close(None).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_connected_is_said_on_the_error_stream() {
    let server = server().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = server.port_forward_url(target(vec![])).unwrap();
    let mut client = spdy(&url, "portforward.k8s.io").await;
    for (port, said) in [(&*closed.to_string(), "Connection refused"), ("99999", "\"99999\" is not a port")] {
        let (error, data) = pair(&mut client, port, port).await;
        soon(client.until(|client| client.streams[&error].ended && client.streams[&data].ended)).await;
        let text = String::from_utf8_lossy(client.got(error)).into_owned();
        assert!(text.contains(said), "{text}");
    }
}

#[tokio::test]
async fn megabytes_pass_and_a_reset_closes_the_connection() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let pod = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&pattern(0, 5 << 20).collect::<Vec<_>>()).await.unwrap();
        // Ends only when the other side does.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        rest
    });
    let url = server.port_forward_url(target(vec![])).unwrap();
    let mut client = spdy(&url, "portforward.k8s.io").await;
    let (_, data) = pair(&mut client, &port, "0").await;
    client.data(data, b"hi").await;
    soon(client.until(|client| client.got(data).len() == 5 << 20)).await;
    assert_flood(client.got(data), 5 << 20);
    client.reset(data).await;
    assert_eq!(soon(pod).await.unwrap(), b"hi");
}

#[tokio::test]
async fn streams_without_a_request_id_and_strange_ones() {
    let server = server().await;
    let port = shouter().await.to_string();
    let url = server.port_forward_url(target(vec![])).unwrap();
    let mut client = spdy(&url, "portforward.k8s.io").await;
    let error = client.open(&[("streamtype", "error"), ("port", &port)]).await;
    let data = client.open(&[("streamtype", "data"), ("port", &port)]).await;
    client.data(data, b"old").await;
    client.finish(data).await;
    soon(client.until(|client| client.streams[&error].ended)).await;
    assert_eq!(client.got(data), b"OLD");
    let strange = client.open(&[("streamtype", "strange"), ("requestid", "5")]).await;
    soon(client.until(|client| client.streams[&strange].reset.is_some())).await;
}
