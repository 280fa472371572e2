//! The listeners: TLS with optional client certificates, HTTP/1.1 and HTTP/2 by ALPN, limits, and an orderly end.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::body::BodyError;
use super::{Api, http as requests};
use crate::access::user_of_certificate;
use crate::error::{Error, Result};
use crate::pki::Pki;

/// Connections at one time.
const CONNECTIONS: usize = 4096;

/// How long a client may take for the handshake, and for the headers of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);

/// How long running requests may take after the end was asked for.
const GRACE: Duration = Duration::from_secs(5);

fn fault(what: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error {
    move |e| Error::internal(what, e)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let list: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    list.map_err(|e| fault("read a certificate")(e.into()))
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| fault("read a private key")(e.into()))
}

fn roots(pem: &str) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|e| fault("trust the cluster's authority")(e.into()))?;
    }
    Ok(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The server's side of TLS.
///
/// # Errors
/// When the certificates cannot be used.
pub(crate) fn server_tls(pki: &Pki) -> Result<ServerConfig> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&pki.ca_pem)?), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| fault("check client certificates")(e.into()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| fault("choose TLS versions")(e.into()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&pki.serving.cert_pem)?, key(&pki.serving.key_pem)?)
        .map_err(|e| fault("use the serving certificate")(e.into()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Our side of TLS towards kubelets.
///
/// # Errors
/// When the certificates cannot be used.
pub(crate) fn kubelet_tls(pki: &Pki) -> Result<rustls::ClientConfig> {
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| fault("choose TLS versions")(e.into()))?
        .with_root_certificates(roots(&pki.ca_pem)?)
        .with_client_auth_cert(certificates(&pki.kubelet_client.cert_pem)?, key(&pki.kubelet_client.key_pem)?)
        .map_err(|e| fault("use the certificate for kubelets")(e.into()))?;
    Ok(config)
}

/// Serves on all listeners until the API's shutdown.
///
/// # Errors
/// When a listener cannot be used.
pub(crate) async fn serve(api: Arc<Api>, listeners: Vec<TcpListener>, tls: ServerConfig) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let mut loops = tokio::task::JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loops.spawn(accept(api.clone(), listener, acceptor.clone(), slots.clone(), connections.clone()));
    }
    while loops.join_next().await.is_some() {}
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        tracing::info!(left = connections.len(), "connections still open at the end");
    }
    Ok(())
}

async fn accept(
    api: Arc<Api>,
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
) {
    loop {
        let slot = slots.clone().acquire_owned();
        let (slot, accepted) = tokio::select! {
            () = api.shutdown.cancelled() => return,
            both = async { (slot.await, listener.accept().await) } => both,
        };
        let Ok(slot) = slot else { return };
        match accepted {
            Ok((socket, _)) => {
                let (api, acceptor) = (api.clone(), acceptor.clone());
                connections.spawn(async move {
                    connection(api, acceptor, socket).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: it passes.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(api: Arc<Api>, acceptor: TlsAcceptor, socket: TcpStream) {
    // Small answers are what most clients wait for.
    let _ = socket.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let user = certificate.and_then(|c| user_of_certificate(c)).map(Arc::new);
    let shutdown = api.shutdown.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, user) = (api.clone(), user.clone());
        let request = request.map(|body| body.map_err(BodyError::from).boxed_unsync());
        async move { Ok::<_, std::convert::Infallible>(requests::answer(api, user, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(128 * 1024);
    // The limits on resets (CVE-2023-44487) are hyper's own, left on.
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let done = tokio::select! {
        done = &mut serving => done,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended");
    }
}
