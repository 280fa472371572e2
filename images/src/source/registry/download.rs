//! A blob on its way, through as many answers, from as many hosts, as it takes. What is missing is asked for with a
//! range (RFC 9110 section 14); a server that ignores it sends everything, and the beginning is skipped.
//!
//! The digest decides in the end, so a range is trusted as far as it says what it is.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use std::sync::PoisonError;

use crate::error::{Error, Kind, Result};
use crate::manifest::Descriptor;
use crate::options::{Event, Progress};
use crate::source::Content;
use crate::source::registry::failure::{self, Failure};
use crate::source::registry::http::{Endpoint, Request};
use crate::source::registry::{Registry, foreign, rounds};

/// Interruptions without much progress in between, before a blob is given up.
const INTERRUPTIONS: u32 = 6;
/// So many bytes are progress.
const PROGRESS: u64 = 1 << 20;

/// Opens a blob from `offset` on. `distrusted`: who has sent what was wrong before.
pub(super) async fn start(
    registry: &Registry,
    wanted: &Descriptor,
    offset: u64,
    progress: &Progress,
    mut distrusted: Vec<usize>,
) -> Result<Content> {
    // Whoever began is the most likely to have sent what was wrong.
    distrusted.reverse();
    let mut download = Download {
        registry: registry.clone(),
        wanted: wanted.clone(),
        progress: progress.clone(),
        at: offset,
        interruptions: 0,
        counted_from: offset,
        last: distrusted,
        etag: None,
        body: None,
    };
    download.open().await?;
    Ok(futures_util::stream::unfold(Some(download), |download| async { download?.next().await }).boxed())
}

struct Download {
    registry: Registry,
    wanted: Descriptor,
    progress: Progress,
    at: u64,
    interruptions: u32,
    counted_from: u64,
    /// Endpoints to be asked after the others, the last one at the very end.
    last: Vec<usize>,
    /// The last answer's, with who sent it.
    etag: Option<(usize, String)>,
    body: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
}

/// An answer that has begun.
struct Opened {
    etag: Option<String>,
    body: BoxStream<'static, reqwest::Result<Bytes>>,
}

impl Download {
    /// The next piece and the rest; `None` at the end. After an error there is no rest.
    async fn next(mut self) -> Option<(Result<Bytes>, Option<Self>)> {
        loop {
            let why = match &mut self.body {
                Some(body) => match tokio::time::timeout(self.registry.patience(), body.next()).await {
                    Ok(Some(Ok(piece))) => {
                        self.at += piece.len() as u64;
                        return Some((Ok(piece), Some(self)));
                    }
                    Ok(None) if self.at >= self.wanted.size => return None,
                    Ok(None) => "the connection ended early".to_owned(),
                    Ok(Some(Err(why))) => failure::explain(why),
                    Err(_) => format!("nothing came for {:?}", self.registry.patience()),
                },
                None => match self.open().await {
                    Ok(()) => continue,
                    Err(why) if why.kind() == Kind::Unavailable => why.to_string(),
                    Err(why) => return Some((Err(why), None)),
                },
            };
            if let Err(why) = self.interrupted(why).await {
                return Some((Err(why), None));
            }
        }
    }

    /// Waits before the next attempt, or gives up.
    async fn interrupted(&mut self, why: String) -> Result<()> {
        self.body = None;
        if self.at - self.counted_from >= PROGRESS {
            self.interruptions = 0;
        }
        self.counted_from = self.at;
        self.interruptions += 1;
        if self.interruptions > INTERRUPTIONS {
            let why = format!("broke off {INTERRUPTIONS} times, last at byte {}: {why}", self.at);
            return Err(Error::new(
                Kind::Unavailable,
                self.registry.named(&format!("blob {}: {why}", self.wanted.digest)),
            ));
        }
        tracing::debug!(blob = %self.wanted.digest, at = self.at, why, "a download is continued");
        (self.progress)(Event::Retry { layer: self.wanted.digest.clone(), why });
        tokio::time::sleep(failure::pause(self.interruptions.min(4))).await;
        Ok(())
    }

