//! A layer that becomes an image if it can, and files if it cannot: too many names for the memory that one layer may
//! take, or something that the format has no place for. What was written by then is copied over.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::FileType;

use crate::erofs::format::{self, Inode, ROOT_NID};
use crate::erofs::image::{self, BUDGET, Image};
use crate::erofs::read::Reader;
use crate::error::{Context, Error, Kind, Result};
use crate::unpack::directory::Directory;
use crate::unpack::names::Names;
use crate::unpack::tar::{Archive, Entry};
use crate::unpack::target::{Look, Stands, Target};
use crate::unpack::tree::{self, Attributes};

/// Either form, and what the other one needs.
pub(crate) enum Either {
    Image(Unfinished),
    Directory(Directory),
}

/// An image that can still become files.
pub(crate) struct Unfinished {
    pub(crate) image: Box<Image>,
    spare: Spare,
}

/// Where the files go if the image is given up.
pub(crate) struct Spare {
    image: File,
    root: Option<OwnedFd>,
    budget: usize,
}

/// A place in either.
pub(crate) enum Place {
    Image(image::Place),
    Directory(tree::Place),
}

impl Either {
    /// An image in the empty `file`, or files below `root`.
    pub(crate) fn new(file: File, root: OwnedFd) -> Result<Self> {
        Self::with_budget(file, root, BUDGET)
    }

    pub(crate) fn with_budget(file: File, root: OwnedFd, budget: usize) -> Result<Self> {
        let image = file.try_clone().context(|| "open the image once more")?;
        let spare = Spare { image, root: Some(root), budget };
        Ok(Self::Image(Unfinished { image: Box::new(Image::new(file)), spare }))
    }

    /// The image, unless the layer has become files.
    pub(crate) fn unfinished(self) -> Option<Unfinished> {
        match self {
            Self::Image(unfinished) => Some(unfinished),
            Self::Directory(_) => None,
        }
    }
}

impl Unfinished {
    /// Turns the image into files.
    pub(crate) fn give_up(&mut self) -> Result<Directory> {
        let root = self.spare.root.take().ok_or_else(|| Error::new(Kind::System, "the image was given up before"))?;
        self.image.complete([0; 16])?;
        let (implied, made) = (self.image.finish()?, self.image.implied());
        let reader = Reader::open(self.spare.image.try_clone().context(|| "open the image once more")?)?;
        copy(&reader, root, implied, made)
    }
}

/// Writes what an image holds as files.
fn copy(from: &Reader, root: OwnedFd, implied: Names, made: u64) -> Result<Directory> {
    let mut directory = Directory::new(root);
    let mut first: HashMap<u64, Vec<u8>> = HashMap::new();
    // Paths, not open directories: an archive nests deeper than descriptors reach.
    let mut todo = vec![(ROOT_NID, Vec::new())];
    while let Some((nid, path)) = todo.pop() {
        let inode = from.inode(nid)?;
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        let linked = inode.links > 1 && format::file_type(inode.mode) != 2;
        if let Some(other) = linked.then(|| first.get(&nid)).flatten() {
            let other: Vec<&[u8]> = other.split(|b| *b == b'/').collect();
            let (other, place) = (directory.place(&other)?, directory.place(&parts)?);
            directory.link(&other, &place)?;
            continue;
        }
        if linked {
            first.insert(nid, path.clone());
        }
        one(from, nid, &inode, &parts, &mut directory)?;
        if format::file_type(inode.mode) == 2 {
            let join = |name: Vec<u8>| if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
            todo.extend(from.list(nid, &inode)?.into_iter().map(|(nid, _, name)| (nid, join(name))));
        }
    }
    directory.set_implied(implied, made);
    Ok(directory)
}

fn one(from: &Reader, nid: u64, inode: &Inode, parts: &[&[u8]], directory: &mut Directory) -> Result<()> {
    let mode = u32::from(inode.mode);
    let attributes = Attributes { uid: inode.uid, gid: inode.gid, mode: mode & 0o7777, mtime: inode.mtime };
    let xattrs = from.xattrs(nid, inode)?;
    let opaque = xattrs.iter().any(|(name, _)| name == b"trusted.overlay.opaque");
    let kept = xattrs.iter().filter(|(name, _)| !name.starts_with(b"trusted.overlay."));
    let look = Look { attributes, xattrs: kept.map(|(name, value)| (name.as_slice(), value.as_slice())).collect() };
    let kind = FileType::from_raw_mode(mode);
    if kind == FileType::Directory {
        let place = if parts.is_empty() { directory.root()? } else { directory.place(parts)? };
        if !parts.is_empty() {
            directory.make_directory(&place)?;
        }
        directory.dress(&place, parts, &look)?;
        return if opaque { directory.make_opaque(parts) } else { Ok(()) };
    }
    let place = directory.place(parts)?;
    let device = format::major_minor(inode.place);
    match kind {
        FileType::Symlink => directory.symlink(&place, &from.link(nid, inode)?, &look).map(drop),
        FileType::CharacterDevice if device == (0, 0) => directory.whiteout(&place),
        FileType::RegularFile => directory
            .file_with(&place, &look, |file| {
                file.set_len(inode.size).context(|| "set the size")?;
                from.data(nid, inode, &mut |at, bytes| file.write_all_at(bytes, at).context(|| "write"))
            })
            .map(drop),
        FileType::Fifo => directory.node(&place, kind, (0, 0), &look).map(drop),
        _ => directory.node(&place, kind, device, &look).map(drop),
    }
}

