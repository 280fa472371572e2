//! Root filesystems: one overlay a container, under `rootfs/KEY/{record.json,upper,work,merged}`, or a copy where
//! overlays cannot be used. Mounts of images for people and as volumes (`mounts/KEY`, [`crate::mounts`]) are the same.
//!
//! The record is written before anything else and removed after everything else, so that a crash at any point leaves
//! either nothing or something that [`Rootfses::release`] can take down.

pub(crate) mod copy;
pub(crate) mod file_mount;
pub(crate) mod overlay;
pub(crate) mod shift;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::config::RootfsDriver;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fault;
use crate::layers::{Key, Layers, remove_tree};
use crate::rootfs::overlay::Writes;
use crate::rootfs::shift::Shift;
use crate::unpack::directory::Directory;
use crate::unpack::target::Target as _;
use crate::unpack::tree::{Attributes, Place};

/// What stands in `record.json`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) image_id: String,
    /// Lowest first.
    pub(crate) layers: Vec<Key>,
    /// `merged` is a copy.
    #[serde(default)]
    pub(crate) copy: bool,
    /// For a mount, where it is, and whether it can be written to.
    #[serde(default)]
    pub(crate) mount: Option<(PathBuf, bool)>,
    /// Layers that were found damaged and replaced while this was mounted: it goes on with them until it is released.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aside: Vec<Key>,
}

impl Record {
    /// Whatever it stands on.
    fn all_layers(self) -> Vec<Key> {
        self.layers.into_iter().chain(self.aside).collect()
    }
}

/// What a root filesystem is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) image_id: String,
    /// Lowest first.
    pub(crate) layers: Vec<Key>,
    pub(crate) driver: RootfsDriver,
    pub(crate) shift: Option<Shift>,
    pub(crate) mount: Option<(PathBuf, bool)>,
}

/// The root filesystems of one store.
#[derive(Debug)]
pub(crate) struct Rootfses {
    root: PathBuf,
    dir: PathBuf,
}

