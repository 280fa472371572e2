//! What only a node can answer: logs, exec, attach, port-forward, proxy. The request goes on to the kubelet over TLS
//! with the API server's client certificate; an upgraded connection is passed through byte for byte, so that
//! WebSocket and SPDY are terminated in one place only, the CRI server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::{Body, BodyError};
use super::query::Query;
use super::route::Target;
use super::{Api, Call, verbs};
use crate::error::{Error, Kind, Result};
use crate::kinds::form;

/// How long a node may take to accept a connection.
const DIAL: Duration = Duration::from_secs(10);

/// Most of an error text of a kubelet that is repeated.
const ERROR_TEXT: usize = 4096;

/// Where a request goes.
#[derive(Debug)]
struct Backend {
    address: SocketAddr,
    /// The name in the certificate; `None` speaks plain HTTP (to a pod).
    tls_name: Option<String>,
    /// Path and query.
    path: String,
}

/// Passes a request on.
pub(crate) async fn pass(api: &Api, call: &Call, target: &Target, request: Request<Body>) -> Result<Response<Body>> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let backend = backend(api, call, target, &query).await?;
    let mut response = send(api, &backend, request).await?;
    // What a kubelet says is wrong becomes a Status; what a proxied server says is its own business.
    if target.subresource != "proxy" && response.status().as_u16() >= 400 {
        return Err(refusal(response).await);
    }
    response.headers_mut().remove("transfer-encoding");
    Ok(response)
}

async fn backend(api: &Api, call: &Call, target: &Target, query: &str) -> Result<Backend> {
    if call.kind.plural == "nodes" {
        let mut call = call.clone();
        let (name, _) = call.name.split_once(':').unwrap_or((&call.name, ""));
        call.name = name.trim_start_matches("https:").to_owned();
        let node = verbs::get(api, &call).await?;
        let rest = if target.rest.is_empty() { "/" } else { &target.rest };
        return kubelet(&node, with_query(rest, query));
    }
    if target.subresource == "proxy" {
        return pod_backend(api, call, target, query).await;
    }
    let pod = verbs::get(api, call).await?;
    let node_name = form::text(&pod, &["spec", "nodeName"]);
    if node_name.is_empty() {
        let text = format!("pod {} does not have a host assigned", call.name);
        return Err(Error::new(Kind::BadRequest, text));
    }
    let node = Call::new(api.kinds.named("nodes")?, "", node_name, "", call.user.clone());
    let node = verbs::get(api, &node).await?;
    kubelet(&node, kubelet_path(&pod, &target.subresource, query)?)
}

/// The kubelet of a node.
fn kubelet(node: &Value, path: String) -> Result<Backend> {
    let name = form::text(node, &["metadata", "name"]);
    let addresses = form::list(node, &["status", "addresses"]);
    let ip = |kind: &str| {
        let found = addresses.iter().find(|a| a["type"] == kind)?;
        form::text(found, &["address"]).parse::<IpAddr>().ok()
    };
    let ip = ip("InternalIP").or_else(|| ip("ExternalIP"));
    let ip = ip.ok_or_else(|| Error::new(Kind::BadGateway, format!("node {name:?} has no address yet")))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap_or(10_250);
    let port =
        u16::try_from(port).map_err(|_| Error::new(Kind::BadGateway, format!("node {name:?} names port {port}")))?;
    Ok(Backend { address: (ip, port).into(), tls_name: Some(name.to_owned()), path })
}

/// A pod's own HTTP server: `web`, `web:8080`.
async fn pod_backend(api: &Api, call: &Call, target: &Target, query: &str) -> Result<Backend> {
    let mut call = call.clone();
    let given = call.name.clone();
    let (name, port) = given.split_once(':').unwrap_or((&given, ""));
    call.name = name.to_owned();
    let pod = verbs::get(api, &call).await?;
    let ip: Option<IpAddr> = form::text(&pod, &["status", "podIP"]).parse().ok();
    // A pod's status is its node's word: an address of this host itself is not believed.
    let ip = ip.filter(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
    });
    let ip =
        ip.ok_or_else(|| Error::new(Kind::BadGateway, format!("pod {name:?} has no address that can be reached")))?;
    let first = pod["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64();
    let port = match port {
        "" => first.and_then(|p| u16::try_from(p).ok()).unwrap_or(80),
        text => text.parse().map_err(|_| Error::new(Kind::BadRequest, format!("invalid port {text:?}")))?,
    };
    let rest = if target.rest.is_empty() { "/" } else { &target.rest };
    Ok(Backend { address: (ip, port).into(), tls_name: None, path: with_query(rest, query) })
}

fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// The kubelet's path for a subresource of a pod, with its names of the options.
fn kubelet_path(pod: &Value, subresource: &str, query: &str) -> Result<String> {
    let (namespace, name) = (form::text(pod, &["metadata", "namespace"]), form::text(pod, &["metadata", "name"]));
    let options = Query::parse(query);
    if subresource == "portforward" {
        let ports: Vec<String> = options.all("ports").map(|p| format!("port={}", escape(p))).collect();
        return Ok(with_query(&format!("/portForward/{namespace}/{name}"), &ports.join("&")));
    }
    let container = container(pod, options.get("container"))?;
    if subresource == "log" {
        let rest: Vec<&str> = query.split('&').filter(|p| !p.is_empty() && !p.starts_with("container=")).collect();
        return Ok(with_query(&format!("/containerLogs/{namespace}/{name}/{container}"), &rest.join("&")));
    }
    let mut out: Vec<String> = options.all("command").map(|c| format!("command={}", escape(c))).collect();
    for (theirs, ours) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if options.flag(theirs) {
            out.push(format!("{ours}=1"));
        }
    }
    Ok(with_query(&format!("/{subresource}/{namespace}/{name}/{container}"), &out.join("&")))
}

/// The container that is meant: named, annotated as the default, or the only one.
fn container(pod: &Value, wanted: &str) -> Result<String> {
    let name = form::text(pod, &["metadata", "name"]);
    let names = |list: &str| -> Vec<String> {
        form::list(pod, &["spec", list]).iter().map(|c| form::text(c, &["name"]).to_owned()).collect()
    };
    let (main, init, debug) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let known = |n: &str| [&main, &init, &debug].iter().any(|list| list.iter().any(|c| c == n));
    let default = form::text(pod, &["metadata", "annotations", "kubectl.kubernetes.io/default-container"]);
    let bad = |text: String| Err(Error::new(Kind::BadRequest, text));
    match (wanted, main.as_slice()) {
        ("", [only]) => Ok(only.clone()),
        ("", _) if known(default) => Ok(default.to_owned()),
        ("", _) => {
            let choices = main.join(" ");
            bad(format!("a container name must be specified for pod {name}, choose one of: [{choices}]"))
        }
        (wanted, _) if known(wanted) => Ok(wanted.to_owned()),
        (wanted, _) => bad(format!("container {wanted} is not valid for pod {name}")),
    }
}

/// Escapes what has a meaning in a query.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn dial(api: &Api, backend: &Backend) -> Result<Box<dyn Stream>> {
    let failed = |e: std::io::Error| {
        Error::new(Kind::BadGateway, format!("error dialing backend {}", backend.address)).because(e)
    };
    let connect = tokio::time::timeout(DIAL, TcpStream::connect(backend.address)).await;
    let socket = connect.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    let Some(name) = &backend.tls_name else { return Ok(Box::new(socket)) };
    let config = api.kubelet_tls.clone();
    let config = config.ok_or_else(|| Error::new(Kind::Unavailable, "this server has no certificate for kubelets"))?;
    let name = ServerName::try_from(name.clone())
        .map_err(|_| Error::new(Kind::BadGateway, format!("{name:?} is no name that a certificate can have")))?;
    let handshake = tokio::time::timeout(DIAL, TlsConnector::from(config).connect(name, socket)).await;
    let stream = handshake.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(failed)?;
    Ok(Box::new(stream))
}

