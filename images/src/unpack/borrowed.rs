//! Hard links to files of the layers below.
//!
//! The specification has layers made by comparing two trees, so a link to a file that did not change names a file that
//! this layer does not hold. containerd and umoci, which unpack over what is below, make it; storage that unpacks a layer
//! by itself cannot. Here the file is copied up with all its looks once the layers below are there, as overlayfs itself
//! would have done for link(2); both names are then one file, and the layer is kept under its chain.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::unpack::implied::{components, hides};
use crate::unpack::names::{self, Names};
use crate::unpack::tree::{Attributes, Place, Tree, is_whiteout};

/// Links that the kernel follows on one way.
const MOST_LINKS: usize = 40;
/// Bytes that the names of such links may take.
const MOST_BYTES: usize = 8 << 20;

/// Links to what this layer does not hold: path and target, as checked components joined by slashes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Borrowed {
    /// By their paths in the form that [`Names`] has.
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

impl Borrowed {
    /// Adds a link.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] when their names take more than 8 MiB.
    pub fn insert(&mut self, path: &[u8], from: &[u8]) -> Result<()> {
        self.bytes += path.len() + from.len() + 128;
        self.links.insert(names::key(path), from.to_vec());
        match self.bytes > MOST_BYTES {
            true => {
                let why = format!("hard links to lower layers: their names take more than {} MiB", MOST_BYTES >> 20);
                Err(Error::new(Kind::TooLarge, why))
            }
            false => Ok(()),
        }
    }

    /// What a path is a link to.
    pub fn target(&self, path: &[u8]) -> Option<&[u8]> {
        self.links.get(&names::key(path)).map(Vec::as_slice)
    }

    /// Something else takes the place of a link.
    pub fn remove(&mut self, path: &[u8]) {
        self.links.remove(&names::key(path));
    }

