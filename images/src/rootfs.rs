//! Root filesystems: one overlay a container, under `rootfs/KEY/{record.json,upper,work,merged}`.
//!
//! The record is written before anything else and removed after everything else, so that a crash at any point leaves
//! either nothing or something that [`Rootfses::release`] can take down.

pub(crate) mod file_mount;
pub(crate) mod overlay;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fault;
use crate::layers::{Key, Layers, remove_tree};
use crate::unpack::tree::{Attributes, Place};

/// What stands in `record.json`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) image_id: String,
    /// Lowest first.
    pub(crate) layers: Vec<Key>,
}

/// The root filesystems of one store.
#[derive(Debug)]
pub(crate) struct Rootfses {
    dir: PathBuf,
}

/// The paths of one root filesystem.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) home: PathBuf,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) merged: PathBuf,
}

/// `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`: safe as a file name, whoever chose it.
///
/// # Errors
/// [`Kind::InvalidArgument`].
pub(crate) fn check_key(key: &str) -> Result<()> {
    let first = key.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    match first && rest && key.len() <= 128 {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::InvalidArgument, format!("rootfs key {key:?}: expected [A-Za-z0-9_.-]{{1,128}}")))
        }
    }
}

impl Rootfses {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("rootfs");
        disk::private_dir(&dir)?;
        Ok(Self { dir })
    }

    pub(crate) fn paths(&self, key: &str) -> Paths {
        let home = self.dir.join(key);
        let below = |name: &str| home.join(name);
        Paths { upper: below("upper"), work: below("work"), merged: below("merged"), home }
    }

    /// The record of a key; `None` if there is none, if a crash came before it was written, or if a power cut, which
    /// ends every container, has left it empty.
    pub(crate) fn record(&self, key: &str) -> Result<Option<Record>> {
        let body = disk::read_small(&self.paths(key).home.join("record.json"), 1 << 20)?;
        let unreadable = |why: serde_json::Error| tracing::warn!(key, %why, "the record of a rootfs is unreadable");
        Ok(body.and_then(|body| serde_json::from_slice(&body).map_err(unreadable).ok()))
    }

    /// Every key with something on disk.
    pub(crate) fn keys(&self) -> Result<BTreeSet<String>> {
        let entries = std::fs::read_dir(&self.dir).context(|| format!("read {}", self.dir.display()))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// The layers under all root filesystems but one.
    pub(crate) fn needed(&self, but: Option<&str>) -> Result<BTreeSet<Key>> {
        let mut needed = BTreeSet::new();
        for key in self.keys()?.iter().filter(|key| Some(key.as_str()) != but) {
            needed.extend(self.record(key)?.into_iter().flat_map(|record| record.layers));
        }
        Ok(needed)
    }

    /// Makes and mounts a root filesystem over `layers`, lowest first. One that is mounted is left as it is.
    pub(crate) fn mount(&self, key: &str, image_id: &str, layers: &[Key], store: &Layers) -> Result<Paths> {
        let paths = self.paths(key);
        let record = match self.record(key)? {
            Some(record) if record.image_id == image_id => record,
            Some(record) => {
                let why = format!("rootfs {key} is of image {}, not {image_id}", record.image_id);
                return Err(Error::new(Kind::Conflict, why));
            }
            None => {
                // Left by a crash between mkdir and record, or by a release that had removed the record already.
                self.release(key, store)?;
                let record = Record { version: 1, image_id: image_id.into(), layers: layers.to_vec() };
                self.create(&paths, &record)?;
                record
            }
        };
        if overlay::is_mounted(&paths.merged)? {
            return Ok(paths);
        }
        for dir in [&paths.work, &paths.merged, &paths.upper] {
            disk::private_dir(dir)?;
        }
        fault::point("dress a rootfs").context(|| format!("dress rootfs {key}"))?;
        let highest_first: Vec<Key> = store.seen(&record.layers)?.iter().rev().cloned().collect();
        let lower = store.views(&highest_first).context(|| format!("rootfs {key}"))?;
        dress(&paths.upper, &highest_first, &lower, store)?;
        fault::point("mount a rootfs").context(|| format!("mount rootfs {key}"))?;
        overlay::mount(&lower, &paths.upper, &paths.work, &paths.merged)?;
        Ok(paths)
    }

    fn create(&self, paths: &Paths, record: &Record) -> Result<()> {
        let what = || format!("write {}", paths.home.join("record.json").display());
        fault::point("make a rootfs").context(what)?;
        disk::private_dir(&paths.home)?;
        let body = serde_json::to_vec(record).map_err(|why| Error::caused(Kind::System, "record of a rootfs", why))?;
        // Not synced: a power cut ends the container that it is for, and syncing costs more than mounting.
        let (temporary, path) = (paths.home.join(".record.json"), paths.home.join("record.json"));
        fault::point("write a rootfs record").and_then(|()| std::fs::write(&temporary, body)).context(what)?;
        disk::rename(&temporary, &path).context(what)
    }

    /// Unmounts and deletes; a missing key is success.
    pub(crate) fn release(&self, key: &str, store: &Layers) -> Result<()> {
        let paths = self.paths(key);
        if !paths.home.exists() {
            return Ok(());
        }
        fault::point("unmount a rootfs").context(|| format!("unmount rootfs {key}"))?;
        overlay::unmount(&paths.merged)?;
        let what = || format!("remove rootfs {key}");
        if let Some(record) = self.record(key)? {
            fault::point("unmount images of layers").context(what)?;
            store.unview(&record.layers, || self.needed(Some(key))).context(what)?;
        }
        // The record goes last: until then the layers underneath stay protected and the next attempt finds the key.
        for dir in [&paths.upper, &paths.work, &paths.merged] {
            remove_tree(dir).context(what)?;
        }
        remove_tree(&paths.home).context(what)
    }
}

/// The root directory of an overlay is the upper one: give it the look of the highest layer that says how.
fn dress(upper: &Path, layers: &[Key], views: &[PathBuf], store: &Layers) -> Result<()> {
    // A container may have changed its root directory: only a new upper directory is dressed.
    if std::fs::read_dir(upper).context(|| "read upper")?.next().is_some() {
        return Ok(());
    }
    let mut look = Attributes { uid: 0, gid: 0, mode: 0o755, mtime: (0, 0) };
    for (key, view) in layers.iter().zip(views) {
        if store.facts(key)?.is_some_and(|facts| facts.root) {
            let meta = std::fs::symlink_metadata(view).context(|| format!("stat layer {key}"))?;
            let mtime = (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0));
            look = Attributes { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777, mtime };
            break;
        }
    }
    Place { dir: Rc::new(disk::open_dir(upper)?), name: c".".to_owned() }.set_attributes(&look, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_file_names() {
        for good in ["a", "0", "web-1_x.y", &"k".repeat(128)] {
            assert!(check_key(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "a\0", "ä", &"k".repeat(129)] {
            assert!(check_key(bad).is_err(), "{bad:?}");
        }
    }
}
