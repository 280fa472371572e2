//! Brings back what a verification found damaged or missing, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::fetch;
use crate::index::Entry;
use crate::layers::Key;
use crate::manifest::{self, Descriptor, Document};
use crate::options::quiet;
use crate::reference::Reference;
use crate::source::{self, Source, registry::Registry};
use crate::store::{Shared, Store, blocking, positions};
use crate::verify::{Fault, Part, Verify};

impl Store {
    /// Works on each image that has a fault. Which blobs stayed damaged, and why.
    pub(super) async fn repair(&self, faults: &[Fault], options: &Verify) -> Result<Vec<(Digest, String)>> {
        let shared = self.shared();
        let mut failed = Vec::new();
        let blobs: BTreeSet<Digest> = faults.iter().filter_map(blob_of).cloned().collect();
        for digest in &blobs {
            shared.blobs.remove(digest)?;
        }
        for entry in &shared.index.load()?.0.images {
            let needed = needed(entry, &blobs);
            if !needed.is_empty()
                && let Err(why) = fetch_blobs(shared, entry, options).await
            {
                failed.extend(needed.into_iter().map(|digest| (digest, why.to_string())));
            }
        }
        if !blobs.is_empty() {
            // Images without a configuration were left out of the list.
            let shared = shared.clone();
            blocking(move || shared.index.refresh()).await?;
        }
        for fault in faults {
            let Part::Layer { blob, .. } = &fault.part else { continue };
            if let Err(why) = self.unpack_again(fault).await {
                failed.push((blob.clone(), why.to_string()));
            }
        }
        Ok(failed)
    }

    /// Moves the damaged layer away and unpacks it from its blob.
    async fn unpack_again(&self, fault: &Fault) -> Result<()> {
        let Part::Layer { diff_id, blob } = &fault.part else { return Ok(()) };
        let record = self.shared().index.load()?.0;
        for entry in &record.images {
            let place = entry.layers.iter().position(|l| l.diff_id == *diff_id && l.digest == *blob);
            let Some(place) = place else { continue };
            let layer = &entry.layers[place];
            if !self.shared().blobs.has(&layer.digest, layer.size) {
                return Err(Error::new(Kind::NotFound, "its blob is lost, too"));
            }
            let position = positions(entry)[place].clone();
            {
                let _one = self.shared().flights.lock(format!("chain {}", position.chain_id)).await;
                let shared = self.shared().clone();
                blocking(move || position.keys().iter().try_for_each(|key| set_aside(&shared, key))).await?;
            }
            let mut lease = self.shared().leases.begin()?;
            self.unpacked(&entry.config.to_string(), &mut lease).await?;
        }
        Ok(())
    }
}

fn blob_of(fault: &Fault) -> Option<&Digest> {
    match &fault.part {
        Part::Blob(digest) => Some(digest),
        Part::Layer { .. } => None,
    }
}

fn needed(entry: &Entry, blobs: &BTreeSet<Digest>) -> Vec<Digest> {
    let layers = entry.layers.iter().map(|layer| &layer.digest);
    let all = entry.documents.iter().chain([&entry.config]).chain(layers);
    all.filter(|digest| blobs.contains(digest)).cloned().collect()
}

/// Fetches what an image misses from a place that one of its names tells; the first that has all of it.
async fn fetch_blobs(shared: &Arc<Shared>, entry: &Entry, options: &Verify) -> Result<()> {
    let mut failure = Error::new(Kind::NotFound, "the image was never pulled: import it again");
    for name in entry.digests.iter().chain(&entry.tags) {
        let Ok(name) = name.parse::<Reference>() else { continue };
        match fetch_from(shared, entry, &name, options).await {
            Ok(()) => return Ok(()),
            Err(why) => failure = why,
        }
    }
    Err(failure)
}

async fn fetch_from(shared: &Arc<Shared>, entry: &Entry, name: &Reference, options: &Verify) -> Result<()> {
    let (owned, name, auth) = (shared.clone(), name.clone(), options.auth.clone());
    let connect = move || Registry::connect(&owned.config, &owned.connections, &name, auth);
    let registry = blocking(connect).await?;
    let limits = &shared.config.limits;
    for digest in entry.documents.iter().chain([&entry.manifest]) {
        if shared.blobs.read_small(digest, limits.manifest_bytes)?.is_none() && *digest != entry.config {
            let served = registry.document(&digest.to_string(), limits.manifest_bytes).await?;
            put(shared, digest, served.body).await?;
        }
    }
    let body = shared.blobs.read_small(&entry.manifest, limits.manifest_bytes)?.unwrap_or_default();
    let Document::Manifest(manifest) = manifest::parse(&body, None, limits)? else {
        return Err(Error::new(Kind::Invalid, "the manifest is none"));
    };
    if shared.blobs.read_small(&manifest.config.digest, limits.config_bytes)?.is_none() {
        let body = source::whole(&registry, &manifest.config, limits.config_bytes, &quiet()).await?;
        put(shared, &manifest.config.digest, body).await?;
    }
    let layers: Vec<Descriptor> = manifest.layers;
    fetch::all_layers(shared, &registry, &layers, &positions(entry), &quiet()).await.map(drop)
}

async fn put(shared: &Arc<Shared>, digest: &Digest, body: Vec<u8>) -> Result<()> {
    let (shared, digest) = (shared.clone(), digest.clone());
    blocking(move || shared.blobs.put(&digest, &body)).await
}

/// Takes a damaged layer out of use. Where a container runs over it, its files stay for that container, under a name
/// that the container's record keeps; else it is deleted.
pub(crate) fn set_aside(shared: &Shared, key: &Key) -> Result<()> {
    let users = shared.rootfses.over(key)?;
    if users.is_empty() {
        return shared.layers.remove(key);
    }
    let aside = shared.layers.aside(key);
    for user in &users {
        shared.rootfses.keep(user, &aside)?;
    }
    shared.layers.rename(key, &aside)
}
