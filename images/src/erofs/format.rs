//! The numbers on disk, as bytes (`fs/erofs/erofs_fs.h` of Linux 6.12). Pure.

use crate::unpack::tree::Attributes;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
/// Where the superblock stands.
pub(crate) const SUPER: usize = 1024;
/// Inodes are numbered by the 32 bytes that they start at.
pub(crate) const SLOT: u64 = 32;
/// Bytes of an extended inode, the only form written: the compact one has no times.
pub(crate) const INODE: usize = 64;
/// The root directory's inode: behind the superblock. Its number must fit 16 bits.
pub(crate) const ROOT_NID: u64 = 36;
/// Where an inode has its number of links.
pub(crate) const LINKS_AT: u64 = 44;
/// A chunk that is a hole.
pub(crate) const HOLE: u32 = u32::MAX;
/// Bytes of one directory entry without its name.
pub(crate) const DIRENT: usize = 12;

const MAGIC: u32 = 0xE0F5_E1E2;
const COMPAT_CHECKSUM_MTIME: u32 = 1 | 2;
const INCOMPAT_CHUNKED: u32 = 4;

/// How an inode's data lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Layout {
    /// In whole blocks.
    Plain,
    /// The last part stands behind the inode.
    Inline,
    /// In chunks, whose addresses stand behind the inode.
    Chunks,
}

impl Layout {
    fn number(self) -> u16 {
        match self {
            Self::Plain => 0,
            Self::Inline => 2,
            Self::Chunks => 4,
        }
    }

    fn of(number: u16) -> Option<Self> {
        [Self::Plain, Self::Inline, Self::Chunks].into_iter().find(|layout| layout.number() == number)
    }
}

/// An inode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Inode {
    pub(crate) layout: Layout,
    /// Bytes of attributes behind the inode, as [`xattr_body`] makes them.
    pub(crate) xattr_bytes: usize,
    /// Type and permission bits.
    pub(crate) mode: u16,
    pub(crate) size: u64,
    /// First block, device number or chunk format.
    pub(crate) place: u32,
    pub(crate) number: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
}

impl Inode {
    /// One with these attributes, a single link and nothing in it.
    pub(crate) fn new(kind: u16, attributes: &Attributes, xattr_bytes: usize, number: u32) -> Self {
        Self {
            layout: Layout::Plain,
            xattr_bytes,
            mode: kind | (attributes.mode & 0o7777) as u16,
            size: 0,
            place: 0,
            number,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            links: 1,
        }
    }

    pub(crate) fn encode(&self) -> [u8; INODE] {
        let mut bytes = [0; INODE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &(1 | self.layout.number() << 1).to_le_bytes());
        let count = if self.xattr_bytes == 0 { 0 } else { (self.xattr_bytes - 12) / 4 + 1 };
        put(2, &(count as u16).to_le_bytes());
        put(4, &self.mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.place.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.uid.to_le_bytes());
        put(28, &self.gid.to_le_bytes());
        put(32, &self.mtime.0.to_le_bytes());
        put(40, &self.mtime.1.to_le_bytes());
        put(LINKS_AT as usize, &self.links.to_le_bytes());
        bytes
    }

    /// `None` for a form that is never written here.
    pub(crate) fn decode(bytes: &[u8; INODE]) -> Option<Self> {
        let format = u16_at(bytes, 0);
        let count = usize::from(u16_at(bytes, 2));
        (format & 1 == 1).then_some(())?;
        Some(Self {
            layout: Layout::of(format >> 1 & 7)?,
            xattr_bytes: if count == 0 { 0 } else { 12 + 4 * (count - 1) },
            mode: u16_at(bytes, 4),
            size: u64_at(bytes, 8),
            place: u32_at(bytes, 16),
            number: u32_at(bytes, 20),
            uid: u32_at(bytes, 24),
            gid: u32_at(bytes, 28),
            mtime: (u64_at(bytes, 32).cast_signed(), u32_at(bytes, 40)),
            links: u32_at(bytes, LINKS_AT as usize),
        })
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// What the superblock says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Super {
    pub(crate) inodes: u64,
    pub(crate) blocks: u32,
    pub(crate) chunked: bool,
    pub(crate) uuid: [u8; 16],
}

impl Super {
    /// The superblock, checksummed together with `rest`, which is what follows it in block 0.
    pub(crate) fn encode(&self, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPAT_CHECKSUM_MTIME.to_le_bytes());
        put(12, &[12]);
        put(14, &(ROOT_NID as u16).to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(48, &self.uuid);
        put(80, &(if self.chunked { INCOMPAT_CHUNKED } else { 0 }).to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.resize(BLOCK as usize - SUPER, 0);
        let sum = crc32c(&bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads block 0 from [`SUPER`] on; `None` if it is none of ours or its checksum is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut copy = bytes.get(..BLOCK as usize - SUPER)?.to_vec();
        copy[4..8].fill(0);
        let known = u32_at(bytes, 0) == MAGIC && bytes[12] == 12 && u16_at(bytes, 14) == ROOT_NID as u16;
        (known && crc32c(&copy) == u32_at(bytes, 4)).then(|| Self {
            inodes: u64_at(bytes, 16),
            blocks: u32_at(bytes, 36),
            chunked: u32_at(bytes, 80) & INCOMPAT_CHUNKED != 0,
            uuid: bytes[48..64].try_into().unwrap_or_default(),
        })
    }
}

/// CRC-32C as the kernel's `crc32c(~0, …)`: without the final inversion.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82F6_3B78 } else { sum >> 1 })
    })
}