/// Headers between two hops only (RFC 9110, 7.6.1), and who asked: the kubelet knows us by our certificate.
fn strip(headers: &mut HeaderMap, upgrade: bool) {
    for name in ["keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "authorization", "cookie"] {
        headers.remove(name);
    }
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    if !upgrade {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
}

async fn send(api: &Api, backend: &Backend, mut request: Request<Body>) -> Result<Response<Body>> {
    let failed =
        |e: hyper::Error| Error::new(Kind::BadGateway, format!("error from backend {}", backend.address)).because(e);
    let stream = dial(api, backend).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection.with_upgrades());
    let upgrade = request.headers().contains_key(UPGRADE);
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    strip(&mut parts.headers, upgrade);
    let bad = |e: http::uri::InvalidUri| Error::new(Kind::BadRequest, format!("the path cannot be passed on: {e}"));
    parts.uri = backend.path.parse::<Uri>().map_err(bad)?;
    parts.version = http::Version::HTTP_11;
    let host = HeaderValue::from_str(&backend.address.to_string()).expect("an address is plain text");
    parts.headers.insert(HOST, host);
    let mut response = sender.send_request(Request::from_parts(parts, body)).await.map_err(failed)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return Err(Error::new(Kind::BadGateway, "the backend switched protocols unasked"));
        };
        let server = hyper::upgrade::on(&mut response);
        tokio::spawn(join(client, server, api.shutdown.clone()));
    }
    let (mut parts, body) = response.into_parts();
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        parts.headers.remove(CONNECTION);
    }
    Ok(Response::from_parts(parts, body.map_err(BodyError::from).boxed_unsync()))
}

/// Carries bytes both ways until either side ends.
async fn join(
    client: hyper::upgrade::OnUpgrade,
    server: hyper::upgrade::OnUpgrade,
    shutdown: tokio_util::sync::CancellationToken,
) {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "a connection was not upgraded"),
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    tokio::select! {
        done = tokio::io::copy_bidirectional(&mut client, &mut server) => {
            if let Err(error) = done {
                tracing::debug!(%error, "a stream ended");
            }
        }
        () = shutdown.cancelled() => {}
    }
}

/// A kubelet's refusal as our error.
async fn refusal(response: Response<Body>) -> Error {
    let kind = match response.status() {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::BAD_REQUEST => Kind::BadRequest,
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Kind::Forbidden,
        StatusCode::TOO_MANY_REQUESTS => Kind::TooManyRequests,
        StatusCode::SERVICE_UNAVAILABLE => Kind::Unavailable,
        _ => Kind::Internal,
    };
    let status = response.status();
    let text = match Limited::new(response.into_body(), ERROR_TEXT).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    let text = if text.is_empty() { format!("the kubelet answered {status}") } else { text };
    Error::new(kind, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {"namespace": "n", "name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}})
    }

    #[test]
    fn options_take_the_kubelets_names() {
        let path = |sub: &str, query: &str| kubelet_path(&pod(), sub, query).expect("path");
        assert_eq!(
            path("exec", "command=sh&command=-c&command=echo%20%26&container=a&stdin=true&stdout=true&tty=false"),
            "/exec/n/p/a?command=sh&command=-c&command=echo%20%26&input=1&output=1"
        );
        assert_eq!(path("log", "container=i&follow=true&tailLines=3"), "/containerLogs/n/p/i?follow=true&tailLines=3");
        assert_eq!(path("attach", "container=b&stderr=true"), "/attach/n/p/b?error=1");
        assert_eq!(path("portforward", "ports=80&ports=81"), "/portForward/n/p?port=80&port=81");
        assert_eq!(path("portforward", ""), "/portForward/n/p");
    }

    #[test]
    fn the_container_has_to_be_clear() {
        let said = kubelet_path(&pod(), "log", "").expect_err("two containers").to_string();
        assert_eq!(said, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(
            kubelet_path(&pod(), "log", "container=x").expect_err("none such").to_string(),
            "container x is not valid for pod p"
        );
        let mut annotated = pod();
        annotated["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(kubelet_path(&annotated, "log", "").expect("default"), "/containerLogs/n/p/b");
    }

    #[test]
    fn credentials_stay_here() {
        let mut headers = HeaderMap::new();
        for name in
            ["authorization", "cookie", "impersonate-user", "connection", "upgrade", "x-stream-protocol-version"]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        strip(&mut headers, true);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["connection", "upgrade", "x-stream-protocol-version"]);
    }

    #[test]
    fn a_kubelet_is_at_its_nodes_address() {
        let node = json!({"metadata": {"name": "n1"}, "status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.7"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 12345}}}});
        let backend = kubelet(&node, "/x".into()).expect("backend");
        assert_eq!(backend.address.to_string(), "10.0.0.7:12345");
        assert_eq!(backend.tls_name.as_deref(), Some("n1"));
        assert!(kubelet(&json!({"metadata": {"name": "n2"}}), "/".into()).is_err());
    }
}
