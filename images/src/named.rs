//! What a name means now.

use std::sync::Arc;

use crate::error::Result;
use crate::reference::Reference;
use crate::source::registry::Registry;
use crate::source::{Served, Source as _};
use crate::store::Shared;

/// The document that a reference means. A tag that is known here is asked for without its document first: it rarely
/// changes, and registries count how often documents are sent.
pub(crate) async fn document(shared: &Arc<Shared>, from: &Registry, name: &Reference) -> Result<Served> {
    let limit = shared.config.limits.manifest_bytes;
    let tag = name.tagged().filter(|_| name.digest().is_none());
    let record = shared.index.load()?.0;
    if record.images.iter().any(|entry| tag.as_ref().is_some_and(|tag| entry.tags.contains(tag)))
        && let Some((digest, media_type)) = from.digest_of(&name.wanted()).await
        && let Some(body) = shared.blobs.read_small(&digest, limit)?
    {
        return Ok(Served { body, digest, media_type });
    }
    from.document(&name.wanted(), limit).await
}
