//! From the document that a name leads to, down through indexes, to one manifest for the wanted platform.
//!
//! Indexes may lie in indexes (image-spec image-index.md): the best entry is followed first, and what turns out to be for
//! another platform is passed over. Depth and number of documents are bounded, since a stranger wrote them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::fetch;
use crate::manifest::{self, Descriptor, Document, Manifest};
use crate::options::{Platform, Progress};
use crate::platform;
use crate::sharing::Lease;
use crate::source::{Served, Source};
use crate::store::{Shared, blocking};

/// Indexes below indexes that are followed.
const DEPTH: usize = 4;
/// Documents that are read to find one manifest.
const DOCUMENTS: usize = 32;

/// One manifest, and what led to it.
pub(crate) struct Resolved {
    pub(crate) served: Served,
    pub(crate) manifest: Manifest,
    /// Manifest and indexes, kept as blobs.
    pub(crate) documents: BTreeSet<Digest>,
}

/// Finds the manifest for `wanted` in `served` or below it. Every document read is stored.
///
/// # Errors
/// [`Kind::Unsupported`] with the platforms that there are; [`Kind::TooLarge`] for a tree of indexes; as
/// [`manifest::parse`].
pub(crate) async fn manifest<S: Source>(
    shared: &Arc<Shared>,
    from: &S,
    served: Served,
    wanted: &Platform,
    lease: &mut Lease,
    progress: &Progress,
) -> Result<Resolved> {
    let mut documents = BTreeSet::from([served.digest.clone()]);
    let entries = match keep(shared, lease, &served).await? {
        Document::Manifest(manifest) => return Ok(Resolved { served, manifest, documents }),
        Document::Index(entries) => entries,
    };
    let mut todo = best_last(&entries, wanted, 1);
    for _ in 0..DOCUMENTS {
        let Some((entry, depth)) = todo.pop() else { return Err(manifest::none_for(&entries, wanted)) };
        let served = linked(shared, from, lease, &entry).await?;
        let document = keep(shared, lease, &served).await?;
        match document {
            Document::Manifest(manifest)
                if platform::is_said(&entry) || suits(shared, from, &manifest, wanted, lease, progress).await? =>
            {
                documents.insert(served.digest.clone());
                return Ok(Resolved { served, manifest, documents });
            }
            Document::Manifest(_) => {}
            Document::Index(below) if depth < DEPTH => {
                documents.insert(served.digest);
                todo.extend(best_last(&below, wanted, depth + 1));
            }
            Document::Index(_) => {
                return Err(Error::new(Kind::TooLarge, format!("index: more than {DEPTH} inside each other")));
            }
        }
    }
    Err(Error::new(Kind::TooLarge, format!("index: more than {DOCUMENTS} documents read without finding {wanted}")))
}

fn best_last(entries: &[Descriptor], wanted: &Platform, depth: usize) -> Vec<(Descriptor, usize)> {
    platform::candidates(entries, wanted).into_iter().rev().map(|entry| (entry.clone(), depth)).collect()
}

/// Whether a manifest that no index entry describes is for this platform, by its configuration.
async fn suits<S: Source>(
    shared: &Arc<Shared>,
    from: &S,
    manifest: &Manifest,
    wanted: &Platform,
    lease: &mut Lease,
    progress: &Progress,
) -> Result<bool> {
    lease.blob(&manifest.config.digest);
    let config = fetch::configuration(shared, from, manifest, progress).await?;
    let variant = config.variant().clone().unwrap_or_default();
    Ok(platform::suits(wanted, &config.os().to_string(), &config.architecture().to_string(), &variant))
}

/// Parses a document and stores it.
async fn keep(shared: &Arc<Shared>, lease: &mut Lease, served: &Served) -> Result<Document> {
    let document = manifest::parse(&served.body, served.media_type.as_deref(), &shared.config.limits)
        .context(|| format!("{}", served.digest))?;
    lease.blob(&served.digest);
    let (shared, digest, body) = (shared.clone(), served.digest.clone(), served.body.clone());
    blocking(move || shared.blobs.put(&digest, &body)).await?;
    Ok(document)
}

/// The document that an index entry points to, from the store if it is there.
async fn linked<S: Source>(shared: &Arc<Shared>, from: &S, lease: &mut Lease, entry: &Descriptor) -> Result<Served> {
    lease.blob(&entry.digest);
    let limit = shared.config.limits.manifest_bytes;
    if let Some(body) = shared.blobs.read_small(&entry.digest, limit)? {
        return Ok(Served { body, digest: entry.digest.clone(), media_type: Some(entry.media_type.clone()) });
    }
    let served = from.document(&entry.digest.to_string(), limit).await?;
    match served.body.len() as u64 == entry.size {
        true => Ok(served),
        false => {
            let why = format!("{} has {} bytes, the index says {}", entry.digest, served.body.len(), entry.size);
            Err(Error::new(Kind::Invalid, why))
        }
    }
}
