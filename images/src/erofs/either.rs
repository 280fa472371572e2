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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use super::*;
    use crate::layout::archive::{Item, write_header};
    use crate::scratch::Scratch;
    use crate::unpack::{Options, write};

    fn archive() -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |item: Item<'_>, data: &[u8]| {
            write_header(&Item { size: data.len() as u64, mtime: (7, 8), mode: 0o640, ..item }, &mut out).unwrap();
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(512), 0);
        };
        let note = [(b"user.note".to_vec(), b"n".to_vec())];
        put(Item { path: b"d/", flag: b'5', uid: 5, xattrs: &note, ..Item::default() }, b"");
        put(Item { path: b"d/file", flag: b'0', gid: 6, xattrs: &note, ..Item::default() }, &[b'x'; 9000]);
        put(Item { path: b"d/link", flag: b'1', link: b"d/file", ..Item::default() }, b"");
        put(Item { path: b"d/.wh..wh..opq", flag: b'0', ..Item::default() }, b"");
        put(Item { path: b".wh.gone", flag: b'0', ..Item::default() }, b"");
        put(Item { path: b"sym", flag: b'2', link: b"d", ..Item::default() }, b"");
        put(Item { path: b"implied/deep/pipe", flag: b'6', ..Item::default() }, b"");
        for n in 0..100 {
            let path = format!("sym/n{n}");
            put(Item { path: path.as_bytes(), flag: b'0', ..Item::default() }, path.as_bytes());
        }
        put(Item { path: b"late", flag: b'1', link: b"sym/file", ..Item::default() }, b"");
        out.extend([0; 1024]);
        out
    }

    fn unpacked(dir: &Path, budget: usize) -> (Vec<String>, bool) {
        std::fs::create_dir_all(dir.join("diff")).unwrap();
        let file = File::options().read(true).write(true).create_new(true).open(dir.join("image")).unwrap();
        let root = crate::disk::open_dir(&dir.join("diff")).unwrap();
        let mut target = Either::with_budget(file, root, budget).unwrap();
        let options = Options { lowest: false, entries: 1000 };
        let summary = write(&mut Archive::new(archive().as_slice()), &mut target, options).unwrap();
        let image = matches!(target, Either::Image(_));
        if let Some(mut unfinished) = target.unfinished() {
            unfinished.give_up().unwrap().finish().unwrap();
        }
        let mut lines = vec![format!("{:?} {}", summary.implied.paths().collect::<Vec<_>>(), summary.inodes)];
        let mut todo = vec![dir.join("diff")];
        while let Some(at) = todo.pop() {
            let meta = std::fs::symlink_metadata(&at).unwrap();
            let is = (meta.mode(), meta.uid(), meta.gid(), meta.nlink(), meta.rdev(), meta.mtime(), meta.mtime_nsec());
            let content = if meta.is_file() { std::fs::read(&at).unwrap() } else { Vec::new() };
            let digest = crate::Digest::of(&content);
            lines.push(format!("{:?} {is:?} {digest}", at.strip_prefix(dir).unwrap()));
            if meta.is_dir() {
                todo.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        assert!(dir.join("diff/gone").symlink_metadata().is_ok(), "the whiteout");
        // Neither the root nor a whiteout has a time of its own.
        lines.retain(|line| !line.starts_with("\"diff\" ") && !line.starts_with("\"diff/gone\" "));
        lines.sort();
        (lines, image)
    }

    /// Given up at once, in the middle, or at the end: the files are the same.
    #[test]
    fn a_layer_that_is_too_large_becomes_files() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED a_layer_that_is_too_large_becomes_files: needs root, to give files away");
            return;
        }
        let dir = Scratch::new("either");
        let (wanted, at_once) = unpacked(&dir.path().join("0"), 0);
        let (middle, in_the_middle) = unpacked(&dir.path().join("1"), 4000);
        let (last, whole) = unpacked(&dir.path().join("2"), 1 << 30);
        assert_eq!((at_once, in_the_middle, whole), (false, false, true));
        for other in [middle, last] {
            let differ: Vec<_> = wanted.iter().zip(&other).filter(|(wanted, other)| wanted != other).collect();
            assert!(differ.is_empty() && wanted.len() == other.len(), "{differ:#?}");
        }
        assert!(wanted.len() > 105 && wanted.iter().any(|line| line.contains("diff/late")));
    }
}
