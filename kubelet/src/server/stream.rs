//! exec, attach and portForward: the runtime is asked for a streaming URL, and the caller's upgraded
//! connection is passed through to it byte for byte. SPDY and WebSocket are terminated there, not here.

use gantry_cri_api as cri;
use http::{HeaderMap, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::{Error, Kind, Result};
use crate::shared::Shared;

/// A response body.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Connection-bound headers that are not passed on, unless they ask for the upgrade.
const HOP: [&str; 5] = ["keep-alive", "proxy-connection", "transfer-encoding", "te", "authorization"];

/// What the query of an exec or attach asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    pub ports: Vec<i32>,
}

impl Streams {
    /// Reads both spellings: the API server's (`stdin=true`) and the kubelet's own (`input=1`).
    pub(crate) fn parse(query: &[(String, String)]) -> Self {
        let mut out = Self::default();
        let flag = |v: &str| matches!(v, "1" | "true");
        for (key, value) in query {
            match key.as_str() {
                "command" => out.command.push(value.clone()),
                "stdin" | "input" => out.stdin |= flag(value),
                "stdout" | "output" => out.stdout |= flag(value),
                "stderr" | "error" => out.stderr |= flag(value),
                "tty" => out.tty |= flag(value),
                "port" | "ports" => out.ports.extend(value.split(',').filter_map(|p| p.parse::<i32>().ok())),
                _ => {}
            }
        }
        // A terminal has one output.
        out.stderr &= !out.tty;
        out
    }
}

pub(crate) async fn exec(shared: &Shared, id: &str, wanted: Streams) -> Result<String> {
    if wanted.command.is_empty() {
        return Err(Error::pod("exec needs a command"));
    }
    let request = cri::ExecRequest {
        container_id: id.into(),
        cmd: wanted.command,
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    shared.cri.exec(request).await
}

pub(crate) async fn attach(shared: &Shared, id: &str, tty: bool, wanted: &Streams) -> Result<String> {
    let request = cri::AttachRequest {
        container_id: id.into(),
        stdin: wanted.stdin,
        tty,
        stdout: wanted.stdout,
        stderr: wanted.stderr && !tty,
    };
    shared.cri.attach(request).await
}

pub(crate) async fn port_forward(shared: &Shared, sandbox: &str, wanted: &Streams) -> Result<String> {
    let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.into(), port: wanted.ports.clone() };
    shared.cri.port_forward(request).await
}

/// Sends `request` on to `url` and, where the runtime answers 101, joins the two connections.
///
/// # Errors
/// `Kind::Cri` where the runtime's streaming server cannot be reached or speaks no HTTP.
pub(crate) async fn proxy(mut request: Request<Incoming>, url: &str) -> Result<Response<Body>> {
    let bad = |what: &str| Error::new(Kind::Cri, format!("the runtime's streaming URL {what}"));
    let uri: Uri = url.parse().map_err(|e| bad("cannot be read").because(e))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad("is not http://"));
    }
    let authority = uri.authority().ok_or_else(|| bad("has no host"))?.clone();
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(&address).await.map_err(|e| bad("does not answer").because(e))?;
    stream.set_nodelay(true).map_err(|e| bad("does not answer").because(e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|e| bad("speaks no HTTP").because(e))?;
    tokio::spawn(async move {
        // Its end shows in the answer or in the upgraded stream.
        let _ = connection.with_upgrades().await;
    });
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = Request::builder().method(request.method().clone()).uri(path);
    if let Some(headers) = onward.headers_mut() {
        *headers = pass_on(request.headers());
        let host = authority.as_str().parse().map_err(|e| bad("has no usable host").because(e))?;
        headers.insert(header::HOST, host);
    }
    let onward = onward.body(Empty::new()).map_err(|e| bad("makes no request").because(e))?;
    let mut answer = sender.send_request(onward).await.map_err(|e| bad("gave no answer").because(e))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        return Ok(Response::from_parts(parts, body.map_err(std::io::Error::other).boxed()));
    }
    let (ours, theirs) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        if let Err(why) = tokio::io::copy_bidirectional_with_sizes(&mut ours, &mut theirs, 32 * 1024, 32 * 1024).await {
            tracing::debug!(%why, "a stream ended");
        }
    });
    let mut out = Response::new(Empty::new().map_err(|never| match never {}).boxed());
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = answer.headers().clone();
    Ok(out)
}

/// The headers to pass on: all but those of the connection, and never the caller's credentials.
fn pass_on(headers: &HeaderMap) -> HeaderMap {
    let mut out = headers.clone();
    for name in HOP {
        out.remove(name);
    }
    out.remove(header::CONTENT_LENGTH);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    #[test]
    fn both_spellings_are_understood() {
        let a = Streams::parse(&pairs(&[
            ("command", "sh"),
            ("command", "-c"),
            ("stdin", "true"),
            ("stdout", "true"),
            ("tty", "true"),
            ("stderr", "true"),
        ]));
        let b = Streams::parse(&pairs(&[
            ("command", "sh"),
            ("command", "-c"),
            ("input", "1"),
            ("output", "1"),
            ("tty", "1"),
        ]));
        assert_eq!(a, b);
        assert!(!a.stderr);
        assert_eq!(Streams::parse(&pairs(&[("port", "80"), ("ports", "81,x")])).ports, [80, 81]);
    }

    #[test]
    fn credentials_stay_here() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer canary".parse().expect("value"));
        headers.insert("upgrade", "SPDY/3.1".parse().expect("value"));
        headers.insert("connection", "Upgrade".parse().expect("value"));
        let passed = pass_on(&headers);
        assert!(!passed.contains_key("authorization"));
        assert!(passed.contains_key("upgrade") && passed.contains_key("connection"));
    }
}
