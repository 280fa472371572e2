//! Over TLS on the loopback: certificates, HTTP/2, and a fake kubelet behind.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::{PODS, pod};
use crate::access::{Access, User};
use crate::api::{Api, serve};
use crate::pki::{self, Identity, Names, Pki};
use crate::store::Store;
use crate::testing::TempDir;

struct Served {
    api: Arc<Api>,
    address: SocketAddr,
    pki: Pki,
    dir: TempDir,
    task: tokio::task::JoinHandle<crate::Result<()>>,
}

async fn served(what: &str) -> Served {
    let dir = TempDir::new(what);
    let names = Names { dns: vec!["localhost".into()], ips: vec!["127.0.0.1".parse().expect("address")] };
    let pki = pki::ensure(&dir.path().join("pki"), &names).expect("certificates");
    let store = Store::open(&dir.path().join("store")).expect("opens");
    let mut api = Api::new(store, Access::new(Default::default(), None), CancellationToken::new());
    api.kubelet_tls = Some(Arc::new(serve::kubelet_tls(&pki).expect("client side")));
    let api = Arc::new(api);
    api.bootstrap().await.expect("bootstraps");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = listener.local_addr().expect("address");
    let tls = serve::server_tls(&pki).expect("server side");
    let task = tokio::spawn(serve::serve(api.clone(), vec![listener], tls));
    Served { api, address, pki, dir, task }
}

fn client(pki: &Pki, identity: Option<&Identity>, alpn: &[u8]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem.as_bytes()).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).collect::<Result<_, _>>();
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain.expect("a chain"), key).expect("an identity")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