    /// Something else takes the place of a link, or of what is above it.
    pub fn remove_within(&mut self, path: &[u8]) {
        let outer = names::key(path);
        let inner = self.links.range(outer.clone()..).take_while(|(link, _)| names::is_within(link, &outer));
        for gone in inner.map(|(link, _)| link.clone()).collect::<Vec<_>>() {
            self.links.remove(&gone);
        }
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

/// What copying up has added to a layer.
#[derive(Debug, Default)]
pub(crate) struct Added {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Directories made for the files' first names.
    pub(crate) implied: Names,
}

/// Makes the links in `diff`; `below` are the unpacked layers under it, from the highest to the lowest.
///
/// # Errors
/// [`Kind::Invalid`] if no layer shows such a file; [`Kind::System`] for the disk.
pub(crate) fn fill(diff: &Path, below: &[PathBuf], borrowed: &Borrowed) -> Result<Added> {
    let mut filling = Filling {
        own: Tree::new(disk::open_dir(diff)?),
        lower: below.iter().map(|path| disk::open_dir(path).map(Tree::new)).collect::<Result<_>>()?,
        copies: HashMap::new(),
        added: Added::default(),
    };
    for (link, from) in &borrowed.links {
        let path = &names::path(link);
        let show = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        filling.link(path, from).context(|| format!("hard link {:?} to {:?}", show(path), show(from)))?;
    }
    filling.own.settle()?;
    filling.added.inodes += filling.own.made;
    filling.added.implied = filling.own.implied;
    Ok(filling.added)
}

struct Filling {
    own: Tree,
    lower: Vec<Tree>,
    /// Where a file of a lower layer has been copied to, by its device and inode.
    copies: HashMap<(u64, u64), Vec<u8>>,
    added: Added,
}

/// A file as the layers below show it.
struct Found {
    place: Place,
    stat: Stat,
    /// Its path without links.
    path: Vec<Vec<u8>>,
}

impl Filling {
    fn link(&mut self, path: &[u8], from: &[u8]) -> Result<()> {
        let missing = || Error::new(Kind::Invalid, "no such file in this layer or those below");
        let found = self.find(from)?.ok_or_else(missing)?;
        if FileType::from_raw_mode(found.stat.st_mode) == FileType::Directory {
            return Err(Error::new(Kind::Invalid, "it is a directory"));
        }
        let key = (found.stat.st_dev, found.stat.st_ino);
        let home = match self.copies.get(&key) {
            Some(home) => home.clone(),
            None => {
                let home = self.copy_up(&found, path)?;
                self.copies.insert(key, home.clone());
                home
            }
        };
        let place = self.own.place(&components(path))?;
        if home == path || place.stat()?.is_some() {
            return Ok(());
        }
        let home = self.own.find(&components(&home))?.ok_or_else(missing)?;
        rustix::fs::linkat(&home.dir, &home.name, &place.dir, &place.name, AtFlags::empty()).context(|| "link")
    }

    /// Copies a file to its own name in this layer, or if this layer hides that name to that of the link.
    fn copy_up(&mut self, found: &Found, link: &[u8]) -> Result<Vec<u8>> {
        let parts: Vec<&[u8]> = found.path.iter().map(Vec::as_slice).collect();
        let hidden = hides(&self.own, &parts)?;
        let taken = || Ok(self.own.find(&parts)?.map(|place| place.stat()).transpose()?.flatten().is_some());
        let home = if hidden || taken()? { link.to_vec() } else { parts.join(&b'/') };
        let place = self.own.place(&components(&home))?;
        if place.stat()?.is_none() {
            self.added.bytes += copy(&found.place, &found.stat, &place)?.next_multiple_of(4096);
            self.added.inodes += u64::from(home != link);
        }
        Ok(home)
    }

    /// Walks a path through the layers below as an overlay of them would, links inside included.
    fn find(&self, path: &[u8]) -> Result<Option<Found>> {
        let mut todo: Vec<Vec<u8>> = components(path).into_iter().rev().map(<[u8]>::to_vec).collect();
        let (mut here, mut links): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
        while let Some(name) = todo.pop() {
            if name == b".." {
                here.pop();
                continue;
            }
            here.push(name);
            let parts: Vec<&[u8]> = here.iter().map(Vec::as_slice).collect();
            let Some((place, stat)) = first(&self.lower, &parts)? else { return Ok(None) };
            match FileType::from_raw_mode(stat.st_mode) {
                _ if todo.is_empty() => return Ok(Some(Found { place, stat, path: here })),
                FileType::Directory => {}
                FileType::Symlink if links < MOST_LINKS => {
                    links += 1;
                    let to = read_link(&place)?;
                    if to.starts_with(b"/") {
                        here.clear();
                    } else {
                        here.pop();
                    }
                    todo.extend(components(&to).into_iter().rev().filter(|p| *p != b".").map(<[u8]>::to_vec));
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// A name, whose parents are plain directories, in the highest layer that says anything about it.
fn first(lower: &[Tree], parts: &[&[u8]]) -> Result<Option<(Place, Stat)>> {
    for tree in lower {
        if let Some(place) = tree.find(parts)?
            && let Some(stat) = place.stat()?
        {
            return Ok((!is_whiteout(&stat)).then_some((place, stat)));
        }
        if hides(tree, parts)? {
            return Ok(None);
        }
    }
    Ok(None)
}

fn read_link(place: &Place) -> Result<Vec<u8>> {
    let link = rustix::fs::readlinkat(&place.dir, &place.name, Vec::new()).context(|| "read a link")?;
    Ok(link.into_bytes())
}

/// A file with owner, mode, times and attributes; the bytes of its data.
fn copy(from: &Place, stat: &Stat, to: &Place) -> Result<u64> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut written = 0;
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(&from.dir, &from.name, flags, Mode::empty()).context(|| "open")?;
            written = copy_data(&mut File::from(source), &mut to.create().context(|| "create")?)?;
        }
        FileType::Symlink => {
            rustix::fs::symlinkat(read_link(from)?, &to.dir, &to.name).context(|| "symlink")?;
        }
        _ => to.node(kind, (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))).context(|| "mknod")?,
    }
    let mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    let attributes = Attributes { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, mtime };
    // First, because it drops security.capability.
    to.set_owner(&attributes)?;
    for (name, value) in from.xattrs()? {
        if !name.starts_with(b"trusted.overlay.") {
            to.set_xattr(&name, &value).context(|| format!("set attribute {}", String::from_utf8_lossy(&name)))?;
        }
    }
    if kind != FileType::Symlink {
        to.set_mode(attributes.mode)?;
    }
    to.set_time(mtime)?;
    Ok(written)
}

/// Data to where it was, holes as holes: a file may be all hole and larger than the disk.
fn copy_data(from: &mut File, to: &mut File) -> Result<u64> {
    let size = from.metadata().context(|| "stat")?.len();
    let (mut at, mut written) = (0, 0);
    while let Ok(start) = rustix::fs::seek(&*from, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&*from, rustix::fs::SeekFrom::Hole(start)).context(|| "seek")?;
        from.seek(SeekFrom::Start(start)).context(|| "seek")?;
        to.seek(SeekFrom::Start(start)).context(|| "seek")?;
        written += std::io::copy(&mut from.take(end - start), to).context(|| "copy a file of a lower layer")?;
        at = end;
    }
    to.flush().context(|| "write")?;
    to.set_len(size).context(|| "set the size")?;
    Ok(written)
}
