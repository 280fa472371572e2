//! The HTTPS endpoint as callers meet it: who is let in, logs, and an upgraded exec passed through.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::house::House;

struct Ca {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

fn ca() -> Ca {
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("key");
    let certificate = params.self_signed(&key).expect("ca");
    Ca { certificate, issuer: rcgen::Issuer::new(params, key) }
}

impl Ca {
    /// A client certificate and key in PEM.
    fn client(&self, name: &str, group: &str) -> (Vec<u8>, Vec<u8>) {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(house: &House, client: Option<&(Vec<u8>, Vec<u8>)>) -> Stream {
    let serving = std::fs::read(house.dir.path().join("root/pki/kubelet.crt")).expect("the serving certificate");
    let config = crate::certs::client_config(Some(&serving), client, &[b"http/1.1"]).expect("a config");
    let tcp = TcpStream::connect(("127.0.0.1", house.port)).await.expect("connect");
    let name = rustls_pki_types::ServerName::try_from("n1").expect("a name");
    TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await.expect("TLS")
}

/// One request; the status and the whole body.
async fn ask(house: &House, client: Option<&(Vec<u8>, Vec<u8>)>, path: &str, more: &str) -> (u16, String) {
    let mut stream = connect(house, client).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    read.expect("in time").ok();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, b)| b.to_string()).unwrap_or_default())
}

async fn house(name: &str) -> (House, Ca) {
    let ca = ca();
    let mut house = House::empty(name).await;
    house.client_ca = Some(ca.certificate.pem());
    house.start().await;
    house.pod("p", json!({"containers": [{"name": "web", "image": "busybox:1"}]}));
    house.until_ready("p").await;
    (house, ca)
}

#[tokio::test]
async fn only_those_who_may_are_answered() {
    let (house, ca) = house("auth").await;
    house.api.allow("bearer");
    let master = ca.client("admin", "system:masters");
    let nobody = ca.client("mallory", "people");
    assert_eq!(ask(&house, None, "/pods", "").await.0, 401);
    assert_eq!(ask(&house, None, "/pods", "Authorization: Bearer bad\r\n").await.0, 401);
    assert_eq!(ask(&house, None, "/healthz", "").await.0, 401);
    assert_eq!(ask(&house, None, "/pods", "Authorization: Bearer good\r\n").await.0, 200);
    assert_eq!(ask(&house, Some(&nobody), "/exec/default/p/web?command=sh", "").await.0, 403);
    let (code, body) = ask(&house, Some(&master), "/pods", "").await;
    assert_eq!(code, 200);
    let pods: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(pods["items"][0]["metadata"]["name"], "p");
    assert_eq!(ask(&house, Some(&master), "/nothing", "").await.0, 404);
    let (_, timings) = ask(&house, Some(&master), "/debug/pod-timings", "").await;
    let stages = serde_json::from_str::<Value>(&timings).expect("JSON")["default/p"].clone();
    for stage in ["seen", "sandboxStart", "sandboxEnd", "imageEnd", "createEnd", "startEnd", "ready"] {
        assert!(stages[stage].as_u64().is_some_and(|ns| ns > 0), "{stage} in {stages}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_nobody() {
    let (house, _) = house("otherca").await;
    let stranger = ca().client("admin", "system:masters");
    let serving = std::fs::read(house.dir.path().join("root/pki/kubelet.crt")).expect("the serving certificate");
    let config = crate::certs::client_config(Some(&serving), Some(&stranger), &[b"http/1.1"]).expect("a config");
    let tcp = TcpStream::connect(("127.0.0.1", house.port)).await.expect("connect");
    let name = rustls_pki_types::ServerName::try_from("n1").expect("a name");
    // With TLS 1.3 the refusal shows at the first read.
    let Ok(mut stream) = TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await else { return };
    let _ = stream.write_all(b"GET /pods HTTP/1.1\r\nHost: n1\r\n\r\n").await;
    let mut answer = [0u8; 16];
    assert!(!matches!(stream.read(&mut answer).await, Ok(n) if n > 0), "it was answered");
}

#[tokio::test]
async fn logs_are_read_and_previous_ones_too() {
    let (house, ca) = house("logs").await;
    let master = ca.client("admin", "system:masters");
    let dir = house.dir.path().join("logs/default_p_uid-p/web");
    std::fs::write(dir.join("0.log"), "2026-11-23T15:00:00.000000000Z stdout F hello\n").expect("log");
    assert_eq!(ask(&house, Some(&master), "/containerLogs/default/p/web", "").await.1.lines().nth(1), Some("hello"));
    assert_eq!(ask(&house, Some(&master), "/containerLogs/default/p/web?previous=true", "").await.0, 400);
    assert_eq!(ask(&house, Some(&master), "/containerLogs/default/p/other", "").await.0, 404);
    assert_eq!(ask(&house, Some(&master), "/containerLogs/default/q/web", "").await.0, 404);
    house.cri.exit("web", 1);
    house.until("a restart", || house.status("p")["containerStatuses"][0]["restartCount"] == 1).await;
    std::fs::write(dir.join("1.log"), "2026-11-23T15:00:00.000000000Z stdout F again\n").expect("log");
    assert!(ask(&house, Some(&master), "/containerLogs/default/p/web", "").await.1.contains("again"));
    assert!(ask(&house, Some(&master), "/containerLogs/default/p/web?previous=true", "").await.1.contains("hello"));
}

/// A streaming server that upgrades anything and echoes in capitals.
async fn streaming() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0u8; 4096];
            let n = stream.read(&mut buffer).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&buffer[..n]).to_lowercase();
            if !head.contains("upgrade: spdy/3.1")
                || !head.starts_with("post /exec/token")
                || head.contains("authorization")
            {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
                continue;
            }
            let _ = stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
                .await;
            while let Ok(n) = stream.read(&mut buffer).await {
                if n == 0 || stream.write_all(&buffer[..n].to_ascii_uppercase()).await.is_err() {
                    break;
                }
            }
        }
    });
    format!("http://{address}/exec/token")
}

#[tokio::test]
async fn an_exec_is_passed_through_byte_for_byte() {
    let (house, _) = house("exec").await;
    house.api.allow("bearer");
    house.cri.world().stream_url = streaming().await;
    house.cri.take_log();
    let mut stream = connect(&house, None).await;
    let request = "POST /exec/default/p/web?command=sh&command=-c&stdin=true&stdout=true HTTP/1.1\r\nHost: n1\r\n\
        Authorization: Bearer good\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"bytes \x00 and more").await.expect("send");
    let mut echoed = [0u8; 16];
    stream.read_exact(&mut echoed).await.expect("an echo");
    assert_eq!(&echoed, b"BYTES \x00 AND MORE");
    assert_eq!(house.cri.take_log(), "stream web-0 sh -c tty=false");
}
