//! A layer written as an image: the [`Target`] that decides where each file goes while the archive streams past.

use std::fs::File;
use std::io::BufRead;
use std::path::PathBuf;

use rustix::fs::FileType;

use crate::erofs::format::{self, BLOCK, HOLE, INODE, Inode, Layout};
use crate::erofs::names::{Is, NONE, Names, Node, ROOT};
use crate::erofs::out::Out;
use crate::error::{Context, Error, Kind, Result};
use crate::unpack::implied;
use crate::unpack::names::Names as Paths;
use crate::unpack::tar::{Archive, Entry};
use crate::unpack::target::{Look, Stands, Target};
use crate::unpack::tree::{Attributes, Tree};

/// Bytes that the names of one layer may take in memory: enough for some 300,000 files.
pub(crate) const BUDGET: usize = 20 << 20;
/// Symbolic links followed in one path, as in Linux.
const MOST_LINKS: u32 = 40;
/// Chunks of one sparse file: bounds both the memory that their addresses take and their place behind the inode.
const MOST_CHUNKS: u64 = 1 << 17;
/// Bytes of the root directory's attributes that fit behind the superblock.
const ROOT_XATTRS: usize = 2048;
/// Larger files are refused by other filesystems as well.
const MOST_SIZE: u64 = 1 << 44;

const REGULAR: u16 = 0o100_000;
const SYMLINK: u16 = 0o120_000;

/// An image under construction.
pub(crate) struct Image {
    pub(super) out: Out,
    pub(super) names: Names,
    /// Directories made without an entry of their own, by the path that named them.
    implied: Paths,
    made: u64,
    /// The directory that was used last: archives keep siblings together.
    last: Option<(Vec<u8>, u32)>,
    /// Inodes written, directories apart.
    pub(super) inodes: u32,
    pub(super) chunked: bool,
    /// Targets of symbolic links, for those that are followed while the layer is written.
    targets: Vec<(u32, Box<[u8]>)>,
    target_bytes: usize,
}

/// A name in a directory; the root directory itself is the empty name.
pub(crate) struct Place {
    dir: u32,
    name: Vec<u8>,
}

