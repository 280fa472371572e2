//! The `pod-template-hash`: a short name for a pod template, the same for the same template for ever.
//!
//! FNV-1a (32 bit) over the template as canonical JSON (fields in a fixed order, maps sorted) and the collision count, written in
//! the alphabet of upstream's `rand.SafeEncodeString` (no vowels, no digits that look like letters), so that it can
//! stand in names and labels.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The label on ReplicaSets and their pods.
pub(super) const LABEL: &str = "pod-template-hash";

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // A typed template always becomes JSON; the empty text only keeps this function total.
    let mut text = serde_json::to_vec(&bare(template)).unwrap_or_default();
    if collisions > 0 {
        text.extend_from_slice(&collisions.to_le_bytes());
    }
    fnv1a(&text).to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// Whether two templates differ in nothing but the hash label.
pub(super) fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    bare(a) == bare(b)
}

/// The template without the hash label; empty maps and missing ones are the same.
fn bare(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut bare = template.clone();
    let mut meta = bare.metadata.unwrap_or_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(LABEL);
    }
    meta.labels = meta.labels.filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.filter(|annotations| !annotations.is_empty());
    meta.creation_timestamp = None;
    bare.metadata = Some(meta);
    bare
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
