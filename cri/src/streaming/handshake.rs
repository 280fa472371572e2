//! From a request's headers to what is spoken after the upgrade, decided without I/O.
//!
//! Source: RFC 6455 section 4.2; `httpstream.Handshake` of Kubernetes for SPDY. Of what the client offers, the first
//! that we speak is taken, as its list is in its order of preference.

use super::forward;
use super::remote::{VERSIONS, Version};
use super::tokens::Task;
use super::websocket::{CHANNELS, FORWARD, Protocol, TUNNEL};
use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";
const SPDY: &str = "SPDY/3.1";

/// An answer with a body of text.
pub(super) type Answer = Response<Full<Bytes>>;

/// What is spoken after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// Exec and attach over SPDY.
    SpdyRemote(Version),
    /// Port-forward over SPDY.
    SpdyForward,
    /// Channels in WebSocket messages.
    Channels(Protocol),
    /// SPDY in WebSocket messages.
    Tunnel,
}

/// The transport that a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket,
    Spdy,
}

/// What the request wants to be upgraded to.
///
/// # Errors
/// The answer to a request that wants neither of the two.
pub(super) fn transport(headers: &HeaderMap) -> Result<Transport, Box<Answer>> {
    let upgrade = |name: &str| list(headers, UPGRADE.as_str()).iter().any(|offer| offer.eq_ignore_ascii_case(name));
    if !list(headers, CONNECTION.as_str()).iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(refuse(StatusCode::BAD_REQUEST, "upgrade request required"));
    }
    match (upgrade("websocket"), upgrade(SPDY)) {
        (true, _) => Ok(Transport::WebSocket),
        (_, true) => Ok(Transport::Spdy),
        _ => Err(refuse(StatusCode::BAD_REQUEST, "upgrade to websocket or SPDY/3.1 required")),
    }
}

/// What is spoken for a task, and the answer (101) that says so.
///
/// # Errors
/// The answer to a request whose protocols are all unknown, or that is malformed.
pub(super) fn agree(headers: &HeaderMap, transport: Transport, task: &Task) -> Result<(Spoken, Answer), Box<Answer>> {
    match (transport, task) {
        (Transport::Spdy, Task::Exec(..) | Task::Attach(..)) => {
            let version = first(&list(headers, STREAM_PROTOCOL), &VERSIONS, |version| version.name);
            let version = version.ok_or_else(|| unknown_versions(VERSIONS.iter().map(|version| version.name)))?;
            Ok((Spoken::SpdyRemote(version), switch_to_spdy(version.name)))
        }
        (Transport::Spdy, Task::PortForward(_)) => {
            let known = [forward::PROTOCOL, ""];
            let name = first(&list(headers, STREAM_PROTOCOL), &known, |name| *name);
            let name = name.ok_or_else(|| unknown_versions([forward::PROTOCOL].into_iter()))?;
            Ok((Spoken::SpdyForward, switch_to_spdy(name)))
        }
        (Transport::WebSocket, task) => {
            let offers = list(headers, SEC_WEBSOCKET_PROTOCOL.as_str());
            let tunnel = matches!(task, Task::PortForward(_)) && offers.contains(&TUNNEL);
            let known: &[Protocol] = if matches!(task, Task::PortForward(_)) { &FORWARD } else { &CHANNELS };
            let spoken = match tunnel {
                true => Some(Spoken::Tunnel),
                false => first(&offers, known, |protocol| protocol.name).map(Spoken::Channels),
            };
            let spoken = spoken.ok_or_else(|| {
                refuse(StatusCode::BAD_REQUEST, "none of the offered websocket sub-protocols is known")
            })?;
            let name = if let Spoken::Channels(protocol) = spoken { protocol.name } else { TUNNEL };
            Ok((spoken, switch_to_websocket(headers, name)?))
        }
    }
}

/// The first offer that is known; a client that offers nothing gets the protocol without a name.
fn first<T: Copy>(offers: &[&str], known: &[T], name: impl Fn(&T) -> &'static str) -> Option<T> {
    let offers = if offers.is_empty() { &[""] } else { offers };
    offers.iter().find_map(|offer| known.iter().find(|known| name(known) == *offer).copied())
}

/// The elements of a header that is a list, over all its lines.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn unknown_versions(known: impl Iterator<Item = &'static str>) -> Box<Answer> {
    let mut answer = refuse(StatusCode::FORBIDDEN, "none of the offered stream protocol versions is known");
    for name in known.filter(|name| !name.is_empty()) {
        answer.headers_mut().append(ACCEPTED_PROTOCOLS, http::HeaderValue::from_static(name));
    }
    answer
}

/// An answer that is not an upgrade.
pub(super) fn refuse(status: StatusCode, why: &'static str) -> Box<Answer> {
    let mut answer = Response::new(Full::new(Bytes::from_static(why.as_bytes())));
    *answer.status_mut() = status;
    Box::new(answer)
}

fn switch(to: &'static str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    answer.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(to));
    answer
}

fn switch_to_spdy(version: &'static str) -> Answer {
    let mut answer = switch(SPDY);
    if !version.is_empty() {
        answer.headers_mut().insert(STREAM_PROTOCOL, http::HeaderValue::from_static(version));
    }
    answer
}

fn switch_to_websocket(headers: &HeaderMap, protocol: &'static str) -> Result<Answer, Box<Answer>> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut answer = refuse(StatusCode::UPGRADE_REQUIRED, "websocket version 13 required");
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, http::HeaderValue::from_static("13"));
        return Err(answer);
    }
    let accept = headers
        .get(SEC_WEBSOCKET_KEY)
        .and_then(|key| derive_accept_key(key.as_bytes()).parse::<http::HeaderValue>().ok())
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "websocket key required"))?;
    let mut answer = switch("websocket");
    answer.headers_mut().insert(http::header::SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, http::HeaderValue::from_static(protocol));
    }
    Ok(answer)
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
