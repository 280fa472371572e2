//! Which offer is taken, and what a request must have.

use super::*;
use crate::streaming::{PortForward, Streams};

fn exec() -> Task {
    Task::Exec(Streams::default(), Box::new(|_| Box::pin(async { Ok(0) })))
}

fn forward() -> Task {
    Task::PortForward(PortForward { netns: None, ports: vec![80] })
}

fn request(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, http::HeaderValue::from_static(value));
    }
    headers
}

/// The agreed protocol's name, or the status of the refusal.
fn check(task: &Task, lines: &[(&'static str, &'static str)]) -> String {
    let headers = request(lines);
    let answer = match transport(&headers).and_then(|transport| agree(&headers, transport, task)) {
        Ok((_, answer)) => answer,
        Err(answer) => return answer.status().as_str().into(),
    };
    let protocol = answer.headers().get(STREAM_PROTOCOL).or(answer.headers().get(SEC_WEBSOCKET_PROTOCOL));
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    protocol.map_or(String::new(), |name| name.to_str().unwrap().into())
}

const SPDY_UPGRADE: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
const WEBSOCKET: [(&str, &str); 4] = [
    ("connection", "keep-alive, upgrade"),
    ("upgrade", "WebSocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn with(
    base: &[(&'static str, &'static str)],
    more: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    [base, more].concat()
}

#[test]
fn the_clients_first_known_offer_is_taken() {
    let offers = |names: &[&'static str]| {
        let lines: Vec<_> = names.iter().map(|name| (STREAM_PROTOCOL, *name)).collect();
        check(&exec(), &with(&SPDY_UPGRADE, &lines))
    };
    assert_eq!(offers(&["v9.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"]), "v4.channel.k8s.io");
    assert_eq!(offers(&["channel.k8s.io"]), "channel.k8s.io");
    assert_eq!(offers(&[]), "");
    assert_eq!(offers(&["v9.channel.k8s.io"]), "403");
    let ws = |offers| check(&exec(), &with(&WEBSOCKET, &[("sec-websocket-protocol", offers)]));
    assert_eq!(ws("v5.channel.k8s.io, v4.channel.k8s.io"), "v5.channel.k8s.io");
    assert_eq!(ws("x,base64.channel.k8s.io"), "base64.channel.k8s.io");
    assert_eq!(ws("SPDY/3.1+portforward.k8s.io"), "400");
    assert_eq!(check(&exec(), &WEBSOCKET), "");
}

#[test]
fn port_forward_has_protocols_of_its_own() {
    let lines = with(&SPDY_UPGRADE, &[(STREAM_PROTOCOL, "portforward.k8s.io")]);
    assert_eq!(check(&forward(), &lines), "portforward.k8s.io");
    assert_eq!(check(&forward(), &with(&SPDY_UPGRADE, &[(STREAM_PROTOCOL, "v4.channel.k8s.io")])), "403");
    let ws = |offers| check(&forward(), &with(&WEBSOCKET, &[("sec-websocket-protocol", offers)]));
    assert_eq!(ws(TUNNEL), TUNNEL);
    assert_eq!(ws("v4.channel.k8s.io"), "v4.channel.k8s.io");
    assert_eq!(ws("v5.channel.k8s.io"), "400");
}

#[test]
fn what_is_no_upgrade_is_refused() {
    assert_eq!(check(&exec(), &[]), "400");
    assert_eq!(check(&exec(), &[("connection", "upgrade"), ("upgrade", "h2c")]), "400");
    assert_eq!(check(&exec(), &[("upgrade", "websocket")]), "400");
    assert_eq!(check(&exec(), &WEBSOCKET[..2]), "426");
    assert_eq!(check(&exec(), &WEBSOCKET[..3]), "400");
}

#[test]
fn the_key_is_answered_as_the_rfc_has_it() {
    let headers = request(&WEBSOCKET);
    let (_, answer) = agree(&headers, Transport::WebSocket, &exec()).unwrap();
    assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}
