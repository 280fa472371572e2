//! `index.json`: which images there are. The one record that decides what exists; everything else follows from it.
//!
//! Several processes may change it: writers hold `lock`, reread, change, and replace the file. Readers look at the
//! file's identity and reread only when it changed.
//!
//! The content before the last change stays beside it as `index.old.json`. A disk that breaks its promises may still
//! leave an unreadable index: then the store opens with the one before, or with what the blobs say (`rebuild`).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fault;

const VERSION: u32 = 1;
const MOST: u64 = 1 << 30;
/// Room kept for writing the index on a full disk, beyond its size.
const RESERVE: u64 = 64 << 10;

/// Everything that is written down.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    pub(crate) images: Vec<Entry>,
}

/// One image.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Digest of the configuration: the image's id.
    pub(crate) config: Digest,
    /// What an artifact says that it is. Its id is its manifest's digest, since many have one empty configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact: Option<String>,
    pub(crate) config_size: u64,
    pub(crate) manifest: Digest,
    /// Manifest, indexes that led to it, an artifact's configuration: documents kept as blobs.
    pub(crate) documents: BTreeSet<Digest>,
    /// Lowest first.
    pub(crate) layers: Vec<Layer>,
    /// `host/path:tag`.
    pub(crate) tags: BTreeSet<String>,
    /// `host/path@digest`.
    pub(crate) digests: BTreeSet<String>,
    /// Manifest, configuration and layers as transferred, bytes.
    pub(crate) size: u64,
    pub(crate) pinned: bool,
    /// Nanoseconds since 1970.
    pub(crate) stored_at: u64,
}

/// One layer of an image.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
    /// The layer of an artifact: the name of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
}

/// What a file was when it was read; a replaced file has another inode.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

type View<T> = Box<dyn Fn(&Record) -> Result<T> + Send + Sync>;

type Loaded<T> = (Stamp, Arc<Record>, Arc<T>);

/// The index of one store. `T` is what readers want of a record, made once per change.
pub(crate) struct Index<T> {
    path: PathBuf,
    lock: PathBuf,
    view: View<T>,
    loaded: RwLock<Option<Loaded<T>>>,
}

impl<T> Index<T> {
    /// Opens the index below `root`, an empty one if there is none. `view` makes what readers get; `rebuild` finds what
    /// images there are when no index can be read any more.
    pub(crate) fn open(
        root: &Path,
        view: impl Fn(&Record) -> Result<T> + Send + Sync + 'static,
        rebuild: impl FnOnce() -> Vec<Entry>,
    ) -> Result<Self> {
        let index = Self {
            path: root.join("index.json"),
            lock: root.join("lock"),
            view: Box::new(view),
            loaded: RwLock::new(None),
        };
        let held = index.hold()?;
        index.clear(root)?;
        index.recover(rebuild)?;
        index.keep_reserve();
        drop(held);
        index.load()?;
        Ok(index)
    }

    /// Makes the index readable again if it is not; the lock is held.
    fn recover(&self, rebuild: impl FnOnce() -> Vec<Entry>) -> Result<()> {
        let old = self.old();
        let lost = match self.path.exists() {
            true => match self.read() {
                Ok(_) => return Ok(()),
                Err(why) if why.kind() != Kind::Invalid || is_newer(&self.path) => return Err(why),
                Err(why) => why.to_string(),
            },
            // A new store has neither; a store from before there was an old index has no blobs either.
            false if !old.exists() => "there is none".to_owned(),
            false => "it has disappeared".to_owned(),
        };
        let record = match parse(&old).ok().flatten() {
            Some(record) => {
                tracing::error!(%lost, "index.json is lost; the one before the last change is used instead");
                record
            }
            None => {
                let images = rebuild();
                if !images.is_empty() {
                    let (images, why) = (images.len(), &lost);
                    tracing::error!(images, %why, "index.json is lost; it is made anew out of the blobs, without tags");
                }
                Record { version: VERSION, images }
            }
        };
        if self.path.exists() {
            // For people who want to know what happened.
            disk::rename(&self.path, &self.path.with_file_name("index.damaged.json")).context(|| "keep index.json")?;
        }
        self.write(&record)
    }

