//! A layer written as a tree of files in overlayfs form.

use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};
use crate::unpack::names::Names;
use crate::unpack::tar::{Archive, Entry};
use crate::unpack::target::{Look, Stands, Target};
use crate::unpack::tree::{self, Place, Tree, is_whiteout};

const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// A directory on disk that a layer is unpacked into.
pub struct Directory {
    tree: Tree,
}

impl Directory {
    /// Below an open directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { tree: Tree::new(root) }
    }

    /// Says which directories have no entry of their own, of all that were made so far, and how many ever were.
    pub(crate) fn set_implied(&mut self, implied: Names, made: u64) {
        (self.tree.implied, self.tree.made) = (implied, made);
    }

    /// Makes a file that `fill` writes; what that returns, or `None` if the name is taken.
    pub(crate) fn file_with<T>(
        &mut self,
        place: &Place,
        look: &Look<'_>,
        fill: impl FnOnce(&mut std::fs::File) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut file = match place.create() {
            Err(Errno::EXIST) => return Ok(None),
            other => other.context(|| "create")?,
        };
        let filled = fill(&mut file)?;
        let attributes = &look.attributes;
        let owner = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::fchown(&file, Some(owner.0), Some(owner.1)).context(|| "chown")?;
        // After the data and the owner: writing and chown both drop security.capability.
        for (name, value) in &look.xattrs {
            tolerate(rustix::fs::fsetxattr(&file, *name, value, XattrFlags::empty()), name)?;
        }
        rustix::fs::fchmod(&file, Mode::from(attributes.mode)).context(|| "chmod")?;
        rustix::fs::futimens(&file, &tree::timestamps(attributes.mtime)).context(|| "set the time")?;
        Ok(Some(filled))
    }
}

impl Target for Directory {
    type Place = Place;

    fn root(&mut self) -> Result<Place> {
        // `.` is a name like any other to the *at calls.
        Ok(Place { dir: self.tree.directory(&[])?, name: c".".to_owned() })
    }

    fn place(&mut self, parts: &[&[u8]]) -> Result<Place> {
        self.tree.place(parts)
    }

    fn find(&mut self, parts: &[&[u8]]) -> Result<Option<Place>> {
        self.tree.find(parts)
    }

    fn stands(&self, place: &Place) -> Result<Option<Stands>> {
        let stands = |stat: rustix::fs::Stat| match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Stands::Directory,
            _ if is_whiteout(&stat) => Stands::Whiteout,
            _ => Stands::Other(stat.st_ino),
        };
        Ok(place.stat()?.map(stands))
    }

    fn remove(&mut self, place: &Place, parts: &[&[u8]]) -> Result<()> {
        self.tree.remove(place)?;
        self.tree.implied.remove_within(&parts.join(&b'/'));
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place,
        entry: &Entry,
        look: &Look<'_>,
        archive: &mut Archive<R>,
    ) -> Result<Option<u64>> {
        self.file_with(place, look, |file| write_data(archive, entry, file))
    }

    fn make_directory(&mut self, place: &Place) -> Result<bool> {
        made(rustix::fs::mkdirat(&place.dir, &place.name, Mode::from(0o700))).context(|| "mkdir")
    }

    fn dress(&mut self, place: &Place, parts: &[&[u8]], look: &Look<'_>) -> Result<()> {
        place.set_owner(&look.attributes)?;
        set_xattrs(place, look)?;
        place.set_mode(look.attributes.mode)?;
        let path = parts.join(&b'/');
        self.tree.implied.remove(&path);
        self.tree.forget(&path);
        place.set_time(look.attributes.mtime)
    }

    fn symlink(&mut self, place: &Place, to: &[u8], look: &Look<'_>) -> Result<bool> {
        if !made(rustix::fs::symlinkat(to, &place.dir, &place.name)).context(|| "symlink")? {
            return Ok(false);
        }
        set_xattrs(place, look)?;
        place.set_attributes(&look.attributes, true)?;
        Ok(true)
    }

    fn node(&mut self, place: &Place, kind: FileType, device: (u32, u32), look: &Look<'_>) -> Result<bool> {
        if !made(place.node(kind, device)).context(|| "mknod")? {
            return Ok(false);
        }
        set_xattrs(place, look)?;
        place.set_attributes(&look.attributes, false)?;
        Ok(true)
    }

    fn whiteout(&mut self, place: &Place) -> Result<()> {
        place.node(FileType::CharacterDevice, (0, 0)).context(|| "make a whiteout")
    }

    fn link(&mut self, from: &Place, to: &Place) -> Result<()> {
        rustix::fs::linkat(&from.dir, &from.name, &to.dir, &to.name, AtFlags::empty()).context(|| "link")
    }

    fn make_opaque(&mut self, parts: &[&[u8]]) -> Result<()> {
        let place = Place { dir: self.tree.directory(parts)?, name: c".".to_owned() };
        place.set_xattr(OPAQUE, b"y").context(|| "mark a directory opaque")
    }

    fn clear_whiteouts(&mut self, parts: &[&[u8]]) -> Result<()> {
        match self.tree.existing(parts)? {
            Some(dir) => tree::clear_whiteouts(&dir),
            None => Ok(()),
        }
    }

    fn implied(&self) -> u64 {
        self.tree.made
    }

    fn finish(&mut self) -> Result<Names> {
        self.tree.settle()?;
        Ok(std::mem::take(&mut self.tree.implied))
    }
}

/// Whether it was made; `false` if the name is taken.
fn made(result: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(why) => Err(why),
    }
}

/// Copies the entry's data into `file`; fragments of a sparse file to their places.
fn write_data<R: BufRead>(archive: &mut Archive<R>, entry: &Entry, file: &mut std::fs::File) -> Result<u64> {
    let Some(fragments) = &entry.fragments else {
        return copy(archive, file, u64::MAX);
    };
    let mut written = 0;
    for (offset, length) in fragments {
        file.seek(SeekFrom::Start(*offset)).context(|| "seek")?;
        written += copy(archive, file, *length)?;
    }
    file.set_len(entry.size).context(|| "set the size")?;
    Ok(written)
}

fn copy<R: BufRead>(archive: &mut Archive<R>, file: &mut std::fs::File, most: u64) -> Result<u64> {
    let mut written = 0;
    while written < most {
        let data = archive.data()?;
        let count = data.len().min(usize::try_from(most - written).unwrap_or(usize::MAX));
        if count == 0 {
            break;
        }
        file.write_all(&data[..count]).context(|| "write")?;
        archive.consume(count);
        written += count as u64;
    }
    Ok(written)
}

fn set_xattrs(place: &Place, look: &Look<'_>) -> Result<()> {
    look.xattrs.iter().try_for_each(|(name, value)| tolerate(place.set_xattr(name, value), name))
}

/// A filesystem without the attribute, or a kind of file that cannot have it (user.* on a link), is no failure.
fn tolerate(result: rustix::io::Result<()>, name: &[u8]) -> Result<()> {
    match result {
        Err(Errno::NOTSUP) => {
            tracing::warn!(xattr = %String::from_utf8_lossy(name), "the filesystem cannot store the attribute");
            Ok(())
        }
        Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        other => other.context(|| format!("set attribute {}", String::from_utf8_lossy(name))),
    }
}
