//! A layer written as a tree without data: every file has its size, its look and no blocks, and what it should hold is
//! kept as a digest. What an unpacked layer is compared with ([`crate::verify`]), so that the two can never disagree
//! about what an archive means.

use std::collections::HashMap;
use std::io::BufRead;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use crate::error::{Context, Error, Kind, Result};
use crate::unpack::directory::Directory;
use crate::unpack::names::Names;
use crate::unpack::tar::{Archive, Entry};
use crate::unpack::target::{Look, Stands, Target};
use crate::unpack::tree::Place;
use crate::verify::content::Content;

/// Digests of files by their inode in the skeleton.
pub(crate) type Contents = HashMap<u64, u128>;

/// A tree of files without data.
pub(crate) struct Skeleton {
    tree: Directory,
    pub(crate) contents: Contents,
}

impl Skeleton {
    /// Below an open directory.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { tree: Directory::new(root), contents: Contents::new() }
    }
}

impl Target for Skeleton {
    type Place = Place;

    fn root(&mut self) -> Result<Place> {
        self.tree.root()
    }

    fn place(&mut self, parts: &[&[u8]]) -> Result<Place> {
        self.tree.place(parts)
    }

    fn find(&mut self, parts: &[&[u8]]) -> Result<Option<Place>> {
        self.tree.find(parts)
    }

    fn stands(&self, place: &Place) -> Result<Option<Stands>> {
        self.tree.stands(place)
    }

    fn remove(&mut self, place: &Place, parts: &[&[u8]]) -> Result<()> {
        self.tree.remove(place, parts)
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place,
        entry: &Entry,
        look: &Look<'_>,
        archive: &mut Archive<R>,
    ) -> Result<Option<u64>> {
        let contents = &mut self.contents;
        self.tree.file_with(place, look, |file| {
            let mut content = Content::new();
            let written = match &entry.fragments {
                None => digest(archive, &mut content, 0, u64::MAX)?,
                Some(fragments) => fragments.iter().try_fold(0, |written, (offset, length)| {
                    digest(archive, &mut content, *offset, *length).map(|count| written + count)
                })?,
            };
            let size = if entry.fragments.is_some() { entry.size } else { written };
            file.set_len(size).context(|| "set the size")?;
            let inode = rustix::fs::fstat(file).context(|| "stat")?.st_ino;
            contents.insert(inode, content.finish());
            Ok(written)
        })
    }

    fn make_directory(&mut self, place: &Place) -> Result<bool> {
        self.tree.make_directory(place)
    }

    fn dress(&mut self, place: &Place, parts: &[&[u8]], look: &Look<'_>) -> Result<()> {
        self.tree.dress(place, parts, look)
    }

    fn symlink(&mut self, place: &Place, to: &[u8], look: &Look<'_>) -> Result<bool> {
        self.tree.symlink(place, to, look)
    }

    fn node(&mut self, place: &Place, kind: FileType, device: (u32, u32), look: &Look<'_>) -> Result<bool> {
        self.tree.node(place, kind, device, look)
    }

    fn whiteout(&mut self, place: &Place) -> Result<()> {
        self.tree.whiteout(place)
    }

    fn link(&mut self, from: &Place, to: &Place) -> Result<()> {
        self.tree.link(from, to)
    }

    fn make_opaque(&mut self, parts: &[&[u8]]) -> Result<()> {
        self.tree.make_opaque(parts)
    }

    fn clear_whiteouts(&mut self, parts: &[&[u8]]) -> Result<()> {
        self.tree.clear_whiteouts(parts)
    }

    fn implied(&self) -> u64 {
        self.tree.implied()
    }

    fn finish(&mut self) -> Result<Names> {
        self.tree.finish()
    }
}

/// Digests up to `most` bytes of the entry as what stands from `offset` on.
fn digest<R: BufRead>(archive: &mut Archive<R>, content: &mut Content, offset: u64, most: u64) -> Result<u64> {
    let mut read = 0;
    while read < most {
        let data = archive.data()?;
        let count = data.len().min(usize::try_from(most - read).unwrap_or(usize::MAX));
        if count == 0 {
            break;
        }
        let at = offset.checked_add(read).ok_or_else(|| Error::new(Kind::Invalid, "a file without end"))?;
        content.write(at, &data[..count]);
        archive.consume(count);
        read += count as u64;
    }
    Ok(read)
}
