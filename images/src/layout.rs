//! Writes an OCI image layout (image-spec image-layout.md) from a directory tree: one gzip layer, a configuration, a
//! manifest, an index. The same tree gives the same bytes: entries sorted, times zero.

pub mod archive;
pub(crate) mod export;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::options::Platform;
use crate::reference::Reference;

#[cfg(test)]
pub(crate) use archive::pax_record;

/// What the image configuration says beside its layer.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// What is run.
    pub entrypoint: Vec<String>,
    /// Its default arguments, or without an entry point what is run.
    pub cmd: Vec<String>,
    /// Where it runs.
    pub workdir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// `80/tcp`.
    pub ports: Vec<String>,
    /// Signal that asks it to stop.
    pub stop_signal: Option<String>,
    /// Another platform than this host's.
    pub platform: Option<Platform>,
}

/// Writes an image of everything below `tree` into the layout directory `out`, which is made if it is missing; a layout
/// that is there keeps its blobs and has this image only in its index. The manifest's digest.
///
/// # Errors
/// [`Kind::InvalidArgument`] for settings without sense, [`Kind::System`] for the disk.
pub fn write(tree: &Path, settings: &Settings, out: &Path, name: &Reference) -> Result<Digest> {
    check(settings)?;
    let blobs = out.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).context(|| format!("make {}", blobs.display()))?;
    let layer = write_layer(tree, &blobs).context(|| format!("read {}", tree.display()))?;
    let config = put(&blobs, &configuration(settings, &layer.diff_id))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &(layer.digest, layer.size))],
    });
    let manifest = put(&blobs, &manifest)?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let platform = settings.platform.clone().unwrap_or_else(Platform::host);
    entry["platform"] = platform_json(&platform);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name.to_string()});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    disk::replace(&out.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    disk::replace(&out.join("index.json"), &bytes(&index))?;
    Ok(manifest.0)
}

fn check(settings: &Settings) -> Result<()> {
    let wrong = |why: String| Err(Error::new(Kind::InvalidArgument, why));
    if let Some(bad) = settings.env.iter().find(|e| e.find('=').is_none_or(|at| at == 0)) {
        return wrong(format!("env {bad:?}: expected NAME=value"));
    }
    match &settings.workdir {
        Some(dir) if !dir.starts_with('/') => wrong(format!("workdir {dir:?} is not absolute")),
        _ => Ok(()),
    }
}

fn configuration(settings: &Settings, diff_id: &Digest) -> Value {
    let platform = settings.platform.clone().unwrap_or_else(Platform::host);
    let mut run = serde_json::Map::new();
    let mut set = |key: &str, value: Value| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if !empty && !value.as_object().is_some_and(serde_json::Map::is_empty) {
            run.insert(key.to_owned(), value);
        }
    };
    set("User", json!(settings.user));
    let ports: BTreeMap<&String, Value> = settings.ports.iter().map(|port| (port, json!({}))).collect();
    set("ExposedPorts", json!(ports));
    set("Env", json!(settings.env));
    set("Entrypoint", json!(settings.entrypoint));
    set("Cmd", json!(settings.cmd));
    set("WorkingDir", json!(settings.workdir));
    set("Labels", json!(settings.labels));
    set("StopSignal", json!(settings.stop_signal));
    let mut config = platform_json(&platform);
    config["created"] = json!("1970-01-01T00:00:00Z");
    config["config"] = Value::Object(run);
    config["rootfs"] = json!({"type": "layers", "diff_ids": [diff_id.to_string()]});
    config["history"] = json!([{"created": "1970-01-01T00:00:00Z", "created_by": "gantry image build"}]);
    config
}

fn platform_json(platform: &Platform) -> Value {
    let mut value = json!({"architecture": platform.architecture, "os": platform.os});
    if let Some(variant) = &platform.variant {
        value["variant"] = json!(variant);
    }
    value
}

fn descriptor(media_type: &str, (digest, size): &(Digest, u64)) -> Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn put(blobs: &Path, value: &Value) -> Result<(Digest, u64)> {
    let body = bytes(value);
    let digest = Digest::of(&body);
    disk::replace(&blobs.join(digest.hex()), &body)?;
    Ok((digest, body.len() as u64))
}

struct WrittenLayer {
    digest: Digest,
    size: u64,
    diff_id: Digest,
}

fn write_layer(tree: &Path, blobs: &Path) -> Result<WrittenLayer> {
    let temporary = blobs.join(format!(".layer.{}", std::process::id()));
    let write = || -> Result<WrittenLayer> {
        let file = File::create(&temporary).context(|| format!("write {}", temporary.display()))?;
        let outer = Counting::new(BufWriter::new(file));
        // The header of a gzip stream made like this has neither time nor name.
        let mut inner = Counting::new(flate2::write::GzEncoder::new(outer, flate2::Compression::default()));
        archive::write(tree, &mut inner)?;
        let diff_id = inner.hasher.finish();
        let mut outer = inner.to.finish().context(|| "compress")?;
        outer.to.flush().context(|| "write")?;
        let layer = WrittenLayer { digest: outer.hasher.finish(), size: outer.count, diff_id };
        std::fs::rename(&temporary, blobs.join(layer.digest.hex())).context(|| "rename the layer")?;
        Ok(layer)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
}

/// Digests and counts what is written.
struct Counting<W> {
    to: W,
    hasher: Hasher,
    count: u64,
}

impl<W> Counting<W> {
    fn new(to: W) -> Self {
        Self { to, hasher: Hasher::new(Algorithm::Sha256), count: 0 }
    }
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.to.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let dir = Scratch::new("layout");
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("bin")).unwrap();
        std::fs::write(tree.join("bin/sh"), b"#!").unwrap();
        std::fs::hard_link(tree.join("bin/sh"), tree.join("bin/ash")).unwrap();
        std::os::unix::fs::symlink("bin/sh", tree.join("init")).unwrap();
        let settings = Settings { env: vec!["A=b".into()], cmd: vec!["/init".into()], ..Settings::default() };
        let name = "demo:1".parse().unwrap();
        let one = write(&tree, &settings, &dir.path().join("one"), &name).unwrap();
        std::fs::File::open(tree.join("bin/sh")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        let two = write(&tree, &settings, &dir.path().join("two"), &name).unwrap();
        assert_eq!(one, two);
        assert_eq!(std::fs::read_dir(dir.path().join("one/blobs/sha256")).unwrap().count(), 3);
    }

    #[test]
    fn settings_without_sense_are_refused() {
        for bad in [
            Settings { env: vec!["A".into()], ..Settings::default() },
            Settings { env: vec!["=b".into()], ..Settings::default() },
            Settings { workdir: Some("x".into()), ..Settings::default() },
        ] {
            assert_eq!(check(&bad).unwrap_err().kind(), Kind::InvalidArgument, "{bad:?}");
        }
    }
}