/// Calls the same method of whichever it is.
macro_rules! both {
    ($self:ident, $place:ident, $it:ident, $at:ident => $call:expr) => {
        match ($self, $place) {
            (Either::Image(Unfinished { image: $it, .. }), Place::Image($at)) => $call,
            (Either::Directory($it), Place::Directory($at)) => $call,
            _ => Err(Error::new(Kind::System, "a place of a layer that has changed its form")),
        }
    };
}

impl Target for Either {
    type Place = Place;

    fn expect(&mut self, entry: &Entry, look: &Look<'_>) -> Result<()> {
        match self {
            Self::Image(own) if own.image.memory() > own.spare.budget || Image::cannot(entry, look) => {
                *self = Self::Directory(own.give_up()?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn root(&mut self) -> Result<Place> {
        match self {
            Self::Image(own) => own.image.root().map(Place::Image),
            Self::Directory(directory) => directory.root().map(Place::Directory),
        }
    }

    fn place(&mut self, parts: &[&[u8]]) -> Result<Place> {
        match self {
            Self::Image(own) => own.image.place(parts).map(Place::Image),
            Self::Directory(directory) => directory.place(parts).map(Place::Directory),
        }
    }

    fn find(&mut self, parts: &[&[u8]]) -> Result<Option<Place>> {
        Ok(match self {
            Self::Image(own) => own.image.find(parts)?.map(Place::Image),
            Self::Directory(directory) => directory.find(parts)?.map(Place::Directory),
        })
    }

    fn stands(&self, place: &Place) -> Result<Option<Stands>> {
        both!(self, place, it, at => it.stands(at))
    }

    fn remove(&mut self, place: &Place, parts: &[&[u8]]) -> Result<()> {
        both!(self, place, it, at => it.remove(at, parts))
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place,
        entry: &Entry,
        look: &Look<'_>,
        archive: &mut Archive<R>,
    ) -> Result<Option<u64>> {
        both!(self, place, it, at => it.file(at, entry, look, archive))
    }

    fn make_directory(&mut self, place: &Place) -> Result<bool> {
        both!(self, place, it, at => it.make_directory(at))
    }

    fn dress(&mut self, place: &Place, parts: &[&[u8]], look: &Look<'_>) -> Result<()> {
        both!(self, place, it, at => it.dress(at, parts, look))
    }

    fn symlink(&mut self, place: &Place, to: &[u8], look: &Look<'_>) -> Result<bool> {
        both!(self, place, it, at => it.symlink(at, to, look))
    }

    fn node(&mut self, place: &Place, kind: FileType, device: (u32, u32), look: &Look<'_>) -> Result<bool> {
        both!(self, place, it, at => it.node(at, kind, device, look))
    }

    fn whiteout(&mut self, place: &Place) -> Result<()> {
        both!(self, place, it, at => it.whiteout(at))
    }

    fn link(&mut self, from: &Place, to: &Place) -> Result<()> {
        match (self, from, to) {
            (Self::Image(own), Place::Image(from), Place::Image(to)) => own.image.link(from, to),
            (Self::Directory(directory), Place::Directory(from), Place::Directory(to)) => directory.link(from, to),
            _ => Err(Error::new(Kind::System, "a place of a layer that has changed its form")),
        }
    }

    fn make_opaque(&mut self, parts: &[&[u8]]) -> Result<()> {
        match self {
            Self::Image(own) => own.image.make_opaque(parts),
            Self::Directory(directory) => directory.make_opaque(parts),
        }
    }

    fn clear_whiteouts(&mut self, parts: &[&[u8]]) -> Result<()> {
        match self {
            Self::Image(own) => own.image.clear_whiteouts(parts),
            Self::Directory(directory) => directory.clear_whiteouts(parts),
        }
    }

    fn implied(&self) -> u64 {
        match self {
            Self::Image(own) => own.image.implied(),
            Self::Directory(directory) => directory.implied(),
        }
    }

    fn finish(&mut self) -> Result<Names> {
        match self {
            Self::Image(own) => own.image.finish(),
            Self::Directory(directory) => directory.finish(),
        }
    }
}
