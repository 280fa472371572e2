//! The kubelet's HTTPS endpoint: one connection a task, HTTP/1.1, every request authenticated and
//! authorised before anything else is looked at.

pub(crate) mod auth;
pub(crate) mod logline;
pub(crate) mod logs;
pub(crate) mod rotate;
pub(crate) mod route;
pub(crate) mod stats;
pub(crate) mod stream;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::pods::pool::Pods;
use crate::shared::Shared;
use auth::Reviews;

/// What requests are answered from.
pub(crate) struct Endpoint {
    pub shared: Arc<Shared>,
    pub pods: Pods,
    pub reviews: Reviews,
}

/// Connections at once; more wait (SECURITY_CASES 23).
const MOST_CONNECTIONS: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves until its task is dropped.
pub(crate) async fn run(endpoint: Arc<Endpoint>, listener: TcpListener, tls: TlsAcceptor) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(why) => {
                tracing::warn!(%why, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (endpoint, tls) = (endpoint.clone(), tls.clone());
        connections.spawn(async move {
            serve(endpoint, stream, tls).await;
            drop(place);
        });
    }
}

async fn serve(endpoint: Arc<Endpoint>, stream: TcpStream, tls: TlsAcceptor) {
    // Interactive streams are small writes.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => return tracing::debug!(%why, "TLS handshake failed"),
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let user = certificate.and_then(auth::from_certificate);
    let service = service_fn(move |request| {
        let (endpoint, user) = (endpoint.clone(), user.clone());
        async move { Ok::<_, Infallible>(route::answer(&endpoint, user.as_ref(), request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(why) = served {
        tracing::debug!(%why, "a connection ended");
    }
}