enum Walked {
    At(u32),
    Missing,
    NoDirectory,
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Image {
    /// An image in an empty file.
    pub(crate) fn new(file: File) -> Self {
        Self {
            out: Out::new(file),
            names: Names::new(),
            implied: Paths::default(),
            made: 0,
            last: None,
            inodes: 0,
            chunked: false,
            targets: Vec::new(),
            target_bytes: 0,
        }
    }

    /// Bytes of memory that the layer's names take.
    pub(crate) fn memory(&self) -> usize {
        self.names.memory() + self.target_bytes
    }

    /// The format cannot say this: an attribute is too long, a file too large.
    pub(crate) fn cannot(entry: &Entry, look: &Look<'_>) -> bool {
        entry.size > MOST_SIZE
            || format::xattr_body(&look.xattrs).is_none_or(|body| body.len() > ROOT_XATTRS && is_root(entry))
    }

    /// Follows a path inside the layer, from its root.
    fn walk(&self, parts: &[&[u8]]) -> Result<Walked> {
        let mut todo: Vec<Vec<u8>> = parts.iter().rev().map(|part| part.to_vec()).collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some(part) = todo.pop() {
            if self.names.nodes[at as usize].is != Is::Directory {
                return Ok(Walked::NoDirectory);
            }
            if part == b".." {
                at = self.names.dir(at).parent;
                continue;
            }
            let Some(next) = self.names.get(at, &part) else { return Ok(Walked::Missing) };
            if self.names.nodes[next as usize].is != Is::Symlink {
                at = next;
                continue;
            }
            links += 1;
            let target = self.target(next);
            if links > MOST_LINKS || target.len() + todo.len() > 1 << 16 {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("directory {:?}: too many links", show(&parts.join(&b'/'))),
                ));
            }
            if target.first() == Some(&b'/') {
                at = ROOT;
            }
            let named = target.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
            todo.extend(named.rev().map(<[u8]>::to_vec));
        }
        Ok(match self.names.nodes[at as usize].is {
            Is::Directory => Walked::At(at),
            _ => Walked::NoDirectory,
        })
    }

    fn target(&self, node: u32) -> &[u8] {
        let found = self.targets.binary_search_by_key(&node, |(node, _)| *node);
        found.map_or(&[], |at| &self.targets[at].1)
    }

    /// The directory of a path, if it is there.
    pub(super) fn existing(&self, parts: &[&[u8]]) -> Result<Option<u32>> {
        Ok(match self.walk(parts)? {
            Walked::At(dir) => Some(dir),
            Walked::Missing | Walked::NoDirectory => None,
        })
    }

    /// The directory of a path, made where it is missing.
    fn directory(&mut self, parts: &[&[u8]]) -> Result<u32> {
        let path = parts.join(&b'/');
        if let Some((known, dir)) = &self.last
            && *known == path
        {
            return Ok(*dir);
        }
        let refuse = |why: &str| Error::new(Kind::Invalid, format!("directory {:?}: {why}", show(&path)));
        let dir = match self.walk(parts)? {
            Walked::At(dir) => dir,
            Walked::NoDirectory => return Err(refuse("something on the way is no directory")),
            Walked::Missing => self.make_directories(parts)?,
        };
        self.last = Some((path, dir));
        Ok(dir)
    }

    /// Makes what is missing of a path, from the nearest directory that is there downwards.
    fn make_directories(&mut self, parts: &[&[u8]]) -> Result<u32> {
        let refuse = |path: &[u8], why: &str| Error::new(Kind::Invalid, format!("directory {:?}: {why}", show(path)));
        let mut there = parts.len();
        let mut dir = loop {
            there -= 1;
            match self.walk(&parts[..there])? {
                Walked::At(dir) => break dir,
                Walked::Missing if there > 0 => {}
                _ => return Err(refuse(&parts[..there].join(&b'/'), "something on the way is no directory")),
            }
        };
        for (at, name) in parts.iter().enumerate().skip(there) {
            let path = parts[..=at].join(&b'/');
            if self.names.get(dir, name).is_some() {
                return Err(refuse(&path, "goes through a symbolic link to nowhere"));
            }
            check_name(name)?;
            let next = self.names.new_directory(dir);
            self.names.add(dir, name, next);
            dir = next;
            self.made += 1;
            self.implied.insert(&path)?;
        }
        Ok(dir)
    }

    /// The directory that stands at a place.
    fn directory_at(&self, place: &Place) -> Result<u32> {
        let node = match place.name.as_slice() {
            b"" => Some(ROOT),
            name => self.names.get(place.dir, name),
        };
        let is = |node: &u32| self.names.nodes[*node as usize].is == Is::Directory;
        node.filter(is).ok_or_else(|| Error::new(Kind::System, "the directory is gone"))
    }

    fn number(&mut self) -> u32 {
        self.inodes += 1;
        self.inodes
    }

    /// Writes an inode with what follows it and names it.
    fn put(&mut self, place: &Place, inode: &Inode, body: &[u8], tail: &[u8], is: Is) -> Result<u32> {
        let bytes = [&inode.encode(), body, tail].concat();
        let inline = if inode.layout == Layout::Inline { tail.len() } else { 0 };
        let at = self.out.inode(&bytes, inline)?;
        let node = self.names.new_node(Node { at, links: 1, is });
        self.names.add(place.dir, &place.name, node);
        Ok(node)
    }

    fn taken(&self, place: &Place) -> bool {
        self.names.get(place.dir, &place.name).is_some()
    }

    /// Data that fills its blocks one after the other; the end of it, where it is short, stands behind the inode.
    fn flat<R: BufRead>(&mut self, inode: &mut Inode, archive: &mut Archive<R>, room: usize) -> Result<Vec<u8>> {
        let rest = (inode.size % BLOCK) as usize;
        let inline = rest > 0 && rest <= room;
        let whole = if inline { inode.size - rest as u64 } else { inode.size };
        if whole > 0 {
            let at = self.out.reserve(whole)?;
            inode.place = (at / BLOCK) as u32;
            self.copy(archive, at, whole)?;
        }
        if !inline {
            return Ok(Vec::new());
        }
        inode.layout = Layout::Inline;
        let mut tail = Vec::with_capacity(rest);
        while tail.len() < rest {
            let data = archive.data()?;
            let count = data.len().min(rest - tail.len());
            if count == 0 {
                return Err(Error::new(Kind::Invalid, "the data is shorter than its size"));
            }
            tail.extend_from_slice(&data[..count]);
            archive.consume(count);
        }
        Ok(tail)
    }

    /// Copies data of the archive to one place.
    fn copy<R: BufRead>(&mut self, archive: &mut Archive<R>, at: u64, length: u64) -> Result<()> {
        let mut done = 0;
        while done < length {
            let data = archive.data()?;
            let count = data.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(Error::new(Kind::Invalid, "the data is shorter than its size"));
            }
            self.out.write(at + done, &data[..count])?;
            archive.consume(count);
            done += count as u64;
        }
        Ok(())
    }

    /// A sparse file: chunks that hold data have blocks of their own, the others are holes. The addresses, and the
    /// bytes of data.
    fn chunks<R: BufRead>(
        &mut self,
        inode: &mut Inode,
        archive: &mut Archive<R>,
        fragments: &[(u64, u64)],
    ) -> Result<(Vec<u8>, u64)> {
        let mut bits = 0;
        while inode.size.div_ceil(BLOCK << bits) > MOST_CHUNKS {
            bits += 1;
        }
        let (chunk, count) = (BLOCK << bits, inode.size.div_ceil(BLOCK << bits));
        let mut map = vec![HOLE; count as usize];
        let mut written = 0;
        for (offset, length) in fragments {
            let (mut at, end) = (*offset, offset + length);
            while at < end {
                let index = (at / chunk) as usize;
                let part = (end - at).min(chunk - at % chunk);
                if map[index] == HOLE {
                    map[index] = (self.out.reserve(chunk)? / BLOCK) as u32;
                }
                self.copy(archive, u64::from(map[index]) * BLOCK + at % chunk, part)?;
                at += part;
            }
            written += length;
        }
        (inode.layout, inode.place, self.chunked) = (Layout::Chunks, bits, true);
        Ok((map.into_iter().flat_map(u32::to_le_bytes).collect(), written))
    }

    /// Takes the whiteouts out of a directory.
    pub(super) fn clear(&mut self, dir: u32) {
        let is = |node: u32| self.names.nodes[node as usize].is;
        let markers = self.names.children(dir).filter(|(_, node)| is(*node) == Is::Whiteout);
        let markers: Vec<Vec<u8>> = markers.map(|(name, _)| name.to_vec()).collect();
        markers.iter().for_each(|name| self.names.remove(dir, name));
    }

    /// As [`crate::unpack::implied::inherit`], for an image that is not complete yet.
    pub(crate) fn rest_on(&mut self, below: &[PathBuf], implied: &Paths, whited: &Paths) -> Result<()> {
        let lower = below.iter().map(|path| crate::disk::open_dir(path).map(Tree::new)).collect::<Result<Vec<_>>>()?;
        for path in whited.paths() {
            let parts = implied::components(&path);
            let Some(dir) = self.existing(&parts)? else { continue };
            if implied::first(&lower, &parts)?.is_none() {
                self.clear(dir);
            }
        }
        for path in implied.paths() {
            let parts = implied::components(&path);
            let Some(dir) = self.existing(&parts)? else { continue };
            if let Some(stat) = implied::first(&lower, &parts)? {
                self.names.dir_mut(dir).attributes = implied::look(&stat);
            }
        }
        Ok(())
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    match name.len() > 255 {
        true => Err(Error::new(Kind::Invalid, format!("a name of {} bytes, more than 255", name.len()))),
        false => Ok(()),
    }
}

