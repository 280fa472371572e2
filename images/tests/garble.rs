//! Every parser that strangers reach, fed with damaged input: an answer or an error, never a panic or a hang, and what is
//! accepted is stable.

#![allow(clippy::unwrap_used)]

use std::io::BufReader;

use gantry_images::manifest::{self, Document};
use gantry_images::source::registry::auth;
use gantry_images::unpack::{pax, tar::Archive, whiteout};
use gantry_images::{Limits, Reference};

struct Noise(u64);

impl Noise {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most.max(1)
    }

    /// A few bytes changed, inserted, removed or repeated.
    fn garble(&mut self, seed: &[u8], telling: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.insert(at, telling[self.below(telling.len())]),
                1 if at < bytes.len() => bytes[at] = telling[self.below(telling.len())],
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => {
                    let end = (at + self.below(20)).min(bytes.len());
                    bytes.extend_from_within(at.min(end)..end);
                }
            }
        }
        bytes
    }
}

const ROUNDS: usize = 5000;

#[test]
fn references() {
    let mut noise = Noise(1);
    let seed = b"quay.io:443/a/b_c:v1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let mut accepted = 0;
    for _ in 0..ROUNDS {
        let start = noise.below(30);
        let end = start + noise.below(seed.len() - start);
        let text = String::from_utf8_lossy(&noise.garble(&seed[start..end], b"aZ0./:@_-[] \xff")).into_owned();
        if let Ok(reference) = text.parse::<Reference>() {
            accepted += 1;
            let normal = reference.to_string();
            assert_eq!(normal.parse::<Reference>().unwrap(), reference, "{text:?} -> {normal:?}");
            assert!(!reference.path().contains("..") && !reference.path().starts_with('/'), "{text:?}");
        }
    }
    assert!(accepted > 100, "only {accepted} accepted: the test tests nothing");
}

#[test]
fn manifests() {
    let mut noise = Noise(2);
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let item = |media_type: &str| format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":3}}"#);
    let seed = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}],"annotations":{{"a":"b"}}}}"#,
        manifest::MANIFESTS[0],
        item("application/vnd.oci.image.config.v1+json"),
        item("application/vnd.oci.image.layer.v1.tar")
    );
    let mut accepted = 0;
    for _ in 0..ROUNDS {
        let body = noise.garble(seed.as_bytes(), b"{}[],:\"0129ae\\ \xff");
        if let Ok(document) = manifest::parse(&body, None, &Limits::default()) {
            accepted += 1;
            assert!(matches!(document, Document::Manifest(manifest) if manifest.layers.len() <= 2));
        }
    }
    assert!(accepted > 10, "only {accepted} accepted");
}

#[test]
fn archives_and_their_extensions() {
    let mut noise = Noise(3);
    let seed = b"12 path=abc\n20 SCHILY.xattr.a=b\n22 GNU.sparse.map=0,1\n14 mtime=1.25\n";
    for _ in 0..ROUNDS {
        let _ = pax::parse(&noise.garble(seed, b"0123456789 =\n.,-\0"));
        let _ = whiteout::meaning(&noise.garble(b"a/.wh..wh..opq/.wh.b/../c", b"./.wh\0a"));
        let block: Vec<u8> = (0..1536).map(|_| [0, b'0', b' ', 0x80, 255, b'7'][noise.below(6)]).collect();
        let mut archive = Archive::new(BufReader::new(&block[..]));
        while let Ok(Some(_)) = archive.next_entry() {}
    }
}

#[test]
fn challenges() {
    let mut noise = Noise(4);
    let seed = br#"Bearer realm="https://a/t",service="s",scope="repository:a:pull,push", Basic realm="x""#;
    for _ in 0..ROUNDS {
        let text = String::from_utf8_lossy(&noise.garble(seed, b"\", =\\B\xc3")).into_owned();
        let _ = auth::challenges([text.as_str()].into_iter());
        let _ = auth::token(text.as_bytes());
    }
}
