//! Where images come from. Both kinds answer the same two questions: a document by name, and a blob from an offset.

mod archive;
mod docker;
pub mod layout;
pub mod registry;

use std::future::Future;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::manifest::Descriptor;
use crate::options::Progress;

/// The content of a blob, in order. An error ends it.
pub type Content = BoxStream<'static, Result<Bytes>>;

/// A document as it was served.
#[derive(Clone, Debug)]
pub struct Served {
    /// The exact bytes.
    pub body: Vec<u8>,
    /// Their digest; equal to the one asked for, if one was.
    pub digest: Digest,
    /// The media type that came with them.
    pub media_type: Option<String>,
}

/// A place that serves one repository.
pub trait Source: Send + Sync {
    /// Content that is missing can be had here.
    fn has_blobs(&self) -> bool {
        true
    }

    /// Who answers, to tell whether two callers would get the same answer; empty if that cannot be told.
    fn party(&self) -> String {
        String::new()
    }

    /// A manifest or index by tag or digest, its digest verified.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorized`], [`Kind::Unavailable`], [`Kind::Invalid`], [`Kind::TooLarge`].
    fn document(&self, wanted: &str, limit: u64) -> impl Future<Output = Result<Served>> + Send;

    /// The bytes of a blob from `offset` on. Failures of the transport are retried inside; the digest is the caller's
    /// to check. Retries are told to `progress`.
    ///
    /// # Errors
    /// As [`Source::document`], and inside the stream.
    fn blob(
        &self,
        wanted: &Descriptor,
        offset: u64,
        progress: &Progress,
    ) -> impl Future<Output = Result<Content>> + Send;
}

/// A small blob as a whole, verified.
///
/// # Errors
/// As [`Source::blob`]; [`Kind::Invalid`] if size or digest are wrong; [`Kind::TooLarge`] beyond `limit`.
pub async fn whole<S: Source>(from: &S, wanted: &Descriptor, limit: u64, progress: &Progress) -> Result<Vec<u8>> {
    use futures_util::StreamExt as _;
    if wanted.size > limit {
        return Err(Error::new(
            Kind::TooLarge,
            format!("blob {} of {} bytes, more than {limit}", wanted.digest, wanted.size),
        ));
    }
    // What is wrong once may be right from another mirror, which a source with several asks then.
    for _ in 0..2 {
        let mut content = from.blob(wanted, 0, progress).await?;
        let mut all = Vec::new();
        while let Some(piece) = content.next().await {
            all.extend_from_slice(&piece.context(|| format!("blob {}", wanted.digest))?);
            if all.len() as u64 > wanted.size {
                break;
            }
        }
        if all.len() as u64 == wanted.size && wanted.digest.matches(&all) {
            return Ok(all);
        }
    }
    Err(Error::new(Kind::Invalid, format!("blob {}: its content is not what its digest says", wanted.digest)))
}

/// The source of what should be here already: it has nothing.
pub(crate) struct Nowhere;

impl Source for Nowhere {
    fn has_blobs(&self) -> bool {
        false
    }

    async fn document(&self, wanted: &str, _limit: u64) -> Result<Served> {
        Err(Error::new(Kind::NotFound, format!("{wanted} is not in the store: pull the image again")))
    }

    async fn blob(&self, wanted: &Descriptor, _offset: u64, _progress: &Progress) -> Result<Content> {
        Err(Error::new(Kind::NotFound, format!("blob {} is lost: pull the image again", wanted.digest)))
    }
}