async fn dial(address: SocketAddr, config: rustls::ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

async fn get(stream: TlsStream<TcpStream>, path: &str) -> (StatusCode, String) {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new()).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn certificates_say_who_asks() {
    let served = served("tls").await;
    let admin = dial(served.address, client(&served.pki, Some(&served.pki.admin), b"http/1.1")).await.expect("admin");
    assert_eq!(get(admin, "/api/v1/namespaces").await.0, 200);
    let nobody = || client(&served.pki, None, b"http/1.1");
    let (status, _) = get(dial(served.address, nobody()).await.expect("anonymous"), "/healthz").await;
    assert_eq!(status, 200);
    let (status, text) = get(dial(served.address, nobody()).await.expect("anonymous"), "/api").await;
    assert_eq!((status.as_u16(), text.contains("Unauthorized")), (401, true));
    // A certificate of another authority with the same names is no certificate.
    let other = TempDir::new("other-ca");
    let other = pki::ensure(other.path(), &Names::default()).expect("certificates");
    let forged = client(&served.pki, Some(&other.admin), b"http/1.1");
    if let Ok(mut stream) = dial(served.address, forged).await {
        // With TLS 1.3 the client learns of the refusal at its first read.
        let _ = stream.write_all(b"GET /api HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut answer = Vec::new();
        let read =
            tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("in time");
        assert!(read.is_err() && answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn http2_serves_and_the_end_is_orderly() {
    let served = served("h2").await;
    let stream = dial(served.address, client(&served.pki, Some(&served.pki.admin), b"h2")).await.expect("h2");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    let ask =
        |path: &str| Request::get(format!("https://localhost{path}")).body(Empty::<Bytes>::new()).expect("a request");
    let watch = sender.send_request(ask("/api/v1/namespaces?watch=1&resourceVersion=0")).await.expect("a watch");
    assert_eq!(sender.send_request(ask("/version")).await.expect("an answer").status(), 200);
    served.api.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(8), served.task)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("served");
    let ended = tokio::time::timeout(Duration::from_secs(2), watch.into_body().collect()).await;
    assert!(ended.is_ok(), "the watch ends with the server");
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
    drop(served.dir);
}

/// A kubelet that answers logs and switches protocols for exec, echoing what it gets.
async fn fake_kubelet(pki: &Pki, dir: &std::path::Path) -> SocketAddr {
    let node = pki::issue_node(dir, "n1", &Names::default()).expect("a node's certificates");
    let identity = Pki { serving: node.serving, ..pki.clone() };
    let acceptor = TlsAcceptor::from(Arc::new(serve::server_tls(&identity).expect("server side")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(socket).await else { continue };
            let peer = stream.get_ref().1.peer_certificates().and_then(|c| c.first().cloned());
            let user = peer.and_then(|c| crate::access::user_of_certificate(&c)).unwrap_or_else(User::anonymous);
            let service = hyper::service::service_fn(move |request| kubelet(request, user.name.clone()));
            let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(server.with_upgrades());
        }
    });
    address
}

async fn kubelet(
    mut request: Request<Incoming>,
    user: String,
) -> Result<http::Response<String>, std::convert::Infallible> {
    let said = format!("{user} {} {}", request.method(), request.uri());
    let answer = http::Response::builder();
    if request.uri().path().starts_with("/containerLogs/default/p/broken") {
        return Ok(answer.status(400).body("container \"broken\" is waiting to start".into()).expect("an answer"));
    }
    if !request.headers().contains_key("upgrade") {
        return Ok(answer.body(said).expect("an answer"));
    }
    let protocol = request.headers()["sec-websocket-protocol"].clone();
    assert!(!request.headers().contains_key("authorization"));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.expect("upgraded"));
        stream.write_all(said.as_bytes()).await.expect("written");
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let answer = answer.status(101).header("connection", "upgrade").header("upgrade", "websocket");
    Ok(answer.header("sec-websocket-protocol", protocol).body(String::new()).expect("an answer"))
}

async fn with_kubelet(what: &str) -> Served {
    let served = served(what).await;
    let kubelet = fake_kubelet(&served.pki, &served.dir.path().join("pki")).await;
    let client = crate::client::Client::new(served.api.clone());
    let node = json!({"metadata": {"name": "n1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}}}});
    client.create("nodes", "", node).await.expect("a node");
    let mut both = pod("p");
    both["spec"]["containers"] = json!([{"name": "a", "image": "x"}, {"name": "broken", "image": "x"}]);
    client.create("pods", "default", both).await.expect("a pod");
    client.bind("default", "p", "n1").await.expect("bound");
    served
}

#[tokio::test]
async fn logs_come_from_the_kubelet() {
    let served = with_kubelet("logs").await;
    let admin = || client(&served.pki, Some(&served.pki.admin), b"http/1.1");
    let ask = |path: String| async move { get(dial(served.address, admin()).await.expect("dials"), &path).await };
    let (status, text) = ask(format!("{PODS}/p/log?container=a&tailLines=5")).await;
    assert_eq!(status, 200);
    assert_eq!(text, "kube-apiserver-kubelet-client GET /containerLogs/default/p/a?tailLines=5");
    let admin = || client(&served.pki, Some(&served.pki.admin), b"http/1.1");
    let (status, text) =
        get(dial(served.address, admin()).await.expect("dials"), &format!("{PODS}/p/log?container=broken")).await;
    assert_eq!(status, 400);
    assert!(text.contains("\"message\":\"container \\\"broken\\\" is waiting to start\""), "{text}");
    let (_, text) = get(dial(served.address, admin()).await.expect("dials"), "/api/v1/nodes/n1/proxy/pods?x=1").await;
    assert!(text.ends_with("GET /pods?x=1"), "{text}");
}

#[tokio::test]
async fn exec_is_passed_through_byte_for_byte() {
    let served = with_kubelet("exec").await;
    let admin = client(&served.pki, Some(&served.pki.admin), b"http/1.1");
    let stream = dial(served.address, admin).await.expect("dials");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(format!("{PODS}/p/exec?command=sh&container=a&stdin=true&stdout=true"))
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-protocol", "v5.channel.k8s.io")
        .header("authorization", "Bearer must-not-leak")
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let mut response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.expect("upgraded"));
    let greeting = "kube-apiserver-kubelet-client GET /exec/default/p/a?command=sh&input=1&output=1";
    let mut read = vec![0; greeting.len()];
    stream.read_exact(&mut read).await.expect("a greeting");
    assert_eq!(String::from_utf8_lossy(&read), greeting);
    let sent: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = sent.clone();
    let writing = tokio::spawn(async move { writer.write_all(&write).await });
    let mut echoed = vec![0; sent.len()];
    tokio::time::timeout(Duration::from_secs(10), reader.read_exact(&mut echoed))
        .await
        .expect("in time")
        .expect("echoed");
    assert_eq!(sent, echoed);
    writing.await.expect("no panic").expect("written");
}
