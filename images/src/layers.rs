//! Unpacked layers: `layers/KEY/{diff,layer.json}`, and the pipeline that makes one.
//!
//! ```text
//! bytes ──> Intake (digest, ingest file) ──> decompress ──> diff id, limits ──> tar ──> unpack/NAME/diff
//!                                              all verified? sync, rename ──> layers/KEY
//! ```
//! A layer alone decides its content, so its key is its diff id and images share it, unless the layer leaves something
//! for the layers below to say: directories without an entry must look like the directory below, and whiteouts must
//! only stand where they hide something. Such a layer is kept under its chain id (image-spec config.md "Layer ChainID").

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::digest::{Digest, Hasher};
use crate::disk::{self, GroupSync};
use crate::error::{Context, Error, Kind, Result, through_io};
use crate::fault;
use crate::unpack::{self, Summary, borrowed::Borrowed, names::Names, tar::Archive, tree};

/// Name of an unpacked layer below `layers/`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) struct Key(String);

impl Key {
    /// A layer that is the same wherever it lies.
    pub(crate) fn alone(diff_id: &Digest) -> Self {
        Self(format!("d-{}", diff_id.hex()))
    }

    /// A layer that depends on those below it.
    pub(crate) fn chained(chain_id: &Digest) -> Self {
        Self(format!("c-{}", chain_id.hex()))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Chain ids of a list of diff ids, lowest first.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// What is kept beside an unpacked layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    version: u32,
    pub(crate) diff_id: Digest,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) whiteouts: u64,
    /// The layer says itself how the root directory looks.
    pub(crate) root: bool,
    /// Nothing below it is seen.
    #[serde(default)]
    pub(crate) hides_all: bool,
}

impl Facts {
    /// What the layer takes.
    pub(crate) fn usage(&self) -> crate::store::Usage {
        crate::store::Usage { bytes: self.bytes, inodes: self.inodes }
    }
}

/// The unpacked layers of one store.
#[derive(Debug)]
pub(crate) struct Layers {
    root: PathBuf,
}

/// A layer that is unpacked but not visible yet; deleted when dropped.
pub(crate) struct Unpacked {
    dir: Option<PathBuf>,
    /// Held so that no other process takes the directory for garbage.
    _lock: File,
    facts: Facts,
    implied: Names,
    whited: Names,
    borrowed: Borrowed,
}

/// Where a layer lies.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
    pub(crate) lowest: bool,
    /// The layer of an artifact is this file and no archive.
    pub(crate) file: Option<crate::artifact::File>,
}

