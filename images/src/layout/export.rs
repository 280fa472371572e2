//! Writes images of the store for others to read: an OCI image layout as a directory or as one tar archive, the latter also
//! with the `manifest.json` by which `docker load`, and everything that reads docker archives, finds its way.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::blobs::Blobs;
use crate::digest::{Digest, Hasher};
use crate::error::{Context, Error, Kind, Result};
use crate::index::Entry;
use crate::layout::archive::{Item, write_header};
use crate::unpack::header::BLOCK;

/// What is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Form {
    /// A tar archive of an OCI image layout.
    #[default]
    OciArchive,
    /// The same with docker's `manifest.json`: what `docker save` has written since version 25.
    DockerArchive,
    /// An OCI image layout as a directory.
    OciDir,
}

impl std::str::FromStr for Form {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "oci-archive" | "oci" => Ok(Self::OciArchive),
            "docker-archive" | "docker" => Ok(Self::DockerArchive),
            "oci-dir" | "oci-layout" | "dir" => Ok(Self::OciDir),
            _ => {
                let why = format!("format {text:?}: there is oci-archive, docker-archive and oci-dir");
                Err(Error::new(Kind::InvalidArgument, why))
            }
        }
    }
}

/// One image, and the names that it is written under.
pub(crate) struct One {
    pub(crate) entry: Entry,
    pub(crate) names: BTreeSet<String>,
}

/// Where a layout's files go.
pub(crate) enum Place<'a> {
    Archive(&'a mut dyn Write),
    Directory(PathBuf),
}

/// Writes images. Each blob is verified on its way.
///
/// # Errors
/// [`Kind::NotFound`] for a blob that the store has lost, [`Kind::Invalid`] for a damaged one, [`Kind::Unsupported`] for an
/// artifact in a docker archive, [`Kind::System`].
pub(crate) fn write(images: &[One], form: Form, blobs: &Blobs, out: &mut Place<'_>) -> Result<()> {
    if let Some(one) = images.iter().find(|one| form == Form::DockerArchive && one.entry.artifact.is_some()) {
        let why = format!("{} is an artifact: docker archives hold images only; use oci-archive", one.entry.config);
        return Err(Error::new(Kind::Unsupported, why));
    }
    let documents = images.iter().map(|one| Documents::read(one, blobs)).collect::<Result<Vec<_>>>()?;
    let entries: Vec<Value> = documents.iter().flat_map(Documents::index_entries).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    small("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, out)?;
    small("index.json", index.to_string().as_bytes(), out)?;
    if form == Form::DockerArchive {
        let all: Vec<Value> = documents.iter().map(Documents::docker).collect();
        small("manifest.json", Value::Array(all).to_string().as_bytes(), out)?;
    }
    let mut written = BTreeSet::new();
    for one in &documents {
        small(&name(&one.image.entry.manifest), &one.body, out)?;
        written.insert(one.image.entry.manifest.clone());
        for (digest, size) in one.blobs()? {
            if written.insert(digest.clone()) {
                blob(&digest, size, blobs, out).context(|| format!("blob {digest}"))?;
            }
        }
    }
    match out {
        Place::Archive(out) => out.write_all(&[0; 2 * BLOCK]).context(|| "write the archive"),
        Place::Directory(_) => Ok(()),
    }
}

/// An image with its manifest.
struct Documents<'a> {
    image: &'a One,
    body: Vec<u8>,
    manifest: Value,
}

impl<'a> Documents<'a> {
    fn read(image: &'a One, blobs: &Blobs) -> Result<Self> {
        let digest = &image.entry.manifest;
        let body = blobs.read_small(digest, 64 << 20)?.ok_or_else(|| lost(digest))?;
        let manifest = serde_json::from_slice(&body).map_err(|why| Error::caused(Kind::Invalid, "manifest", why))?;
        Ok(Self { image, body, manifest })
    }