/// Where records lie below the store's root.
const PLACES: [&str; 2] = ["rootfs", "mounts"];

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
    /// The containers' root filesystems.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        Self::at(root, PLACES[0])
    }

    /// The mounts of images elsewhere.
    pub(crate) fn of_mounts(root: &Path) -> Result<Self> {
        Self::at(root, PLACES[1])
    }

    fn at(root: &Path, place: &str) -> Result<Self> {
        let dir = root.join(place);
        disk::private_dir(&dir)?;
        Ok(Self { root: root.to_owned(), dir })
    }

    pub(crate) fn paths(&self, key: &str) -> Paths {
        let home = self.dir.join(key);
        let below = |name: &str| home.join(name);
        Paths { upper: below("upper"), work: below("work"), merged: below("merged"), home }
    }

    /// The record of a key; `None` if there is none, if a crash came before it was written, or if a power cut, which
    /// ends every container, has left it empty.
    pub(crate) fn record(&self, key: &str) -> Result<Option<Record>> {
        read(&self.paths(key).home)
    }

    /// Every key with something on disk.
    pub(crate) fn keys(&self) -> Result<BTreeSet<String>> {
        let entries = std::fs::read_dir(&self.dir).context(|| format!("read {}", self.dir.display()))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Every record, of containers and of mounts: its directory and what it says.
    pub(crate) fn everywhere(&self) -> Result<Vec<(PathBuf, Record)>> {
        let mut all = Vec::new();
        for place in PLACES.map(|place| self.root.join(place)) {
            let entries = match std::fs::read_dir(&place) {
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.context(|| format!("read {}", place.display()))?,
            };
            for home in entries.flatten().map(|entry| entry.path()) {
                all.extend(read(&home)?.map(|record| (home, record)));
            }
        }
        Ok(all)
    }

    /// The directories of the mounted root filesystems, of containers and others, that have a layer underneath.
    pub(crate) fn over(&self, layer: &Key) -> Result<Vec<PathBuf>> {
        let mut users = Vec::new();
        for (home, record) in self.everywhere()? {
            let elsewhere = record.mount.as_ref().map(|(at, _)| overlay::is_mounted(at)).transpose()?;
            let mounted = elsewhere.unwrap_or(false) || overlay::is_mounted(&home.join("merged"))?;
            if mounted && record.layers.contains(layer) {
                users.push(home);
            }
        }
        Ok(users)
    }

    /// Notes that a mounted root filesystem needs a layer that was taken out of use.
    pub(crate) fn keep(&self, home: &Path, aside: &Key) -> Result<()> {
        let Some(mut record) = read(home)? else { return Ok(()) };
        record.aside.push(aside.clone());
        create(home, &record)
    }

    /// The layers under all root filesystems but the one in the directory `but`.
    pub(crate) fn needed(&self, but: Option<&Path>) -> Result<BTreeSet<Key>> {
        let others = self.everywhere()?.into_iter().filter(|(home, _)| Some(home.as_path()) != but);
        Ok(others.flat_map(|(_, record)| record.all_layers()).collect())
    }

    /// Makes a root filesystem and mounts it on its `merged`. One that is there is left as it is.
    pub(crate) fn mount(&self, key: &str, wanted: &Plan, store: &Layers) -> Result<Paths> {
        let paths = self.paths(key);
        let mut record = match self.record(key)? {
            Some(record) if record.image_id == wanted.image_id => record,
            Some(record) => {
                let why = format!("rootfs {key} is of image {}, not {}", record.image_id, wanted.image_id);
                return Err(Error::new(Kind::Conflict, why));
            }
            None => {
                // Left by a crash between mkdir and record, or by a release that had removed the record already.
                self.release(key, store)?;
                let record = Record {
                    version: 1,
                    image_id: wanted.image_id.clone(),
                    layers: wanted.layers.clone(),
                    copy: wanted.driver == RootfsDriver::Copy,
                    mount: wanted.mount.clone(),
                    aside: Vec::new(),
                };
                create(&paths.home, &record)?;
                record
            }
        };
        let there = if record.copy { paths.merged.is_dir() } else { overlay::is_mounted(&paths.merged)? };
        if there {
            return Ok(self.told(paths, &record));
        }
        fault::point("dress a rootfs").context(|| format!("dress rootfs {key}"))?;
        let highest_first: Vec<Key> = store.seen(&record.layers)?.iter().rev().cloned().collect();
        let views = store.views(&highest_first).context(|| format!("rootfs {key}"))?;
        let made = match record.copy {
            false => self.lay(&paths, &highest_first, &views, wanted, store),
            true => copied(&paths, &highest_first, &views, wanted, store),
        };
        match made {
            // Nothing is written to it yet: else overlays are what this host can do.
            Err(why) if why.kind() == Kind::Unsupported && !record.copy && wanted.driver == RootfsDriver::Auto => {
                tracing::warn!(key, %why, "no overlay is possible: the image is copied");
                record.copy = true;
                create(&paths.home, &record)?;
                remove_tree(&paths.merged).context(|| format!("rootfs {key}"))?;
                copied(&paths, &highest_first, &views, wanted, store)?;
            }
            other => other?,
        }
        Ok(self.told(paths, &record))
    }

    /// The paths with what is written where it is: in a copy everywhere.
    fn told(&self, paths: Paths, record: &Record) -> Paths {
        if record.copy { Paths { upper: paths.merged.clone(), ..paths } } else { paths }
    }

    /// Where a container's writes are, and whether what it has not written is there as well.
    pub(crate) fn writes(&self, key: &str) -> Result<Option<(PathBuf, Record)>> {
        let record = self.record(key)?;
        Ok(record.map(|record| (self.told(self.paths(key), &record).upper, record)))
    }

    /// Mounts an overlay.
    fn lay(&self, paths: &Paths, layers: &[Key], views: &[PathBuf], wanted: &Plan, store: &Layers) -> Result<()> {
        for dir in [&paths.work, &paths.merged, &paths.upper] {
            disk::private_dir(dir)?;
        }
        dress(&paths.upper, layers, views, wanted.shift.as_ref(), store)?;
        let writes = match wanted.mount {
            Some((_, false)) => Writes::No { top: &paths.upper },
            _ => Writes::To { upper: &paths.upper, work: &paths.work },
        };
        fault::point("mount a rootfs").context(|| format!("mount {}", paths.merged.display()))?;
        let Some(shift) = &wanted.shift else { return overlay::mount(views, writes, &paths.merged) };
        shift::clear(&paths.home)?;
        let mounted = shift.mounts(views, &paths.home).and_then(|low| overlay::mount(&low, writes, &paths.merged));
        // The overlay has mounts of its own by now.
        shift::clear(&paths.home)?;
        mounted
    }

    /// Unmounts and deletes; a missing key is success.
    pub(crate) fn release(&self, key: &str, store: &Layers) -> Result<()> {
        let paths = self.paths(key);
        if !paths.home.exists() {
            return Ok(());
        }
        fault::point("unmount a rootfs").context(|| format!("unmount rootfs {key}"))?;
        overlay::unmount(&paths.merged)?;
        shift::clear(&paths.home)?;
        let what = || format!("remove rootfs {key}");
        if let Some(record) = self.record(key)? {
            fault::point("unmount images of layers").context(what)?;
            store.unview(&record.all_layers(), || self.needed(Some(&paths.home))).context(what)?;
        }
        // The record goes last: until then the layers underneath stay protected and the next attempt finds the key.
        for dir in [&paths.upper, &paths.work, &paths.merged] {
            remove_tree(dir).context(what)?;
        }
        remove_tree(&paths.home).context(what)
    }
}