impl Layers {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        disk::private_dir(&root.join("layers"))?;
        disk::private_dir(&root.join("unpack"))?;
        let layers = Self { root: root.to_owned() };
        layers.clear_unpack()?;
        Ok(layers)
    }

    /// The directory with a layer's content.
    pub(crate) fn diff(&self, key: &Key) -> PathBuf {
        self.dir(key).join("diff")
    }

    /// All that a layer takes.
    pub(crate) fn home(&self, key: &Key) -> PathBuf {
        self.dir(key)
    }

    fn dir(&self, key: &Key) -> PathBuf {
        self.root.join("layers").join(&key.0)
    }

    /// The unpacked layer that serves at this position, if there is one.
    pub(crate) fn find(&self, position: &Position) -> Option<Key> {
        let suits = |key: &Key| {
            let facts = self.facts(key).ok().flatten();
            facts.is_some_and(|facts| facts.diff_id == position.diff_id) && self.diff(key).is_dir()
        };
        [Key::alone(&position.diff_id), Key::chained(&position.chain_id)].into_iter().find(suits)
    }

    /// What is known about a layer; `None` if it is not there.
    pub(crate) fn facts(&self, key: &Key) -> Result<Option<Facts>> {
        let body = disk::read_small(&self.dir(key).join("layer.json"), 1 << 16)?;
        let parse = |body: Vec<u8>| {
            serde_json::from_slice(&body).map_err(|why| Error::caused(Kind::Invalid, "layer.json", why))
        };
        body.map(parse).transpose()
    }

    /// Of an image's layers, lowest first, those that are seen: from the highest whose root is opaque upwards.
    pub(crate) fn seen<'a>(&self, layers: &'a [Key]) -> Result<&'a [Key]> {
        for (at, key) in layers.iter().enumerate().rev() {
            if self.facts(key)?.is_some_and(|facts| facts.hides_all) {
                return Ok(&layers[at..]);
            }
        }
        Ok(layers)
    }

    /// Unpacks a layer out of `input`, as transferred. Blocking.
    ///
    /// `input` is read to its end also when unpacking fails, so that its own digest can be judged.
    pub(crate) fn unpack(
        &self,
        input: &mut dyn Read,
        size: u64,
        position: &Position,
        limits: &Limits,
    ) -> Result<Unpacked> {
        let (dir, lock) = self.new_dir()?;
        let mut unpacked = Unpacked {
            dir: Some(dir.clone()),
            _lock: lock,
            facts: Facts {
                version: 1,
                diff_id: position.diff_id.clone(),
                bytes: 0,
                inodes: 0,
                whiteouts: 0,
                root: false,
                hides_all: false,
            },
            implied: Names::default(),
            whited: Names::default(),
            borrowed: Borrowed::default(),
        };
        let diff = dir.join("diff");
        std::fs::create_dir(&diff).context(|| "make the layer's directory")?;
        let root = disk::open_dir(&diff)?;
        rustix::fs::fchmod(&root, rustix::fs::Mode::from(0o755)).context(|| "chmod the layer's directory")?;
        let summary = match &position.file {
            Some(file) => crate::artifact::place(input, size, file, root)?,
            None => pour(input, size, position, limits, root)?,
        };
        unpacked.facts.bytes = summary.bytes;
        unpacked.facts.inodes = summary.inodes;
        unpacked.facts.whiteouts = summary.whiteouts;
        unpacked.facts.root = summary.root;
        unpacked.facts.hides_all = summary.hides_all;
        unpacked.implied = summary.implied;
        unpacked.whited = summary.whited;
        unpacked.borrowed = summary.borrowed;
        Ok(unpacked)
    }

    /// Makes an unpacked layer visible: durable first, then named. `below` are the layers under it, lowest first.
    pub(crate) fn commit(
        &self,
        mut unpacked: Unpacked,
        position: &Position,
        below: &[Key],
        sync: &GroupSync,
    ) -> Result<Key> {
        let Some(dir) = unpacked.dir.clone() else { return Err(Error::new(Kind::System, "layer committed twice")) };
        let alone = unpacked.is_alone();
        let key = if alone { Key::alone(&position.diff_id) } else { Key::chained(&position.chain_id) };
        if !below.is_empty() {
            let below: Vec<PathBuf> = below.iter().rev().map(|key| self.diff(key)).collect();
            unpacked.rest_on(&dir.join("diff"), &below)?;
        }
        let facts =
            serde_json::to_vec(&unpacked.facts).map_err(|why| Error::caused(Kind::System, "layer.json", why))?;
        let write = fault::point("write layer.json").and_then(|()| std::fs::write(dir.join("layer.json"), facts));
        write.context(|| "write layer.json")?;
        sync.sync(disk::open_dir(&dir)?)?;
        let home = self.dir(&key);
        match disk::rename(&dir, &home) {
            Ok(()) => unpacked.dir = None,
            // Another process was first; its copy is as good as ours.
            Err(_) if self.facts(&key).is_ok_and(|facts| facts.is_some()) => return Ok(key),
            Err(why) => return Err(why).context(|| format!("commit layer {key}")),
        }
        disk::sync_dir(&self.root.join("layers"))?;
        Ok(key)
    }

    /// Every unpacked layer.
    pub(crate) fn list(&self) -> Result<Vec<Key>> {
        let dir = self.root.join("layers");
        let entries = std::fs::read_dir(&dir).context(|| format!("read {}", dir.display()))?;
        let name = |entry: std::fs::DirEntry| entry.file_name().into_string().ok().map(Key);
        Ok(entries.flatten().filter_map(name).collect())
    }

    /// Deletes a layer: first its name, so that a crash leaves no half layer under it.
    pub(crate) fn remove(&self, key: &Key) -> Result<()> {
        let (grave, _lock) = self.new_dir()?;
        let what = || format!("remove layer {key}");
        match disk::rename(&self.dir(key), &grave.join("old")) {
            Ok(()) => disk::sync_dir(&self.root.join("layers"))?,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
            Err(why) => return Err(why).context(what),
        }
        remove_tree(&grave).context(what)
    }

    /// A fresh directory below `unpack/`, locked for as long as the file is open.
    fn new_dir(&self) -> Result<(PathBuf, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let dir = self.root.join("unpack").join(name);
            match fault::point("make a layer's directory").and_then(|()| std::fs::create_dir(&dir)) {
                Ok(()) => {}
                Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(why) => return Err(why).context(|| format!("make {}", dir.display())),
            }
            let lock = File::open(&dir).context(|| format!("open {}", dir.display()))?;
            // Between the two calls another process may have taken the empty directory for garbage.
            if lock.try_lock().is_ok() && dir.is_dir() {
                return Ok((dir, lock));
            }
        }
    }

    /// Deletes what dead owners left below `unpack/`.
    fn clear_unpack(&self) -> Result<()> {
        let dir = self.root.join("unpack");
        for entry in std::fs::read_dir(&dir).context(|| format!("read {}", dir.display()))?.flatten() {
            let Ok(lock) = File::open(entry.path()) else { continue };
            if lock.try_lock().is_ok() {
                remove_tree(&entry.path()).context(|| format!("remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }
}

impl Unpacked {
    /// The layer is the same over any other layers: it can be committed before those below it.
    pub(crate) fn is_alone(&self) -> bool {
        self.implied.is_empty() && self.facts.whiteouts == 0 && self.borrowed.is_empty()
    }

    /// What the layers below, highest first, have to say: files that are linked to, looks of directories, and which
    /// whiteouts hide something.
    fn rest_on(&mut self, diff: &Path, below: &[PathBuf]) -> Result<()> {
        if !self.borrowed.is_empty() {
            let added = unpack::borrowed::fill(diff, below, &self.borrowed)?;
            self.facts.bytes += added.bytes;
            self.facts.inodes += added.inodes;
            added.implied.paths().try_for_each(|path| self.implied.insert(&path))?;
        }
        unpack::implied::inherit(diff, below, &self.implied, &self.whited)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take()
            && let Err(why) = remove_tree(&dir)
        {
            tracing::warn!(dir = %dir.display(), %why, "an unfinished layer stays until the next start");
        }
    }
}

/// Removes a tree by its path, following no link in it.
pub(crate) fn remove_tree(path: &Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
    };
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, rustix::fs::Mode::empty())?;
    fault::point("remove a tree")?;
    let name = std::ffi::CString::new(name.as_bytes())?;
    use std::os::fd::AsFd as _;
    Ok(tree::remove_all(parent.as_fd(), &name)?)
}

fn pour(input: &mut dyn Read, size: u64, position: &Position, limits: &Limits, root: OwnedFd) -> Result<Summary> {
    const BUFFER: usize = 256 << 10;
    let plain = unpack::packing::decompress(BufReader::with_capacity(BUFFER, input), limits.zstd_window)?;
    let checked = Checked {
        inner: plain,
        hasher: Hasher::new(position.diff_id.algorithm()),
        count: 0,
        most: limits.unpacked_bytes.min(size.saturating_mul(limits.ratio).max(64 << 20)),
    };
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, checked));
    let options = unpack::Options { lowest: position.lowest, entries: limits.entries };
    let summary = unpack::unpack(&mut archive, root, options)?;
    let mut rest = archive.into_source();
    std::io::copy(&mut rest, &mut std::io::sink()).context(|| "read the layer to its end")?;
    let found = rest.into_inner().hasher.finish();
    match found == position.diff_id {
        true => Ok(summary),
        false => {
            let why = format!("layer: its content is {found}, the image says {}", position.diff_id);
            Err(Error::new(Kind::Invalid, why))
        }
    }
}

/// Digests what passes and ends it at a limit.
struct Checked<R> {
    inner: R,
    hasher: Hasher,
    count: u64,
    most: u64,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer).map_err(|why| match why.kind() {
            std::io::ErrorKind::Interrupted => why,
            _ if why.get_ref().is_some_and(|inner| inner.is::<Error>()) => why,
            _ => through_io(Error::caused(Kind::Invalid, "decompress the layer", why)),
        })?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if self.count > self.most {
            let why = format!("layer: more than {} bytes unpacked", self.most);
            return Err(through_io(Error::new(Kind::TooLarge, why)));
        }
        Ok(count)
    }
}