    /// One entry a name; containerd looks for the name under its own key, all others under the specification's.
    fn index_entries(&self) -> Vec<Value> {
        let media_type = self.manifest.get("mediaType").cloned();
        let descriptor = json!({
            "mediaType": media_type.unwrap_or(json!("application/vnd.oci.image.manifest.v1+json")),
            "digest": self.image.entry.manifest.to_string(),
            "size": self.body.len(),
        });
        let named = |name: &String| {
            let mut named = descriptor.clone();
            named["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
            named
        };
        match self.image.names.is_empty() {
            true => vec![descriptor.clone()],
            false => self.image.names.iter().map(named).collect(),
        }
    }

    /// The entry of docker's `manifest.json`.
    fn docker(&self) -> Value {
        let layers: Vec<String> = self.image.entry.layers.iter().map(|layer| name(&layer.digest)).collect();
        json!({"Config": name(&self.image.entry.config), "RepoTags": self.image.names, "Layers": layers})
    }

    /// Configuration and layers as the manifest names them.
    fn blobs(&self) -> Result<Vec<(Digest, u64)>> {
        let layers = self.manifest["layers"].as_array().into_iter().flatten();
        let one = |descriptor: &Value| -> Option<(Digest, u64)> {
            Some((descriptor["digest"].as_str()?.parse().ok()?, descriptor["size"].as_u64()?))
        };
        let all: Option<Vec<_>> = layers.chain([&self.manifest["config"]]).map(one).collect();
        all.ok_or_else(|| Error::new(Kind::Invalid, format!("manifest {} names no blobs", self.image.entry.manifest)))
    }
}

fn lost(digest: &Digest) -> Error {
    Error::new(Kind::NotFound, format!("blob {digest} is lost: pull the image again"))
}

fn name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn header(path: &str, size: u64, out: &mut dyn Write) -> Result<()> {
    let item = Item { path: path.as_bytes(), flag: b'0', mode: 0o644, size, ..Item::default() };
    write_header(&item, out)
}

fn pad(size: u64, out: &mut dyn Write) -> Result<()> {
    let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    out.write_all(&[0; BLOCK][..padding as usize]).context(|| "write the archive")
}

/// One file. In a directory it has its name only when it is whole.
fn file(path: &str, size: u64, from: &mut dyn Read, out: &mut Place<'_>) -> Result<()> {
    let wrong = |count: u64| Error::new(Kind::Invalid, format!("{path}: {count} of {size} bytes"));
    let what = || format!("write {path}");
    match out {
        Place::Archive(out) => {
            header(path, size, out)?;
            match std::io::copy(from, out).context(what)? {
                count if count == size => pad(size, out),
                count => Err(wrong(count)),
            }
        }
        Place::Directory(dir) => {
            let (path, temporary) = (dir.join(path), dir.join(format!(".{}", std::process::id())));
            std::fs::create_dir_all(path.parent().unwrap_or(dir)).context(what)?;
            let mut file = std::fs::File::create(&temporary).context(what)?;
            let copied = std::io::copy(from, &mut file).context(what);
            let copied = copied.and_then(|count| if count == size { Ok(()) } else { Err(wrong(count)) });
            let done = copied.and_then(|()| std::fs::rename(&temporary, &path).context(what));
            done.inspect_err(|_| drop(std::fs::remove_file(&temporary)))
        }
    }
}

fn small(path: &str, mut body: &[u8], out: &mut Place<'_>) -> Result<()> {
    file(path, body.len() as u64, &mut body, out)
}

fn blob(digest: &Digest, size: u64, blobs: &Blobs, out: &mut Place<'_>) -> Result<()> {
    if !blobs.has(digest, size) {
        return Err(lost(digest));
    }
    let mut checked = Checked { from: blobs.read(digest)?, hasher: Hasher::new(digest.algorithm()) };
    file(&name(digest), size, &mut checked, out)?;
    match checked.hasher.finish() == *digest {
        true => Ok(()),
        false => Err(Error::new(Kind::Invalid, "its content is damaged: pull the image again")),
    }
}

struct Checked {
    from: std::fs::File,
    hasher: Hasher,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