    fn old(&self) -> PathBuf {
        self.path.with_file_name("index.old.json")
    }

    /// Removes what a writer that was killed left beside the index; the lock is held, so there is no other writer.
    fn clear(&self, root: &Path) -> Result<()> {
        for entry in std::fs::read_dir(root).context(|| format!("read {}", root.display()))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".index.json.") {
                std::fs::remove_file(entry.path()).context(|| format!("remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    /// The record and its view, as of now.
    pub(crate) fn load(&self) -> Result<(Arc<Record>, Arc<T>)> {
        let stamp = self.stamp()?;
        if let Some((known, record, view)) = &*self.loaded.read().unwrap_or_else(PoisonError::into_inner)
            && *known == stamp
        {
            return Ok((record.clone(), view.clone()));
        }
        // Another process may replace the file between stamp and read; then the stamp is old and the next load rereads.
        let record = Arc::new(self.read()?);
        let view = Arc::new((self.view)(&record)?);
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some((stamp, record.clone(), view.clone()));
        Ok((record, view))
    }

    /// Changes the record under the lock. Blocking. Nothing is written if `change` changes nothing or fails.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Record) -> Result<R>) -> Result<R> {
        let _held = self.hold()?;
        let before = self.read()?;
        let mut after = before.clone();
        let result = change(&mut after)?;
        if after.images != before.images {
            self.write(&after)?;
        }
        // Also where the record is the same the blobs behind it may have been mended, and with them the view.
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(result)
    }

    /// Writes the same record again, so that every process looks anew at what it names. Blocking.
    pub(crate) fn refresh(&self) -> Result<()> {
        let _held = self.hold()?;
        self.write(&self.read()?)
    }

    fn hold(&self) -> Result<File> {
        let what = || format!("lock {}", self.lock.display());
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&self.lock).context(what)?;
        file.lock().context(what)?;
        Ok(file)
    }

    fn stamp(&self) -> Result<Stamp> {
        let meta = std::fs::metadata(&self.path).context(|| format!("stat {}", self.path.display()))?;
        Ok(Stamp { inode: meta.ino(), size: meta.len(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }

    fn read(&self) -> Result<Record> {
        let gone = || Error::new(Kind::System, format!("{} has disappeared", self.path.display()));
        parse(&self.path)?.ok_or_else(gone)
    }

    fn write(&self, record: &Record) -> Result<()> {
        let body = serde_json::to_vec_pretty(record).map_err(|why| Error::caused(Kind::System, "index.json", why))?;
        if self.path.exists() {
            // A second name for what is there: no data is written, and the directory is synced with the new file.
            let (old, temporary) = (self.old(), self.path.with_file_name(".index.json.old"));
            drop(std::fs::remove_file(&temporary));
            let link = fault::point("keep the old index").and_then(|()| std::fs::hard_link(&self.path, &temporary));
            link.and_then(|()| disk::rename(&temporary, &old)).context(|| format!("write {}", old.display()))?;
            // Two names of one file, which a writer that was killed here left, are not renamed (rename(2)).
            drop(std::fs::remove_file(&temporary));
        }
        match disk::replace(&self.path, &body) {
            // What makes room must not need any. A larger index has to wait for room.
            Err(why) if why.is_disk_full() && body.len() as u64 <= self.stamp()?.size => {
                std::fs::remove_file(self.reserve()).context(|| why.to_string())?;
                tracing::warn!("the disk is full: the index is written into the room that was kept for that");
                disk::replace(&self.path, &body)
            }
            other => other,
        }
    }

    fn reserve(&self) -> PathBuf {
        self.path.with_file_name("reserve")
    }

    /// Keeps room for writing a smaller index on a full disk, so that images can be removed there.
    pub(crate) fn keep_reserve(&self) {
        let path = self.reserve();
        let wanted = std::fs::metadata(&self.path).map_or(0, |index| index.len()) + RESERVE;
        if std::fs::metadata(&path).is_ok_and(|kept| kept.len() >= wanted) {
            return;
        }
        let make = || -> std::io::Result<()> {
            let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            let kept = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, wanted);
            kept.inspect_err(|_| drop(std::fs::remove_file(&path)))?;
            Ok(())
        };
        // On a disk that is full by now there is nothing to keep.
        if let Err(why) = make() {
            tracing::debug!(%why, "no room is kept for the index");
        }
    }
}

/// The record in a file; `None` without a file.
fn parse(path: &Path) -> Result<Option<Record>> {
    let what = || format!("{}", path.display());
    let Some(body) = disk::read_small(path, MOST)? else { return Ok(None) };
    let damaged = |why| Error::caused(Kind::Invalid, what(), why);
    let version = version(&body).map_err(damaged)?;
    if version != VERSION {
        let why = format!("{}: version {version}, this program reads {VERSION}", what());
        return Err(Error::new(Kind::Invalid, why));
    }
    serde_json::from_slice(&body).map_err(damaged).map(Some)
}

fn version(body: &[u8]) -> serde_json::Result<u32> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    Ok(serde_json::from_slice::<Version>(body)?.version)
}

/// Written whole by a later version of this program, which must not be taken for damage.
fn is_newer(path: &Path) -> bool {
    let body = disk::read_small(path, MOST).ok().flatten();
    body.is_some_and(|body| version(&body).is_ok_and(|version| version != VERSION))
}

impl Record {
    /// Adds an image, or what is new about it: its names move here from wherever they were.
    pub(crate) fn add(&mut self, mut entry: Entry) {
        self.take_tags(&entry.tags);
        match self.images.iter_mut().find(|known| known.config == entry.config) {
            Some(known) => {
                entry.tags.append(&mut known.tags);
                entry.digests.append(&mut known.digests);
                entry.pinned |= known.pinned;
                entry.stored_at = known.stored_at;
                *known = entry;
            }
            None => self.images.push(entry),
        }
        self.images.sort_by(|a, b| a.config.cmp(&b.config));
    }

    fn take_tags(&mut self, tags: &BTreeSet<String>) {
        for image in &mut self.images {
            image.tags.retain(|tag| !tags.contains(tag));
        }
    }

    /// Gives an image one more tag, taken from any other; `false` without such an image.
    pub(crate) fn tag(&mut self, config: &Digest, tag: String) -> bool {
        if !self.images.iter().any(|image| image.config == *config) {
            return false;
        }
        self.take_tags(&BTreeSet::from([tag.clone()]));
        for image in self.images.iter_mut().filter(|image| image.config == *config) {
            image.tags.insert(tag.clone());
        }
        true
    }

    /// Takes a name off; an image without names goes. `false` if no image had it.
    pub(crate) fn untag(&mut self, name: &str) -> bool {
        let mut found = false;
        self.images.retain_mut(|image| {
            let had = image.tags.remove(name) | image.digests.remove(name);
            found |= had;
            // With its last tag the digests that came with it go as well, as docker does.
            !(had && image.tags.is_empty() && (image.digests.is_empty() || !name.contains('@')))
        });
        found
    }

    /// Removes an image with all its names; `false` if there was none.
    pub(crate) fn remove(&mut self, config: &Digest) -> bool {
        let before = self.images.len();
        self.images.retain(|image| image.config != *config);
        self.images.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn entry(content: &str, tags: &[&str]) -> Entry {
        let config = Digest::of(content.as_bytes());
        Entry {
            manifest: config.clone(),
            config,
            artifact: None,
            config_size: 1,
            documents: BTreeSet::new(),
            layers: Vec::new(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            digests: BTreeSet::from([format!("r@{content}")]),
            size: 1,
            pinned: false,
            stored_at: 7,
        }
    }

    fn names(record: &Record) -> Vec<String> {
        let mut names: Vec<String> = record
            .images
            .iter()
            .map(|image| image.tags.iter().chain(&image.digests).cloned().collect::<Vec<_>>().join(" "))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn names_belong_to_one_image() {
        let mut record = Record::default();
        record.add(entry("a", &["r:1"]));
        record.add(entry("b", &["r:1", "r:2"]));
        assert_eq!(names(&record), ["r:1 r:2 r@b", "r@a"]);
        record.add(Entry { pinned: true, stored_at: 9, ..entry("b", &["r:3"]) });
        assert_eq!(names(&record), ["r:1 r:2 r:3 r@b", "r@a"]);
        let b = record.images.iter().find(|image| image.tags.contains("r:3")).unwrap();
        assert!(b.pinned && b.stored_at == 7);
        assert!(record.untag("r:1") && !record.untag("r:1"));
        assert!(record.tag(&Digest::of(b"a"), "r:2".into()));
        assert_eq!(names(&record), ["r:2 r@a", "r:3 r@b"]);
        assert!(record.untag("r:3"), "last tag");
        assert_eq!(names(&record), ["r:2 r@a"]);
        assert!(record.remove(&Digest::of(b"a")) && !record.remove(&Digest::of(b"a")));
    }

    fn add<T>(index: &Index<T>, content: &str) {
        let change = |record: &mut Record| {
            record.add(entry(content, &[]));
            Ok(())
        };
        index.change(change).unwrap();
    }

    #[test]
    fn two_owners_see_each_other() {
        let dir = Scratch::new("index");
        let open = || Index::open(dir.path(), |record: &Record| Ok(record.images.len()), Vec::new).unwrap();
        let (one, two) = (open(), open());
        add(&one, "a");
        assert_eq!(*two.load().unwrap().1, 1);
        add(&two, "b");
        assert_eq!(*one.load().unwrap().1, 2);
        let failed: Result<()> = one.change(|record| {
            record.images.clear();
            Err(Error::new(Kind::Conflict, "no"))
        });
        assert!(failed.is_err());
        assert_eq!(*two.load().unwrap().1, 2);
    }

    #[test]
    fn another_version_is_no_damage() {
        let dir = Scratch::new("index-version");
        let path = dir.path().join("index.json");
        let open = || Index::open(dir.path(), |_: &Record| Ok(()), Vec::new).err().map(|why| why.to_string());
        assert_eq!(open(), None);
        std::fs::write(&path, r#"{"version":2,"images":[],"new":1}"#).unwrap();
        assert!(open().unwrap().contains("version 2, this program reads 1"));
        assert!(path.exists());
    }

    #[test]
    fn damage_is_recovered_from() {
        let dir = Scratch::new("index-damage");
        let path = dir.path().join("index.json");
        let open = || {
            let rebuild = || vec![entry("from blobs", &[])];
            Index::open(dir.path(), |record: &Record| Ok(names(record)), rebuild).unwrap()
        };
        std::fs::write(&path, "").unwrap();
        let index = open();
        assert_eq!(*index.load().unwrap().1, ["r@from blobs"], "nothing else was known");
        add(&index, "a");
        add(&index, "b");
        for damage in [Some(&b""[..]), Some(br#"{"version":1,"ima"#), Some(&[0; 300]), None] {
            match damage {
                Some(damage) => std::fs::write(&path, damage).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let index = open();
            assert_eq!(*index.load().unwrap().1, ["r@a", "r@from blobs"], "{damage:?}");
            add(&index, "b");
            assert_eq!(*index.load().unwrap().1, ["r@a", "r@b", "r@from blobs"], "{damage:?}");
        }
        std::fs::write(&path, "").unwrap();
        std::fs::write(dir.path().join("index.old.json"), "").unwrap();
        assert_eq!(*open().load().unwrap().1, ["r@from blobs"]);
    }

    #[test]
    fn a_writer_killed_between_old_and_new_leaves_nothing() {
        let dir = Scratch::new("index-killed");
        let index = Index::open(dir.path(), |record: &Record| Ok(names(record)), Vec::new).unwrap();
        add(&index, "a");
        // The old index stands already, the new one does not yet.
        let old = dir.path().join("index.old.json");
        drop(std::fs::remove_file(&old));
        std::fs::hard_link(dir.path().join("index.json"), &old).unwrap();
        add(&index, "b");
        let left = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let strays: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(strays.is_empty(), "{strays:?}");
    }
}
