//! The end of an image: directories, counts of links, and last of all the superblock.

use std::os::unix::fs::FileExt;

use crate::erofs::format::{self, BLOCK, INODE, Inode, LINKS_AT, Layout, ROOT_NID, SLOT, SUPER, Super};
use crate::erofs::image::Image;
use crate::erofs::names::{Is, Names, ROOT};
use crate::erofs::out::place;
use crate::error::{Context, Error, Kind, Result};

const DIRECTORY: u16 = 0o040_000;
const OPAQUE: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");
/// Bytes written at a time.
const BUFFER: usize = 256 << 10;

/// A directory with its place decided.
struct Laid {
    node: u32,
    /// Bytes of its content; what exceeds whole blocks stands behind the inode if `inline`.
    size: u64,
    inline: bool,
}

impl Image {
    /// Writes what is still missing. `uuid` names the filesystem; overlayfs tells its layers apart by it. The file is
    /// not synced.
    pub(crate) fn complete(&mut self, uuid: [u8; 16]) -> Result<()> {
        let order = self.names.reached();
        let start = self.out.end();
        let (laid, end) = self.lay(&order, start)?;
        self.out.reserve(end - start)?;
        let root = self.write_directories(&laid, start)?;
        self.count_links()?;
        let end = self.out.end();
        let sb = Super {
            inodes: u64::from(self.inodes) + laid.len() as u64,
            blocks: (end / BLOCK) as u32,
            chunked: self.chunked,
            uuid,
        };
        let file = self.flush()?;
        file.set_len(end).context(|| "set the image's size")?;
        file.write_all_at(&sb.encode(&root), SUPER as u64).context(|| "write the superblock")
    }

    /// Decides the place of every directory's inode; where they end.
    fn lay(&mut self, order: &[u32], start: u64) -> Result<(Vec<Laid>, u64)> {
        let (mut laid, mut free) = (Vec::with_capacity(order.len()), start);
        for node in order {
            let size = format::dirents_size(names_of(&self.names, *node).iter().map(|(_, _, name)| name.len()));
            let head = INODE + body(&self.names, *node)?.len();
            let rest = (size % BLOCK) as usize;
            let is_root = *node == ROOT;
            let inline = rest > 0 && head + rest <= if is_root { BLOCK as usize - SUPER - 128 } else { BLOCK as usize };
            let tail = if inline { rest } else { 0 };
            let nid = match is_root {
                true => ROOT_NID,
                false => {
                    let at = place(free, head, tail);
                    free = at + (head + tail) as u64;
                    at / SLOT
                }
            };
            self.names.dir_mut(*node).nid = nid;
            laid.push(Laid { node: *node, size, inline });
        }
        Ok((laid, free))
    }

    /// Writes the directories in their order; what belongs behind the superblock is returned.
    fn write_directories(&mut self, laid: &[Laid], start: u64) -> Result<Vec<u8>> {
        let (mut root, mut buffer, mut at) = (Vec::new(), Vec::new(), start);
        for (number, one) in laid.iter().enumerate() {
            let entries = names_of(&self.names, one.node);
            let content = format::dirents(entries.iter().map(|(nid, kind, name)| (*nid, *kind, *name)));
            if content.len() as u64 != one.size {
                return Err(Error::new(Kind::System, "a directory changed while it was written"));
            }
            let parents = entries.iter().filter(|(_, kind, _)| *kind == format::file_type(DIRECTORY)).count();
            let body = body(&self.names, one.node)?;
            let dir = self.names.dir(one.node);
            let nid = dir.nid;
            let mut inode = Inode::new(DIRECTORY, &dir.attributes, body.len(), self.inodes + 1 + number as u32);
            (inode.size, inode.links) = (one.size, parents as u32);
            let whole = match one.inline {
                true => content.len() / BLOCK as usize * BLOCK as usize,
                false => content.len(),
            };
            if whole > 0 {
                let blocks = self.out.reserve(whole as u64)?;
                inode.place = (blocks / BLOCK) as u32;
                self.out.write(blocks, &content[..whole])?;
            }
            if one.inline {
                inode.layout = Layout::Inline;
            }
            let bytes = [&inode.encode(), &body[..], &content[whole..]].concat();
            if one.node == ROOT {
                root = bytes;
                continue;
            }
            buffer.resize((nid * SLOT - at) as usize, 0);
            buffer.extend(bytes);
            if buffer.len() >= BUFFER {
                self.flush()?.write_all_at(&buffer, at).context(|| "write directories")?;
                at += buffer.len() as u64;
                buffer.clear();
            }
        }
        self.flush()?.write_all_at(&buffer, at).context(|| "write directories")?;
        Ok(root)
    }

    /// Inodes were written with one link each; those with more names get their count.
    fn count_links(&mut self) -> Result<()> {
        let linked = self.names.nodes.iter().filter(|node| node.links > 1 && node.is != Is::Directory);
        let linked: Vec<(u64, u32)> = linked.map(|node| (node.at * SLOT + LINKS_AT, node.links)).collect();
        let file = self.flush()?;
        linked.iter().try_for_each(|(at, links)| file.write_all_at(&links.to_le_bytes(), *at)).context(|| "count links")
    }
}

/// The entries of a directory as they are written: (inode number, type, name), sorted, with `.` and `..`.
fn names_of(names: &Names, dir: u32) -> Vec<(u64, u8, &[u8])> {
    let own = names.dir(dir);
    let entry = |(name, node): (_, u32)| {
        let node = &names.nodes[node as usize];
        match node.is {
            Is::Directory => (names.dirs[node.at as usize].nid, format::file_type(DIRECTORY), name),
            Is::Symlink => (node.at, format::file_type(0o120_000), name),
            Is::Whiteout => (node.at, format::file_type(0o020_000), name),
            Is::Other(kind) => (node.at, kind, name),
        }
    };
    let directory = format::file_type(DIRECTORY);
    let itself: [(u64, u8, &[u8]); 2] = [(own.nid, directory, b"."), (names.dir(own.parent).nid, directory, b"..")];
    let mut all: Vec<_> = names.children(dir).map(entry).chain(itself).collect();
    all.sort_unstable_by_key(|(_, _, name)| *name);
    all
}

/// The attributes of a directory, the opaque marker among them.
fn body(names: &Names, dir: u32) -> Result<Vec<u8>> {
    let dir = names.dir(dir);
    let mut body = dir.xattrs.to_vec();
    if dir.opaque {
        let marker = format::xattr_body(&[OPAQUE]).ok_or_else(|| Error::new(Kind::System, "the opaque marker"))?;
        match body.is_empty() {
            true => body = marker,
            false => body.extend_from_slice(&marker[12..]),
        }
    }
    Ok(body)
}