fn is_root(entry: &Entry) -> bool {
    entry.path.split(|b| *b == b'/').all(|part| matches!(part, b"" | b"."))
}

fn body_of(look: &Look<'_>) -> Result<Vec<u8>> {
    let beyond = || Error::new(Kind::Unsupported, "attributes longer than an image can hold");
    format::xattr_body(&look.xattrs).ok_or_else(beyond)
}

impl Target for Image {
    type Place = Place;

    fn root(&mut self) -> Result<Place> {
        Ok(Place { dir: ROOT, name: Vec::new() })
    }

    fn place(&mut self, parts: &[&[u8]]) -> Result<Place> {
        let (name, parents) = parts.split_last().ok_or_else(|| Error::new(Kind::Invalid, "the root is no entry"))?;
        check_name(name)?;
        Ok(Place { dir: self.directory(parents)?, name: name.to_vec() })
    }

    fn find(&mut self, parts: &[&[u8]]) -> Result<Option<Place>> {
        let (name, parents) = parts.split_last().ok_or_else(|| Error::new(Kind::Invalid, "the root is no entry"))?;
        Ok(self.existing(parents)?.map(|dir| Place { dir, name: name.to_vec() }))
    }

    fn stands(&self, place: &Place) -> Result<Option<Stands>> {
        let stands = |node: u32| match self.names.nodes[node as usize].is {
            Is::Directory => Stands::Directory,
            Is::Whiteout => Stands::Whiteout,
            _ => Stands::Other(u64::from(node)),
        };
        Ok(self.names.get(place.dir, &place.name).map(stands))
    }

