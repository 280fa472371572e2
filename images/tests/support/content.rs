//! One small image, served at `/v2/app/…` by a server of the test.

use gantry_images::Digest;
use serde_json::Value;

use super::House;
use super::http::{Answer, Asked};
use super::tape::{self, Packing, Tape};

/// Serves the one image of a layout at `/v2/app/…`, whole and without questions.
#[derive(Clone)]
pub struct Content {
    pub manifest: Vec<u8>,
    pub blobs: Vec<Vec<u8>>,
    pub layer: Digest,
}

impl Content {
    pub fn new(house: &House) -> Self {
        let filler: String =
            (0..60_000).map(|n: u32| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)).collect();
        let layout =
            tape::layout(&house.path("oci"), "app:1", &[(Tape::new().file("f", &filler).end(), Packing::Gzip)]);
        let read = |digest: &str| std::fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
        let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let manifest = read(index["manifests"][0]["digest"].as_str().unwrap());
        let parsed: Value = serde_json::from_slice(&manifest).unwrap();
        let layer = parsed["layers"][0]["digest"].as_str().unwrap();
        let blobs = vec![read(parsed["config"]["digest"].as_str().unwrap()), read(layer)];
        Self { manifest, blobs, layer: layer.parse().unwrap() }
    }

    pub fn answer(&self, asked: &Asked) -> Answer {
        let Some((_, last)) = asked.path.rsplit_once('/') else { return Answer::status(404) };
        let last = last.split('?').next().unwrap();
        if asked.path.starts_with("/v2/app/manifests/") {
            return Answer::ok(self.manifest.clone())
                .header("content-type", "application/vnd.oci.image.manifest.v1+json");
        }
        let blob = self.blobs.iter().find(|blob| Digest::of(blob).to_string() == last);
        let Some(blob) = blob else { return Answer::status(404) };
        match asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        {
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                Answer { status: 206, ..Answer::ok(&blob[from..]) }.header("content-range", range)
            }
            None => Answer::ok(blob.clone()),
        }
    }

    pub fn is_layer(&self, asked: &Asked) -> bool {
        asked.path.contains(&self.layer.to_string())
    }
}
