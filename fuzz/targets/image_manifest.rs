//! Any bytes as a manifest, an index and an image configuration: refused, or exactly one of the first two, within limits.
//!
//! The first byte says which media type the transport gave.

#![no_main]

use std::collections::BTreeMap;

use gantry_images::manifest::{self, Document, INDEXES, MANIFESTS};
use gantry_images::{ImageConfiguration, Limits};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else { return };
    let types = [MANIFESTS[0], MANIFESTS[1], INDEXES[0], INDEXES[1], "application/json"];
    let said = types.get(usize::from(first % 8)).copied();
    let limits = Limits { layers: 8, index_entries: 8, layer_bytes: 1 << 40, config_bytes: 1 << 20, ..Limits::default() };
    if let Ok(document) = manifest::parse(body, said, &limits) {
        check(&document, body, said, &limits);
    }
    if let Ok(config) = serde_json::from_slice::<ImageConfiguration>(body) {
        let text = serde_json::to_string(&config).expect("a configuration is written");
        serde_json::from_str::<ImageConfiguration>(&text).expect("what was written is read");
    }
});

fn check(document: &Document, body: &[u8], said: Option<&str>, limits: &Limits) {
    let seen: BTreeMap<String, Option<IgnoredAny>> = serde_json::from_slice(body).expect("a document is JSON");
    let has = |key: &str| seen.get(key).is_some_and(Option::is_some);
    let faces = |key: &str| seen.keys().filter(|other| other.eq_ignore_ascii_case(key)).count();
    assert!(["config", "layers", "manifests", "mediaType"].into_iter().all(|key| faces(key) <= 1));
    match document {
        Document::Manifest(manifest) => {
            assert!(has("config") && has("layers") && !has("manifests"), "a document with two faces");
            assert!(said.is_none_or(|said| !INDEXES.contains(&said)), "a manifest sent as an index");
            assert!(manifest.layers.len() <= limits.layers && manifest.config.size <= limits.config_bytes);
            assert!(manifest.layers.iter().all(|layer| layer.size <= limits.layer_bytes));
        }
        Document::Index(entries) => {
            assert!(has("manifests") && !has("config") && !has("layers"), "a document with two faces");
            assert!(said.is_none_or(|said| !MANIFESTS.contains(&said)), "an index sent as a manifest");
            assert!(entries.len() <= limits.index_entries);
            let wanted = "linux/arm/v7".parse().expect("a platform");
            if let Ok(chosen) = manifest::choose(entries, &wanted) {
                assert!(entries.contains(chosen));
            }
        }
    }
}
