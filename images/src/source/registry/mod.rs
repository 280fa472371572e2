//! A registry over the OCI distribution protocol (distribution-spec "Pull"), its mirrors, and what can go wrong.
//!
//! A request goes to the configured mirrors first and to the registry itself last. Failures that may pass are retried
//! with growing, jittered pauses; a blob that breaks off is continued with a range request.

pub mod auth;
pub mod hosts;
mod http;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, RANGE};

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::manifest::{Descriptor, INDEXES, MANIFESTS};
use crate::options::{Auth, Event, Progress};
use crate::reference::Reference;
use crate::source::{Content, Served, Source};

use http::{Endpoint, Request};

/// Interruptions of one blob that are tried again before it is given up.
const INTERRUPTIONS: u32 = 6;

/// One repository of a registry.
#[derive(Clone)]
pub struct Registry {
    endpoints: std::sync::Arc<[Endpoint]>,
    path: String,
}

impl Registry {
    /// Prepares access to the repository that `from` names; nothing is sent yet.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a bad hosts.toml or certificate.
    pub fn connect(config: &Config, from: &Reference, auth: Option<Auth>) -> Result<Self> {
        let hosts = hosts::resolve(config, from.host())?;
        let origin = hosts.len() - 1;
        let endpoint = |(at, host)| {
            // Credentials belong to the registry that the reference names, not to its mirrors.
            let auth = if at == origin { auth.clone() } else { None };
            let namespace = (at != origin).then(|| from.host().to_owned());
            Endpoint::new(host, auth, namespace)
        };
        let endpoints: Vec<Endpoint> = hosts.into_iter().enumerate().map(endpoint).collect::<Result<_>>()?;
        Ok(Self { endpoints: endpoints.into(), path: from.path().to_owned() })
    }

    /// Sends to each endpoint until one has an answer. The registry's own failure, the last one, is what is told.
    async fn send(&self, request: &Request) -> Result<reqwest::Response> {
        let mut last = no_endpoint();
        for endpoint in &*self.endpoints {
            match endpoint.send(request).await {
                Ok(answer) => return Ok(answer),
                Err(why) => last = note(endpoint, why),
            }
        }
        Err(last)
    }

    async fn manifest(&self, endpoint: &Endpoint, wanted: &str, limit: u64) -> Result<Served> {
        let accept = [MANIFESTS, INDEXES].concat().join(", ");
        let request = Request::get(format!("{}/manifests/{wanted}", self.path), &self.path).header(ACCEPT, &accept);
        let response = endpoint.send(&request).await?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let media_type = header(CONTENT_TYPE.as_str());
        let told = header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let body = http::body(response, limit).await?;
        let asked = wanted.contains(':').then(|| wanted.parse::<Digest>()).transpose()?;
        let digest = asked.clone().or(told.filter(|d| d.matches(&body))).unwrap_or_else(|| Digest::of(&body));
        match digest.matches(&body) {
            true => Ok(Served { body, digest, media_type }),
            false => {
                Err(Error::new(Kind::Invalid, format!("manifest {wanted}: its content is not what its digest says")))
            }
        }
    }