    /// Asks for the rest: the registry's hosts, else where the manifest says that a foreign layer is.
    async fn open(&mut self) -> Result<()> {
        let shared = &self.registry.shared;
        let mut order = self.registry.order(|endpoint| endpoint.can_pull);
        order.sort_by_key(|at| self.last.iter().rposition(|last| last == at).map_or(0, |place| place + 1));
        let request = Request::get(format!("{}/blobs/{}", shared.path, self.wanted.digest));
        let what = self.registry.named(&format!("blob {}", self.wanted.digest));
        let budget = shared.connections.network.retry_for;
        let (wanted, at, etag) = (&self.wanted, self.at, &self.etag);
        let attempt = |host, endpoint| {
            // An ETag is one server's own; another one would take it for a change.
            let known = etag.as_ref().filter(|(who, _)| *who == host);
            rest(endpoint, request.clone(), wanted, at, known.map(|(_, etag)| etag.clone()))
        };
        let opened = rounds::ask(&shared.endpoints, order, budget, &what, attempt).await;
        let (who, opened) = match opened {
            Err(why) if why.kind() == Kind::NotFound && !self.wanted.urls.is_empty() => {
                self.body = Some(open_foreign(&self.registry, wanted, at, why).await?.body);
                return Ok(());
            }
            other => other?,
        };
        let mut senders = shared.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders.entry(self.wanted.digest.clone()).or_default().push(who);
        drop(senders);
        self.etag = opened.etag.map(|etag| (who, etag));
        // Should it break off, the others are asked first.
        self.last.push(who);
        self.body = Some(opened.body);
        Ok(())
    }
}

/// A layer from where its manifest says.
async fn open_foreign(registry: &Registry, wanted: &Descriptor, at: u64, not_here: Error) -> Result<Opened> {
    let shared = &registry.shared;
    let mut last = not_here;
    for address in &wanted.urls {
        let opened = async {
            let endpoint = foreign::endpoint(&shared.config, &shared.connections, address)?;
            rest(&endpoint, Request::get(String::new()), wanted, at, None).await
        };
        match opened.await {
            Ok(opened) => return Ok(opened),
            Err(failed) => last = failed.why,
        }
    }
    Err(last.within(registry.named(&format!("foreign layer {}", wanted.digest))))
}

/// One request for the rest of a blob.
async fn rest(
    endpoint: &Endpoint,
    request: Request,
    wanted: &Descriptor,
    at: u64,
    etag: Option<String>,
) -> Result<Opened, Failure> {
    let ranged = at > 0 && endpoint.takes_ranges();
    let request = match (ranged, etag) {
        (false, _) => request,
        (true, None) => request.header(RANGE, &format!("bytes={at}-")),
        (true, Some(etag)) => request.header(RANGE, &format!("bytes={at}-")).header(IF_RANGE, &etag),
    };
    let response = match endpoint.send(&request).await {
        Err(failed) if ranged && failed.why.kind() == Kind::Invalid => {
            // 416, or a server that does not know what a range is.
            endpoint.note_no_ranges();
            return Err(Failure::passing(failed.why));
        }
        other => other?,
    };
    let headers = response.headers();
    // A weak one must not be used for ranges (RFC 9110 section 13.1.5).
    let etag = headers.get(ETAG).and_then(|v| v.to_str().ok()).filter(|etag| etag.starts_with('"')).map(str::to_owned);
    match (response.status(), starts_at(headers)) {
        (StatusCode::PARTIAL_CONTENT, Some((from, total))) if from == at && total.is_none_or(|t| t == wanted.size) => {
            Ok(Opened { etag, body: response.bytes_stream().boxed() })
        }
        (StatusCode::PARTIAL_CONTENT, _) => {
            endpoint.note_no_ranges();
            let why = Error::new(Kind::Invalid, "the server sent another range than the one asked for");
            Err(if ranged { Failure::passing(why) } else { Failure::lasting(why) })
        }
        (StatusCode::OK, _) if response.content_length().is_some_and(|length| length < wanted.size) => {
            let why = format!(
                "{} bytes, its descriptor promised {}",
                response.content_length().unwrap_or_default(),
                wanted.size
            );
            Err(Failure::lasting(Error::new(Kind::Invalid, why)))
        }
        (StatusCode::OK, _) => Ok(Opened { etag, body: skipping(response, at) }),
        (status, _) => {
            Err(Failure::lasting(Error::new(Kind::Invalid, format!("{status} is no answer to a request for a blob"))))
        }
    }
}

/// Where a partial body begins, and how long the whole is: `bytes 7-9/10`, `bytes 7-9/*`.
fn starts_at(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = range.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((range.split_once('-')?.0.parse().ok()?, total))
}

/// The body without its first `skip` bytes.
fn skipping(response: Response, mut skip: u64) -> BoxStream<'static, reqwest::Result<Bytes>> {
    let tail = response.bytes_stream().map(move |piece| {
        let mut piece = piece?;
        let cut = piece.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
        skip -= cut as u64;
        Ok(piece.split_off(cut))
    });
    tail.boxed()
}

impl Registry {
    /// Without a byte of a body.
    fn patience(&self) -> std::time::Duration {
        self.shared.connections.network.stall_timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let read = |text: &str| starts_at(&HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]));
        assert_eq!(read("bytes 7-9/10"), Some((7, Some(10))));
        assert_eq!(read("bytes 7-9/*"), Some((7, None)));
        for bad in ["bytes 7-9", "bytes */10", "7-9/10", "bytes -9/10", "bytes 7-9/x", ""] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(starts_at(&HeaderMap::new()), None);
    }
}
