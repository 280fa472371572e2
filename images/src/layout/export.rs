//! Writes images of the store as one OCI archive: a tar of an image layout, which podman, skopeo and docker read.

use std::collections::BTreeSet;
use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::blobs::Blobs;
use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::index::Entry;
use crate::layout::archive::{Item, write_header};
use crate::unpack::header::BLOCK;

/// Writes `entry` under `names`, or without a name if there are none. Each blob is verified on its way.
///
/// # Errors
/// [`Kind::NotFound`] for a blob that the store has lost, [`Kind::Invalid`] for a damaged one, [`Kind::System`].
pub(crate) fn write(entry: &Entry, names: &BTreeSet<String>, blobs: &Blobs, out: &mut dyn Write) -> Result<()> {
    let body = blobs.read_small(&entry.manifest, 64 << 20)?.ok_or_else(|| lost(&entry.manifest))?;
    let parsed: Value = serde_json::from_slice(&body).map_err(|why| Error::caused(Kind::Invalid, "manifest", why))?;
    let descriptor = json!({
        "mediaType": parsed.get("mediaType").cloned().unwrap_or(json!("application/vnd.oci.image.manifest.v1+json")),
        "digest": entry.manifest.to_string(),
        "size": body.len(),
    });
    let mut manifests: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut named = descriptor.clone();
            named["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            named
        })
        .collect();
    if manifests.is_empty() {
        manifests.push(descriptor);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    small("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, out)?;
    small("index.json", index.as_bytes(), out)?;
    small(&name(&entry.manifest), &body, out)?;
    let mut written = BTreeSet::from([&entry.manifest]);
    let sizes = entry.layers.iter().map(|layer| (&layer.digest, layer.size));
    for (digest, size) in sizes.chain([(&entry.config, entry.config_size)]) {
        if written.insert(digest) {
            blob(digest, size, blobs, out).context(|| format!("blob {digest}"))?;
        }
    }
    out.write_all(&[0; 2 * BLOCK]).context(|| "write the archive")
}

fn lost(digest: &Digest) -> Error {
    Error::new(Kind::NotFound, format!("blob {digest} is lost: pull the image again"))
}

fn name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn header(path: &str, size: u64, out: &mut dyn Write) -> Result<()> {
    let item = Item {
        path: path.as_bytes(),
        link: b"",
        flag: b'0',
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        device: (0, 0),
        xattrs: &[],
    };
    write_header(&item, out)
}

fn pad(size: u64, out: &mut dyn Write) -> Result<()> {
    let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    out.write_all(&[0; BLOCK][..padding as usize]).context(|| "write the archive")
}

fn small(path: &str, body: &[u8], out: &mut dyn Write) -> Result<()> {
    header(path, body.len() as u64, out)?;
    out.write_all(body).context(|| "write the archive")?;
    pad(body.len() as u64, out)
}

fn blob(digest: &Digest, size: u64, blobs: &Blobs, out: &mut dyn Write) -> Result<()> {
    if !blobs.has(digest, size) {
        return Err(lost(digest));
    }
    header(&name(digest), size, out)?;
    let mut hasher = crate::digest::Hasher::new(digest.algorithm());
    let mut from = blobs.read(digest)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = from.read(&mut buffer).context(|| "read")?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        out.write_all(&buffer[..count]).context(|| "write the archive")?;
    }
    match hasher.finish() == *digest {
        true => pad(size, out),
        false => Err(Error::new(Kind::Invalid, "its content is damaged: pull the image again")),
    }
}