    fn remove(&mut self, place: &Place, parts: &[&[u8]]) -> Result<()> {
        self.last = None;
        self.names.remove(place.dir, &place.name);
        self.implied.remove_within(&parts.join(&b'/'));
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place,
        entry: &Entry,
        look: &Look<'_>,
        archive: &mut Archive<R>,
    ) -> Result<Option<u64>> {
        if self.taken(place) {
            return Ok(None);
        }
        let body = body_of(look)?;
        let mut inode = Inode::new(REGULAR, &look.attributes, body.len(), self.number());
        inode.size = entry.size;
        let (tail, written) = match &entry.fragments {
            Some(fragments) => self.chunks(&mut inode, archive, fragments)?,
            None => {
                let room = (BLOCK as usize).saturating_sub(INODE + body.len());
                (self.flat(&mut inode, archive, room)?, entry.size)
            }
        };
        self.put(place, &inode, &body, &tail, Is::Other(format::file_type(REGULAR)))?;
        Ok(Some(written))
    }

    fn make_directory(&mut self, place: &Place) -> Result<bool> {
        if self.taken(place) {
            return Ok(false);
        }
        let dir = self.names.new_directory(place.dir);
        self.names.add(place.dir, &place.name, dir);
        Ok(true)
    }

    fn dress(&mut self, place: &Place, parts: &[&[u8]], look: &Look<'_>) -> Result<()> {
        let dir = self.directory_at(place)?;
        self.names.dress(dir, look.attributes, body_of(look)?);
        self.implied.remove(&parts.join(&b'/'));
        Ok(())
    }

    fn symlink(&mut self, place: &Place, to: &[u8], look: &Look<'_>) -> Result<bool> {
        if self.taken(place) {
            return Ok(false);
        }
        let body = body_of(look)?;
        let link = Attributes { mode: 0o777, ..look.attributes };
        let mut inode = Inode::new(SYMLINK, &link, body.len(), self.number());
        inode.size = to.len() as u64;
        let node = match INODE + body.len() + to.len() <= BLOCK as usize {
            true => {
                inode.layout = Layout::Inline;
                self.put(place, &inode, &body, to, Is::Symlink)?
            }
            false => {
                let at = self.out.reserve(BLOCK)?;
                inode.place = (at / BLOCK) as u32;
                self.out.write(at, to)?;
                self.put(place, &inode, &body, &[], Is::Symlink)?
            }
        };
        self.target_bytes += to.len() + size_of::<(u32, Box<[u8]>)>();
        self.targets.push((node, to.into()));
        Ok(true)
    }

    fn node(&mut self, place: &Place, kind: FileType, device: (u32, u32), look: &Look<'_>) -> Result<bool> {
        if self.taken(place) {
            return Ok(false);
        }
        let body = body_of(look)?;
        let mode = kind.as_raw_mode() as u16;
        let mut inode = Inode::new(mode, &look.attributes, body.len(), self.number());
        let beyond = || Error::new(Kind::Invalid, format!("no device {}:{}", device.0, device.1));
        inode.place = format::device(device.0, device.1).ok_or_else(beyond)?;
        self.put(place, &inode, &body, &[], Is::Other(format::file_type(mode)))?;
        Ok(true)
    }

    fn whiteout(&mut self, place: &Place) -> Result<()> {
        let look = Attributes { uid: 0, gid: 0, mode: 0, mtime: (0, 0) };
        let inode = Inode::new(FileType::CharacterDevice.as_raw_mode() as u16, &look, 0, self.number());
        self.put(place, &inode, &[], &[], Is::Whiteout).map(drop)
    }

    fn link(&mut self, from: &Place, to: &Place) -> Result<()> {
        let gone = || Error::new(Kind::Invalid, "the file to link to is gone");
        let node = self.names.get(from.dir, &from.name).filter(|node| *node != NONE).ok_or_else(gone)?;
        self.names.nodes[node as usize].links += 1;
        self.names.add(to.dir, &to.name, node);
        Ok(())
    }

    fn make_opaque(&mut self, parts: &[&[u8]]) -> Result<()> {
        let dir = self.directory(parts)?;
        self.names.dir_mut(dir).opaque = true;
        Ok(())
    }

    fn clear_whiteouts(&mut self, parts: &[&[u8]]) -> Result<()> {
        if let Some(dir) = self.existing(parts)? {
            self.clear(dir);
        }
        Ok(())
    }

    fn implied(&self) -> u64 {
        self.made
    }

    fn finish(&mut self) -> Result<Paths> {
        Ok(std::mem::take(&mut self.implied))
    }
}

impl Image {
    /// Writes all that is gathered, for a reader.
    pub(super) fn flush(&mut self) -> Result<&File> {
        self.out.file().context(|| "image")
    }
}
