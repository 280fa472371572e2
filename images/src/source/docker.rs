//! `docker save` archives of before Docker 25: `manifest.json`, configurations, and plain layer archives by path.
//! Whatever an OCI layout would have is made up from them, so that the rest of the store knows one form only.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Context, Error, Kind, Result};
use crate::source::layout::{Contents, read};

/// Bytes of `manifest.json` or of one configuration.
const MOST: u64 = 4 << 20;
/// Links from one layer to another that are followed.
const LINKS: usize = 4;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Adds what a layout has to an archive that has only `manifest.json`; one that is a layout stays as it is.
///
/// # Errors
/// [`Kind::Invalid`] if the archive names files that it does not hold.
pub(super) fn complete(file: &File, contents: &mut Contents) -> Result<()> {
    if contents.files.contains_key(&b"oci-layout"[..]) {
        return Ok(());
    }
    let Some(body) = read(file, &contents.files, "manifest.json", MOST)? else { return Ok(()) };
    let saved: Vec<Saved> =
        serde_json::from_slice(&body).map_err(|why| Error::caused(Kind::Invalid, "manifest.json", why))?;
    let mut entries = Vec::new();
    for image in saved {
        let manifest = manifest(file, contents, &image)?.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        let entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest.to_string(),
            "size": manifest.len(),
        });
        contents.made.insert(blob_name(&digest), manifest);
        let tags = image.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            entries.push(entry.clone());
        }
        for tag in tags {
            let mut named = entry.clone();
            named["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
            entries.push(named);
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": entries});
    contents.made.insert(b"index.json".to_vec(), index.to_string().into_bytes());
    contents.made.insert(b"oci-layout".to_vec(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    Ok(())
}

fn blob_name(digest: &Digest) -> Vec<u8> {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()).into_bytes()
}

fn manifest(file: &File, contents: &mut Contents, image: &Saved) -> Result<Value> {
    let config = descriptor(file, contents, &image.config, "application/vnd.oci.image.config.v1+json")?;
    let mut layers = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        let mut described = descriptor(file, contents, layer, "application/vnd.oci.image.layer.v1.tar")?;
        let suffix = packing(file, contents, described["digest"].as_str().unwrap_or_default())?;
        described["mediaType"] = json!(format!("application/vnd.oci.image.layer.v1.tar{suffix}"));
        layers.push(described);
    }
    Ok(json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    }))
}

/// How a layer is compressed: docker does not, others do, and who reads the image again will go by the media type.
fn packing(file: &File, contents: &Contents, digest: &str) -> Result<&'static str> {
    let name = digest.parse::<Digest>().map(|digest| blob_name(&digest))?;
    let (offset, size) = contents.files.get(&name).copied().unwrap_or_default();
    let mut head = [0; 4];
    let most = head.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    file.read_exact_at(&mut head[..most], offset).context(|| "read")?;
    Ok(match head {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
        _ => "",
    })
}

/// Digests a file of the archive and gives it a blob's name.
fn descriptor(file: &File, contents: &mut Contents, name: &str, media_type: &str) -> Result<Value> {
    let missing = || Error::new(Kind::Invalid, format!("manifest.json names {name:?}, which is not in the archive"));
    let mut at = name.as_bytes().to_vec();
    for _ in 0..LINKS {
        match contents.links.get(&at) {
            Some(target) => at = resolve(&at, target),
            None => break,
        }
    }
    let (offset, size) = contents.files.get(&at).copied().ok_or_else(missing)?;
    let digest = digest(file, offset, size).context(|| format!("read {name:?}"))?;
    contents.files.insert(blob_name(&digest), (offset, size));
    Ok(json!({"mediaType": media_type, "digest": digest.to_string(), "size": size}))
}

/// A link's target from the archive's root. Only a name to look up, so `..` can at worst find nothing.
fn resolve(link: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = link.split(|b| *b == b'/').collect();
    parts.pop();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join(&b'/')
}

fn digest(file: &File, offset: u64, size: u64) -> Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < size {
        let most = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..most], offset + at).context(|| "read")?;
        hasher.update(&buffer[..most]);
        at += most as u64;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_between_layers() {
        let resolved =
            |link: &str, target: &str| String::from_utf8(resolve(link.as_bytes(), target.as_bytes())).unwrap();
        assert_eq!(resolved("b/layer.tar", "../a/layer.tar"), "a/layer.tar");
        assert_eq!(resolved("layer.tar", "./x"), "x");
        assert_eq!(resolved("a/b", "../../../etc/passwd"), "etc/passwd");
    }
}
