//! Reads images that [`super::image`] wrote, without mounting them: to turn one
//! back into files, and to see whether one is whole. Every number is checked against the file, which a failing disk may have changed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::erofs::format::{self, BLOCK, DIRENT, HOLE, INODE, Inode, Layout, SLOT, SUPER, Super, Xattrs};
use crate::error::{Context, Error, Kind, Result};

/// Bytes of one directory beyond which it is taken for damage.
const MOST_DIRECTORY: u64 = 1 << 30;
/// Bytes of data handed out at a time.
const PIECE: u64 = 256 << 10;

/// An open image.
pub(crate) struct Reader {
    file: File,
    pub(crate) sb: Super,
}

/// A name in a directory: inode number, type, name.
pub(crate) type Named = (u64, u8, Vec<u8>);

fn damaged(what: &str) -> Error {
    Error::new(Kind::Invalid, format!("EROFS image: {what}"))
}

impl Reader {
    /// Opens a complete image: superblock with its checksum, and a file as long as it says.
    ///
    /// # Errors
    /// [`Kind::Invalid`], here and below, if it is damaged.
    pub(crate) fn open(file: File) -> Result<Self> {
        let mut block = [0; BLOCK as usize - SUPER];
        file.read_exact_at(&mut block, SUPER as u64).map_err(|why| damaged(&why.to_string()))?;
        let sb = Super::decode(&block).ok_or_else(|| damaged("the superblock is not what was written"))?;
        let length = file.metadata().context(|| "stat the image")?.len();
        match length == u64::from(sb.blocks) * BLOCK {
            true => Ok(Self { file, sb }),
            false => Err(damaged(&format!("{length} bytes instead of {} blocks", sb.blocks))),
        }
    }

    fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        match at.checked_add(length as u64).is_some_and(|end| end <= u64::from(self.sb.blocks) * BLOCK) {
            true => self.file.read_exact_at(&mut bytes, at).map_err(|why| damaged(&why.to_string()))?,
            false => return Err(damaged("an address beyond its end")),
        }
        Ok(bytes)
    }

    pub(crate) fn inode(&self, nid: u64) -> Result<Inode> {
        let at = nid.checked_mul(SLOT).ok_or_else(|| damaged("an inode number"))?;
        let bytes: [u8; INODE] = self.bytes(at, INODE)?.try_into().map_err(|_| damaged("an inode"))?;
        Inode::decode(&bytes).ok_or_else(|| damaged(&format!("inode {nid} has an unknown form")))
    }

    pub(crate) fn xattrs(&self, nid: u64, inode: &Inode) -> Result<Xattrs> {
        let body = self.bytes(nid * SLOT + INODE as u64, inode.xattr_bytes)?;
        format::xattrs(&body).ok_or_else(|| damaged("attributes"))
    }

    /// Hands out data in order with its place in the file; holes are left out.
    pub(crate) fn data(&self, nid: u64, inode: &Inode, take: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let behind = nid * SLOT + (INODE + inode.xattr_bytes) as u64;
        let mut piece = |from: u64, to: u64, length: u64| -> Result<()> {
            let mut done = 0;
            while done < length {
                let count = (length - done).min(PIECE);
                take(to + done, &self.bytes(from + done, count as usize)?)?;
                done += count;
            }
            Ok(())
        };
        let first = u64::from(inode.place) * BLOCK;
        match inode.layout {
            Layout::Plain => piece(first, 0, inode.size),
            Layout::Inline => {
                let whole = inode.size / BLOCK * BLOCK;
                piece(first, 0, whole)?;
                piece(behind, whole, inode.size - whole)
            }
            Layout::Chunks => {
                let chunk = BLOCK << (inode.place & 31);
                for index in 0..inode.size.div_ceil(chunk) {
                    let address = self.bytes(behind + index * 4, 4)?;
                    let address = format::u32_at(&address, 0);
                    if address != HOLE {
                        piece(u64::from(address) * BLOCK, index * chunk, chunk.min(inode.size - index * chunk))?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Everything in a file that should be small.
    fn whole(&self, nid: u64, inode: &Inode) -> Result<Vec<u8>> {
        if inode.size > MOST_DIRECTORY {
            return Err(damaged("a directory of more than 1 GiB"));
        }
        let mut all = vec![0; inode.size as usize];
        self.data(nid, inode, &mut |at, bytes| {
            all[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(all)
    }

    /// What is in a directory, `.` and `..` apart.
    pub(crate) fn list(&self, nid: u64, inode: &Inode) -> Result<Vec<Named>> {
        let content = self.whole(nid, inode)?;
        let mut all = Vec::new();
        for block in content.chunks(BLOCK as usize) {
            all.extend(entries(block).ok_or_else(|| damaged("a directory"))?);
        }
        all.retain(|(_, _, name)| !matches!(name.as_slice(), b"." | b".."));
        Ok(all)
    }

    pub(crate) fn link(&self, nid: u64, inode: &Inode) -> Result<Vec<u8>> {
        match inode.size <= 4095 {
            true => self.whole(nid, inode),
            false => Err(damaged("a symbolic link")),
        }
    }
}

/// One block of a directory.
pub(crate) fn entries(block: &[u8]) -> Option<Vec<Named>> {
    let count = usize::from(format::u16_at(block.get(..DIRENT)?, 8)) / DIRENT;
    let mut all = Vec::with_capacity(count);
    for index in 0..count {
        let entry = block.get(index * DIRENT..(index + 1) * DIRENT)?;
        let start = usize::from(format::u16_at(entry, 8));
        let end = match index + 1 < count {
            true => usize::from(format::u16_at(block.get((index + 1) * DIRENT..(index + 2) * DIRENT)?, 8)),
            false => block.len(),
        };
        let name = block.get(start..end)?;
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        all.push((format::u64_at(entry, 0), entry[10], name.to_vec()));
    }
    Some(all)
}