    /// One request for the rest of a blob.
    async fn open(&self, digest: &Digest, offset: u64) -> Result<BoxStream<'static, reqwest::Result<Bytes>>> {
        let request = Request::get(format!("{}/blobs/{digest}", self.path), &self.path);
        let request = match offset {
            0 => request,
            _ => request.header(RANGE, &format!("bytes={offset}-")),
        };
        let response = self.send(&request).await?;
        rest(response, offset, digest)
    }

    async fn open_foreign(
        &self,
        wanted: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, reqwest::Result<Bytes>>> {
        let mut last = Error::new(Kind::NotFound, format!("foreign layer {} without an address", wanted.digest));
        for url in &wanted.urls {
            match http::foreign(url, offset).await.and_then(|response| rest(response, offset, &wanted.digest)) {
                Ok(stream) => return Ok(stream),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// The rest of a blob from the registry, else from where the manifest says it is.
    async fn open_anywhere(
        &self,
        wanted: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, reqwest::Result<Bytes>>> {
        match self.open(&wanted.digest, offset).await {
            Err(why) if why.kind() == Kind::NotFound && !wanted.urls.is_empty() => {
                self.open_foreign(wanted, offset).await
            }
            other => other,
        }
        .context(|| format!("blob {}", wanted.digest))
    }
}

fn no_endpoint() -> Error {
    Error::new(Kind::InvalidArgument, "no endpoint of the registry may be pulled from")
}

fn note(endpoint: &Endpoint, why: Error) -> Error {
    tracing::debug!(endpoint = endpoint.name(), %why, "no answer from an endpoint");
    why
}

/// The body of a response from `offset` on; a server may ignore the range and send everything.
fn rest(
    response: reqwest::Response,
    offset: u64,
    digest: &Digest,
) -> Result<BoxStream<'static, reqwest::Result<Bytes>>> {
    let starts = |range: &str| range.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok();
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).and_then(starts);
            match range == Some(offset) {
                true => Ok(response.bytes_stream().boxed()),
                false => Err(Error::new(Kind::Invalid, format!("blob {digest}: the server sent another range"))),
            }
        }
        _ if offset == 0 => Ok(response.bytes_stream().boxed()),
        _ => {
            let mut skip = offset;
            let tail = response.bytes_stream().map(move |piece| {
                let mut piece = piece?;
                let cut = piece.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                skip -= cut as u64;
                Ok(piece.split_off(cut))
            });
            Ok(tail.boxed())
        }
    }
}

impl Source for Registry {
    async fn document(&self, wanted: &str, limit: u64) -> Result<Served> {
        let mut last = no_endpoint();
        for endpoint in &*self.endpoints {
            match self.manifest(endpoint, wanted, limit).await {
                Ok(served) => return Ok(served),
                Err(why) => last = note(endpoint, why),
            }
        }
        Err(last)
    }

    async fn blob(&self, wanted: &Descriptor, offset: u64, progress: &Progress) -> Result<Content> {
        let first = self.open_anywhere(wanted, offset).await?;
        let download = Download {
            registry: self.clone(),
            wanted: wanted.clone(),
            progress: progress.clone(),
            at: offset,
            interruptions: 0,
            body: Some(first),
        };
        Ok(futures_util::stream::unfold(Some(download), |download| async { download?.next().await }).boxed())
    }
}

/// A blob on its way, through as many responses as it takes.
struct Download {
    registry: Registry,
    wanted: Descriptor,
    progress: Progress,
    at: u64,
    interruptions: u32,
    body: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
}

impl Download {
    /// The next piece and the rest; `None` at the end. After an error there is no rest.
    async fn next(mut self) -> Option<(Result<Bytes>, Option<Self>)> {
        loop {
            let why = match &mut self.body {
                Some(body) => match body.next().await {
                    Some(Ok(piece)) => {
                        self.at += piece.len() as u64;
                        return Some((Ok(piece), Some(self)));
                    }
                    None if self.at >= self.wanted.size => return None,
                    None => "the connection ended early".to_owned(),
                    Some(Err(why)) => http::explain(why),
                },
                None => match self.registry.open_anywhere(&self.wanted, self.at).await {
                    Ok(body) => {
                        self.body = Some(body);
                        continue;
                    }
                    Err(why) if why.kind() == Kind::Unavailable => why.to_string(),
                    Err(why) => return Some((Err(why), None)),
                },
            };
            self.body = None;
            self.interruptions += 1;
            if self.interruptions > INTERRUPTIONS {
                let why =
                    format!("blob {}: broke off {INTERRUPTIONS} times, last at {}: {why}", self.wanted.digest, self.at);
                return Some((Err(Error::new(Kind::Unavailable, why)), None));
            }
            (self.progress)(Event::Retry { layer: self.wanted.digest.clone(), why });
            tokio::time::sleep(http::pause(self.interruptions)).await;
        }
    }
}