fn create(home: &Path, record: &Record) -> Result<()> {
    let what = || format!("write {}", home.join("record.json").display());
    fault::point("make a rootfs").context(what)?;
    disk::private_dir(home)?;
    let body = serde_json::to_vec(record).map_err(|why| Error::caused(Kind::System, "record of a rootfs", why))?;
    // Not synced: a power cut ends the container that it is for, and syncing costs more than mounting.
    let (temporary, path) = (home.join(".record.json"), home.join("record.json"));
    fault::point("write a rootfs record").and_then(|()| std::fs::write(&temporary, body)).context(what)?;
    disk::rename(&temporary, &path).context(what)
}

fn read(home: &Path) -> Result<Option<Record>> {
    let body = disk::read_small(&home.join("record.json"), 1 << 20)?;
    let at = home.display();
    let unreadable = |why: serde_json::Error| tracing::warn!(%at, %why, "the record of a rootfs is unreadable");
    Ok(body.and_then(|body| serde_json::from_slice(&body).map_err(unreadable).ok()))
}

/// Copies the image to `merged`, which has its name once it is complete.
fn copied(paths: &Paths, layers: &[Key], views: &[PathBuf], wanted: &Plan, store: &Layers) -> Result<()> {
    let filling = paths.home.join("filling");
    let what = || format!("copy the image to {}", paths.merged.display());
    remove_tree(&filling).context(what)?;
    disk::private_dir(&filling)?;
    dress(&filling, layers, views, wanted.shift.as_ref(), store)?;
    let mut into = Directory::new(disk::open_dir(&filling)?);
    for (key, view) in layers.iter().zip(views).rev() {
        fault::point("copy a layer").context(what)?;
        let root = store.facts(key)?.is_some_and(|facts| facts.root);
        copy::layer(view, &mut into, root, wanted.shift.as_ref()).context(what)?;
    }
    into.finish()?;
    disk::rename(&filling, &paths.merged).context(what)
}

/// The root directory of an overlay is the upper one: give it the look of the highest layer that says how.
fn dress(upper: &Path, layers: &[Key], views: &[PathBuf], shift: Option<&Shift>, store: &Layers) -> Result<()> {
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
    let look = shift.map_or(look, |shift| shift.apply(look));
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