/// Prefixes that the format keeps as a number.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// The attributes behind an inode; empty for none, `None` if the format cannot hold them.
pub(crate) fn xattr_body(xattrs: &[(&[u8], &[u8])]) -> Option<Vec<u8>> {
    if xattrs.is_empty() {
        return Some(Vec::new());
    }
    let mut body = vec![0; 12];
    for (name, value) in xattrs {
        let (index, prefix) = PREFIXES.iter().find(|(_, prefix)| name.starts_with(prefix))?;
        let rest = &name[prefix.len()..];
        body.extend([u8::try_from(rest.len()).ok()?, *index]);
        body.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        body.extend_from_slice(rest);
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    ((body.len() - 12) / 4 < usize::from(u16::MAX)).then_some(body)
}

/// Names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The reverse of [`xattr_body`]; `None` for what it does not write.
pub(crate) fn xattrs(body: &[u8]) -> Option<Xattrs> {
    let mut found = Vec::new();
    let mut at = 12;
    while at < body.len() {
        let head = body.get(at..at + 4)?;
        let (name, value) = (usize::from(head[0]), usize::from(u16_at(head, 2)));
        let (_, prefix) = PREFIXES.iter().find(|(index, _)| *index == head[1])?;
        let rest = body.get(at + 4..at + 4 + name)?;
        found.push(([prefix, rest].concat(), body.get(at + 4 + name..at + 4 + name + value)?.to_vec()));
        at += (4 + name + value).next_multiple_of(4);
    }
    Some(found)
}

/// The device number as an inode keeps it; `None` beyond 12 and 20 bits.
pub(crate) fn device(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// The reverse of [`device`].
pub(crate) fn major_minor(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & !0xff)
}

/// The type of a directory entry for a mode.
pub(crate) fn file_type(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}

/// Directory entries, sorted, as blocks: (inode number, type, name). The last block ends with its last name.
pub(crate) fn dirents<'a>(entries: impl Iterator<Item = (u64, u8, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut block, mut names): (Vec<(u64, u8, usize)>, Vec<u8>) = (Vec::new(), Vec::new());
    for (nid, kind, name) in entries {
        if (block.len() + 1) * DIRENT + names.len() + name.len() > BLOCK as usize {
            close(&mut out, &mut block, &mut names);
            out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        }
        block.push((nid, kind, names.len()));
        names.extend_from_slice(name);
    }
    close(&mut out, &mut block, &mut names);
    out
}

fn close(out: &mut Vec<u8>, block: &mut Vec<(u64, u8, usize)>, names: &mut Vec<u8>) {
    let first = block.len() * DIRENT;
    for (nid, kind, name) in block.drain(..) {
        out.extend(nid.to_le_bytes());
        out.extend(((first + name) as u16).to_le_bytes());
        out.extend([kind, 0]);
    }
    out.append(names);
}

/// Bytes that [`dirents`] makes of names of these lengths.
pub(crate) fn dirents_size(names: impl Iterator<Item = usize>) -> u64 {
    let (mut blocks, mut used) = (0, 0);
    for name in names {
        if used + DIRENT + name > BLOCK as usize {
            (blocks, used) = (blocks + 1, 0);
        }
        used += DIRENT + name;
    }
    blocks * BLOCK + used as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 70_000), (4095, (1 << 20) - 1)] {
            assert_eq!(major_minor(device(major, minor).unwrap()), (major, minor));
        }
        assert!(device(4096, 0).is_none() && device(0, 1 << 20).is_none());
        let attributes = Attributes { uid: 70_000, gid: 1, mode: 0o4755, mtime: (-5, 999_999_999) };
        let mut inode = Inode::new(0o100_000, &attributes, 12 + 4 * 7, 9);
        (inode.layout, inode.size, inode.place, inode.links) = (Layout::Chunks, 1 << 40, 77, 3);
        assert_eq!(Inode::decode(&inode.encode()).unwrap(), inode);
        let sb = Super { inodes: 4, blocks: 9, chunked: true, uuid: [7; 16] };
        let mut bytes = sb.encode(b"root");
        assert_eq!(Super::decode(&bytes).unwrap(), sb);
        bytes[200] ^= 1;
        assert!(Super::decode(&bytes).is_none());
    }

    #[test]
    fn checksum_is_the_castagnoli_one() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn attributes_survive() {
        let long = vec![b'v'; 65_535];
        let all: Vec<(&[u8], &[u8])> = vec![
            (b"user.a", b"1"),
            (b"security.capability", b"\x01\0"),
            (b"system.posix_acl_access", b"x"),
            (b"trusted.t", &long),
            (b"user.empty", b""),
        ];
        let body = xattr_body(&all).unwrap();
        let back = xattrs(&body).unwrap();
        assert!(back.iter().zip(&all).all(|(a, b)| a.0 == b.0 && a.1 == b.1) && back.len() == all.len());
        assert!(xattr_body(&[(b"user.a", &vec![0; 65_536])]).is_none());
        assert!(xattr_body(&[(b"system.other", b"")]).is_none());
        assert_eq!(xattr_body(&[]).unwrap(), b"");
    }

    #[test]
    fn directory_blocks() {
        let names: Vec<String> = (0..500).map(|n| format!("{n:04}{}", "x".repeat(n % 60))).collect();
        let entries = || names.iter().enumerate().map(|(n, name)| (n as u64 + 40, 1, name.as_bytes()));
        let bytes = dirents(entries());
        assert_eq!(bytes.len() as u64, dirents_size(names.iter().map(String::len)));
        let mut back = Vec::new();
        for block in bytes.chunks(BLOCK as usize) {
            back.extend(crate::erofs::read::entries(block).unwrap());
        }
        assert!(back.iter().map(|(nid, kind, name)| (*nid, *kind, name.as_slice())).eq(entries()));
    }
}
