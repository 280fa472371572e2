//! One probe, once: exec, HTTP, TCP, gRPC. The answer is Ok with what was said, or Err with why not, both
//! for people. Rules: upstream's pkg/probe. No connection is kept.

use std::time::Duration;

use gantry_cri_api::tonic;
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tonic::codegen::http::uri::PathAndQuery;

use crate::cri::Cri;

/// The most that is read of an answer.
const MOST: usize = 10 * 1024;

/// Where a container is to be probed.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub id: String,
    pub ip: String,
}

/// Carries the probe out within `limit`.
pub(crate) async fn once(
    cri: &Cri,
    probe: &Probe,
    c: &Container,
    spot: &Spot,
    limit: Duration,
) -> Result<String, String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let run = tokio::time::timeout(limit, cri.exec_sync(&spot.id, &command, limit)).await;
        let done = match run {
            Err(_) => return Err(format!("command timed out: {command:?} timed out after {}s", limit.as_secs())),
            Ok(Err(why)) => return Err(why.to_string()),
            Ok(Ok(done)) => done,
        };
        let output: String = done.output.chars().take(MOST).collect();
        return if done.code == 0 { Ok(output) } else { Err(output) };
    }
    if let Some(get) = &probe.http_get {
        return http(get, c, &spot.ip, limit).await;
    }
    if let Some(socket) = &probe.tcp_socket {
        return tcp(socket, c, &spot.ip, limit).await;
    }
    if let Some(grpc) = &probe.grpc {
        return health(grpc, &spot.ip, limit).await;
    }
    Err("missing probe handler".into())
}

/// A port by number, or by the name of one of the container's ports.
pub(crate) fn port(wanted: &IntOrString, c: &Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => c
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(text))
            .map(|p| p.container_port)
            .or_else(|| text.parse().ok()),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("couldn't find port: {wanted:?}"))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_string() }
}

async fn tcp(socket: &TCPSocketAction, c: &Container, ip: &str, limit: Duration) -> Result<String, String> {
    let host = socket.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
    let address = format!("{}:{}", bracketed(host), port(&socket.port, c)?);
    match tokio::time::timeout(limit, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Ok(String::new()),
        Ok(Err(why)) => Err(format!("dial tcp {address}: {why}")),
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
    }
}

/// An HTTP GET as a probe or hook does it: any certificate is fine, 200 to 399 is success, redirects are
/// followed on the same host only.
pub(crate) async fn http(get: &HTTPGetAction, c: &Container, ip: &str, limit: Duration) -> Result<String, String> {
    let host = get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("{scheme}://{}:{}{slash}{path}", bracketed(host), port(&get.port, c)?);
    let client = http_client()?;
    let mut request = client.get(&url).timeout(limit).header("Accept", "*/*").header("Connection", "close");
    for header in get.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let mut answer = request.send().await.map_err(|why| format!("Get {url:?}: {}", chain(&why)))?;
    let status = answer.status();
    let mut body = Vec::new();
    while body.len() < MOST {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    body.truncate(MOST);
    if (200..400).contains(&status.as_u16()) {
        return Ok(String::from_utf8_lossy(&body).into_owned());
    }
    Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn http_client() -> Result<reqwest::Client, String> {
    static CLIENT: std::sync::LazyLock<Result<reqwest::Client, String>> = std::sync::LazyLock::new(|| {
        let tls = crate::certs::probe_config().map_err(|e| e.to_string())?;
        let same_host = reqwest::redirect::Policy::custom(|attempt| {
            let first = attempt.previous().first().and_then(|url| url.host_str()).map(str::to_string);
            if attempt.previous().len() > 10 {
                attempt.error("stopped after 10 redirects")
            } else if attempt.url().host_str() == first.as_deref() {
                attempt.follow()
            } else {
                attempt.stop()
            }
        });
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent("kube-probe/1.33")
            .redirect(same_host)
            .pool_max_idle_per_host(0)
            .no_proxy()
            .http1_only()
            .build()
            .map_err(|e| e.to_string())
    });
    CLIENT.clone()
}

/// grpc.health.v1.HealthCheckRequest.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// grpc.health.v1.HealthCheckResponse; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn health(grpc: &GRPCAction, ip: &str, limit: Duration) -> Result<String, String> {
    let ask = async {
        let address = format!("http://{}:{}", bracketed(ip), grpc.port);
        let endpoint = tonic::transport::Endpoint::from_shared(address.clone()).map_err(|e| e.to_string())?;
        let channel = endpoint.connect().await.map_err(|e| format!("connect {address}: {}", chain(&e)))?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|e| e.to_string())?;
        let request = tonic::Request::new(HealthRequest { service: grpc.service.clone().unwrap_or_default() });
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
        let answer = client.unary(request, path, codec).await.map_err(|s| format!("health check: {}", s.message()))?;
        match answer.into_inner().status {
            1 => Ok("SERVING".to_string()),
            other => Err(format!("service unhealthy (responded with status {other})")),
        }
    };
    tokio::time::timeout(limit, ask).await.map_err(|_| "health check timed out".to_string())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn serve(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0u8; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn action<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).expect("an action")
    }

    #[tokio::test]
    async fn http_codes_decide() {
        let c: Container = action(json!({"name": "c"}));
        let limit = Duration::from_secs(2);
        for (answer, fine) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", true),
            ("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", false),
            ("garbage\r\n\r\n", false),
        ] {
            let get: HTTPGetAction = action(json!({"port": serve(answer).await, "path": "x"}));
            let said = http(&get, &c, "127.0.0.1", limit).await;
            assert_eq!(said.is_ok(), fine, "{answer}: {said:?}");
        }
        let get: HTTPGetAction = action(json!({"port": "web"}));
        assert!(http(&get, &c, "127.0.0.1", limit).await.expect_err("no port").contains("couldn't find port"));
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_fails() {
        let c: Container = action(json!({"name": "c", "ports": [{"name": "web", "containerPort": 7}]}));
        assert_eq!(port(&IntOrString::String("web".into()), &c), Ok(7));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let number = listener.local_addr().expect("address").port();
        let socket: TCPSocketAction = action(json!({"port": number}));
        assert!(tcp(&socket, &c, "127.0.0.1", Duration::from_secs(1)).await.is_ok());
        drop(listener);
        assert!(tcp(&socket, &c, "127.0.0.1", Duration::from_secs(1)).await.is_err());
    }
}
