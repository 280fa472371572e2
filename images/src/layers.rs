//! Unpacked layers: `layers/KEY/{diff or image.erofs, layer.json}`, and the pipeline that makes one.
//!
//! ```text
//! bytes ──> Intake (digest, ingest file) ──> decompress ──> diff id, limits ──> tar ──> unpack/NAME/diff or image.erofs
//!                                              all verified? sync, rename ──> layers/KEY
//! ```
//! A layer alone decides its content, so its key is its diff id and images share it, unless the layer leaves something
//! for the layers below to say: directories without an entry must look like the directory below, and whiteouts must
//! only stand where they hide something. Such a layer is kept under its chain id (image-spec config.md "Layer ChainID").

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::config::{LayerForm, Limits};
use crate::digest::Digest;
use crate::disk::{self, GroupSync};
use crate::erofs::either::{Either, Unfinished};
use crate::error::{Context, Error, Kind, Result};
use crate::fault;
use crate::pour::pour;
use crate::rootfs::file_mount::{self, Detached};
use crate::sound::{self, Shape};
use crate::unpack::directory::Directory;
use crate::unpack::target::Target;
use crate::unpack::{self, Summary, borrowed::Borrowed, names::Names, tree};

/// The file of a layer that is an image.
const IMAGE: &str = "image.erofs";

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

impl Key {
    /// Another name for the layer when it is out of use.
    pub(crate) fn aside(&self, number: u64) -> Self {
        Self(format!("{}~{number}", self.0))
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

/// What a layer was unpacked as.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    #[default]
    Directory,
    /// An EROFS image.
    Image,
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
    #[serde(default)]
    pub(crate) form: Form,
    /// Length of the image. The image is a function of the layer's archive and of the layers below, so one that is in
    /// doubt is compared with what the blob gives when it is unpacked once more.
    #[serde(default)]
    pub(crate) image_size: u64,
    /// What a directory looks like from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<Shape>,
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
    /// What new layers become.
    form: Form,
    /// Layers that this process has looked at.
    looked_at: Mutex<BTreeSet<Key>>,
}

/// A layer that is unpacked but not visible yet; deleted when dropped.
pub(crate) struct Unpacked {
    pub(crate) dir: Option<PathBuf>,
    /// Held so that no other process takes the directory for garbage.
    _lock: File,
    pub(crate) facts: Facts,
    implied: Names,
    whited: Names,
    borrowed: Borrowed,
    /// An image that waits for what the layers below have to say.
    open: Option<Unfinished>,
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

impl Position {
    /// The two names that the layer may have here.
    pub(crate) fn keys(&self) -> [Key; 2] {
        [Key::alone(&self.diff_id), Key::chained(&self.chain_id)]
    }
}

impl Layers {
    pub(crate) fn open(root: &Path, form: LayerForm) -> Result<Self> {
        disk::private_dir(&root.join("layers"))?;
        disk::private_dir(&root.join("unpack"))?;
        let mut layers = Self { root: root.to_owned(), form: Form::Directory, looked_at: Mutex::default() };
        layers.clear_unpack()?;
        if form == LayerForm::Erofs {
            let (dir, _lock) = layers.new_dir()?;
            let tried = file_mount::probe(&dir.join("image.erofs"));
            remove_tree(&dir).context(|| "remove a tried image")?;
            tried.context(|| "layers as EROFS images, as configured")?;
            layers.form = Form::Image;
        }
        Ok(layers)
    }

    /// The directory that holds all layers.
    pub(crate) fn dir_of_all(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// The file with a layer's image.
    pub(crate) fn image(&self, key: &Key) -> PathBuf {
        self.dir(key).join(IMAGE)
    }

    /// What a layer is here as; `None` if it is not here, or not whole as far as a glance shows.
    pub(crate) fn form(&self, key: &Key) -> Option<Form> {
        let facts = self.facts(key).ok().flatten()?;
        let whole = match facts.form {
            Form::Directory => self.diff(key).is_dir(),
            Form::Image => std::fs::symlink_metadata(self.image(key)).is_ok_and(|file| file.len() == facts.image_size),
        };
        whole.then_some(facts.form)
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
            facts.is_some_and(|facts| facts.diff_id == position.diff_id) && self.form(key).is_some()
        };
        position.keys().into_iter().find(suits)
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
        input: &mut (dyn Read + Send),
        size: u64,
        position: &Position,
        limits: &Limits,
    ) -> Result<Unpacked> {
        let (mut unpacked, dir, root) = self.begin(position)?;
        let summary = match &position.file {
            Some(file) => crate::artifact::place(input, size, file, root)?,
            None if self.form == Form::Image => {
                let mut image = File::options();
                let image = image.read(true).write(true).create_new(true).open(dir.join(IMAGE));
                let mut target = Either::new(image.context(|| "make the layer's image")?, root)?;
                let summary = pour(input, size, position, limits, &mut target)?;
                unpacked.open = target.unfinished();
                if unpacked.open.is_none() {
                    std::fs::remove_file(dir.join(IMAGE)).context(|| "remove an image that was given up")?;
                }
                summary
            }
            None => pour(input, size, position, limits, &mut Directory::new(root))?,
        };
        unpacked.note(summary);
        if unpacked.is_alone() {
            // What an image keeps in memory is not kept while other layers are waited for.
            unpacked.close(&dir, &position.diff_id)?;
        }
        Ok(unpacked)
    }

