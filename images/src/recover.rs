//! When no index can be read any more: which images there are, as far as the blobs say.
//!
//! Their names are lost with the index; an image without a name is still found by its id, and has its names again when
//! it is pulled, which fetches nothing.

use std::collections::BTreeSet;

use crate::blobs::Blobs;
use crate::config::Limits;
use crate::digest::Digest;
use crate::fetch::{self, Wanted};
use crate::index::Entry;
use crate::manifest::{self, Document, Manifest};
use crate::options::Platform;
use crate::source::Served;

/// Every image of which manifest, configuration and all layers are here, by the manifest's digest.
pub(crate) fn images(blobs: &Blobs, limits: &Limits, now: u64) -> Vec<Entry> {
    let listed = blobs.list().unwrap_or_default();
    let small = listed.into_iter().filter(|(_, bytes)| *bytes <= limits.manifest_bytes + 4096);
    let mut found: Vec<Entry> = small.filter_map(|(digest, _)| image(blobs, limits, &digest, now)).collect();
    found.sort_by(|a, b| (&a.config, &a.manifest).cmp(&(&b.config, &b.manifest)));
    // Two manifests of one image differ in how its layers are packed.
    found.dedup_by(|a, b| a.config == b.config);
    found
}

fn image(blobs: &Blobs, limits: &Limits, digest: &Digest, now: u64) -> Option<Entry> {
    let body = blobs.read_small(digest, limits.manifest_bytes).ok().flatten()?;
    let Ok(Document::Manifest(manifest)) = manifest::parse(&body, None, limits) else { return None };
    let config = blobs.read_small(&manifest.config.digest, limits.config_bytes).ok().flatten()?;
    if !manifest.layers.iter().all(|layer| blobs.has(&layer.digest, layer.size)) {
        return None;
    }
    let positions = positions(&config, &manifest)?;
    let served = Served { body, digest: digest.clone(), media_type: None };
    let wanted =
        Wanted { tags: BTreeSet::new(), digests: BTreeSet::new(), platform: Platform::host(), pinned: false, now };
    Some(fetch::entry(&manifest, &positions, &served, BTreeSet::from([digest.clone()]), wanted))
}

fn positions(config: &[u8], manifest: &Manifest) -> Option<Vec<crate::layers::Position>> {
    let config = match manifest.artifact {
        Some(_) => oci_spec::image::ImageConfiguration::default(),
        None => fetch::parse_configuration(config).ok()?,
    };
    fetch::positions(&config, manifest).ok()
}
