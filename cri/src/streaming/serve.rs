//! The accept loop and what happens to one connection: one request, one upgrade, one session.
//!
//! Every task is counted by a tracker and ends with its client or with the server; a session is one task whose parts
//! are futures, so that none can be left behind (CVE-2022-23471, CVE-2025-64329).

use super::handshake::{Answer, Spoken, agree, refuse, transport};
use super::mux::{self, KEEPALIVE};
use super::remote::{self, Remote};
use super::spdy;
use super::tokens::{Task, Tokens};
use super::tunnel::Tunnel;
use super::{forward, websocket};
use crate::error::{Error, Result};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take to send its request.
const REQUEST: Duration = Duration::from_secs(10);
/// Longest request line and headers, together.
const HEADERS_MAX: usize = 16 << 10;
/// How often URLs that nobody used are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// What every connection shares.
pub(super) struct House {
    pub(super) tokens: Tokens,
    pub(super) shutdown: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// Accepts until the shutdown.
pub(super) async fn accept(listener: TcpListener, house: Arc<House>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let accepted = tokio::select! {
            () = house.shutdown.cancelled() => break,
            _ = sweep.tick() => {
                house.tokens.expire(Instant::now());
                continue;
            }
            accepted = next(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let connection = connection(stream, place, house.clone());
                house.tasks.spawn(connection);
            }
            Err(why) => {
                // Out of descriptors, most likely; the clients wait in the backlog.
                tracing::warn!(error = %why, "streaming: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    house.tasks.close();
}

async fn next(listener: &TcpListener, places: &Arc<Semaphore>) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, place: OwnedSemaphorePermit, house: Arc<House>) {
    let place = Arc::new(place);
    let service = service_fn(|request| {
        let answer = answer(request, &house, &place);
        async move { Ok::<_, Infallible>(answer) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        () = house.shutdown.cancelled() => {}
        ended = http => if let Err(why) = ended {
            tracing::debug!(error = %why, "streaming: bad request");
        }
    }
}

fn answer(mut request: Request<Incoming>, house: &Arc<House>, place: &Arc<OwnedSemaphorePermit>) -> Answer {
    let taken = take(&request, house);
    match taken {
        Ok((spoken, task, answer)) => {
            let (upgrade, house2, place) = (hyper::upgrade::on(&mut request), house.clone(), place.clone());
            house.tasks.spawn(async move {
                tokio::select! {
                    () = house2.shutdown.cancelled() => {}
                    () = session(upgrade, spoken, task) => {}
                }
                drop(place);
            });
            answer
        }
        Err(answer) => *answer,
    }
}

/// The task of the request's token. The token is used up only by a request that could be an upgrade.
fn take(request: &Request<Incoming>, house: &House) -> Result<(Spoken, Task, Answer), Box<Answer>> {
    if request.method() != Method::GET && request.method() != Method::POST {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or POST required"));
    }
    let transport = transport(request.headers())?;
    let (name, token) = request
        .uri()
        .path()
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .ok_or_else(|| refuse(StatusCode::NOT_FOUND, "no such stream"))?;
    let task = house
        .tokens
        .take(name, token, Instant::now())
        .ok_or_else(|| refuse(StatusCode::NOT_FOUND, "this stream was used before, has expired, or never was"))?;
    let (spoken, answer) = agree(request.headers(), transport, &task)?;
    Ok((spoken, task, answer))
}

async fn session(upgrade: OnUpgrade, spoken: Spoken, task: Task) {
    let name = task.name();
    let outcome = match upgrade.await {
        Ok(io) => serve(TokioIo::new(io), spoken, task).await,
        Err(why) => Err(Error::internal(format!("upgrade: {why}"))),
    };
    if let Err(why) = outcome {
        tracing::debug!(stream = name, error = %why, "streaming: the client's connection failed");
    }
}

async fn serve(io: TokioIo<Upgraded>, spoken: Spoken, task: Task) -> Result<()> {
    match (spoken, task) {
        (Spoken::SpdyRemote(version), Task::Exec(wanted, work) | Task::Attach(wanted, work)) => {
            let (mux, arriving, transport) = spdy::connect(io, KEEPALIVE);
            let work = async {
                match Remote::gather(arriving, wanted, version).await {
                    Ok(remote) => remote::run(remote, wanted, work, version.status).await,
                    Err(why) => tracing::debug!(error = %why, "streaming: no session"),
                }
            };
            mux::serve(&mux, transport, work).await
        }
        (Spoken::Channels(protocol), Task::Exec(wanted, work) | Task::Attach(wanted, work)) => {
            let (mux, transport) = websocket::connect(websocket::accept(io).await, protocol);
            let remote = Remote::channels(&mux, wanted)?;
            mux::serve(&mux, transport, remote::run(remote, wanted, work, protocol.status)).await
        }
        (Spoken::SpdyForward, Task::PortForward(target)) => {
            let (mux, arriving, transport) = spdy::connect(io, KEEPALIVE);
            mux::serve(&mux, transport, forward::over_spdy(arriving, &target)).await
        }
        (Spoken::Tunnel, Task::PortForward(target)) => {
            let tunnel = Tunnel::new(websocket::accept(io).await);
            let (mux, arriving, transport) = spdy::connect(tunnel, KEEPALIVE);
            mux::serve(&mux, transport, forward::over_spdy(arriving, &target)).await
        }
        (Spoken::Channels(protocol), Task::PortForward(target)) => {
            let (mux, transport) = websocket::connect(websocket::accept(io).await, protocol);
            mux::serve(&mux, transport, forward::over_channels(&mux, &target)).await
        }
        (spoken, task) => Err(Error::internal(format!("{spoken:?} agreed for {}", task.name()))),
    }
}