    /// An empty layer, its directory, and the open root of its files.
    pub(crate) fn begin(&self, position: &Position) -> Result<(Unpacked, PathBuf, OwnedFd)> {
        let (dir, lock) = self.new_dir()?;
        let unpacked = Unpacked {
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
                form: Form::Directory,
                image_size: 0,
                shape: None,
            },
            implied: Names::default(),
            whited: Names::default(),
            borrowed: Borrowed::default(),
            open: None,
        };
        let diff = dir.join("diff");
        std::fs::create_dir(&diff).context(|| "make the layer's directory")?;
        let root = disk::open_dir(&diff)?;
        rustix::fs::fchmod(&root, rustix::fs::Mode::from(0o755)).context(|| "chmod the layer's directory")?;
        Ok((unpacked, dir, root))
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
            let (_mounted, views) = self.below(below)?;
            unpacked.rest_on(&dir.join("diff"), &views)?;
        }
        unpacked.close(&dir, if alone { &position.diff_id } else { &position.chain_id })?;
        if unpacked.facts.form == Form::Directory {
            unpacked.facts.shape = Some(sound::shape(&dir.join("diff"))?);
            std::fs::write(dir.join("boot"), sound::boot()).context(|| "write the layer's boot")?;
        }
        let facts =
            serde_json::to_vec(&unpacked.facts).map_err(|why| Error::caused(Kind::System, "layer.json", why))?;
        let write = fault::point("write layer.json").and_then(|()| std::fs::write(dir.join("layer.json"), facts));
        write.context(|| "write layer.json")?;
        match unpacked.facts.form {
            Form::Directory => sync.sync(disk::open_dir(&dir)?)?,
            Form::Image => {
                let sync = |name: &str| File::open(dir.join(name)).and_then(|file| file.sync_all());
                let synced = fault::point("sync an image").and_then(|()| sync(IMAGE)).and_then(|()| sync("layer.json"));
                synced.context(|| "sync the layer's image")?;
                disk::sync_dir(&dir)?;
            }
        }
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

    /// How layers, given lowest first, are seen from above: highest first. Images are mounted where nobody else sees them.
    pub(crate) fn below(&self, layers: &[Key]) -> Result<(Vec<Detached>, Vec<PathBuf>)> {
        let mut mounted = Vec::new();
        let mut views = Vec::with_capacity(layers.len());
        for key in layers.iter().rev() {
            views.push(match self.form(key) {
                Some(Form::Image) => {
                    mounted.push(file_mount::detached(&self.image(key))?);
                    mounted[mounted.len() - 1].path()
                }
                _ => self.diff(key),
            });
        }
        Ok((mounted, views))
    }

    /// This process has looked at the layer.
    pub(crate) fn has_seen(&self, key: &Key) -> bool {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// Notes that.
    pub(crate) fn see(&self, key: &Key) {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
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
        self.unview(std::slice::from_ref(key), || Ok(BTreeSet::new()))?;
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

    /// Takes note of what unpacking has found.
    pub(crate) fn note(&mut self, summary: Summary) {
        self.facts.bytes = summary.bytes;
        self.facts.inodes = summary.inodes;
        self.facts.whiteouts = summary.whiteouts;
        self.facts.root = summary.root;
        self.facts.hides_all = summary.hides_all;
        self.implied = summary.implied;
        self.whited = summary.whited;
        self.borrowed = summary.borrowed;
    }

    /// Completes an image, or what has become of it. `name` is what the layer is kept under.
    fn close(&mut self, dir: &Path, name: &Digest) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let mut uuid = [0; 16];
        name.hex().bytes().zip(uuid.iter_mut()).for_each(|(digit, byte)| *byte = digit);
        open.image.complete(uuid)?;
        let written = std::fs::symlink_metadata(dir.join(IMAGE)).context(|| "stat the layer's image")?;
        (self.facts.form, self.facts.image_size) = (Form::Image, written.len());
        (self.facts.bytes, self.facts.inodes) = (written.blocks() * 512, 1);
        std::fs::remove_dir(dir.join("diff")).context(|| "remove the directory beside an image")
    }

    /// What the layers below, highest first, have to say: files that are linked to, looks of directories, and which
    /// whiteouts hide something.
    pub(crate) fn rest_on(&mut self, diff: &Path, below: &[PathBuf]) -> Result<()> {
        if !self.borrowed.is_empty() {
            // Files of other layers come in: an image is written in one pass and is over by now.
            if let Some(mut open) = self.open.take() {
                open.give_up()?.finish()?;
                std::fs::remove_file(diff.with_file_name(IMAGE)).context(|| "remove an image that was given up")?;
            }
            let added = unpack::borrowed::fill(diff, below, &self.borrowed)?;
            self.facts.bytes += added.bytes;
            self.facts.inodes += added.inodes;
            added.implied.paths().try_for_each(|path| self.implied.insert(&path))?;
        }
        match &mut self.open {
            Some(open) => open.image.rest_on(below, &self.implied, &self.whited),
            None => unpack::implied::inherit(diff, below, &self.implied, &self.whited),
        }
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
    Ok(tree::remove_all(parent.as_fd(), &name)?)
}
