//! A tar archive as a stream of entries: headers, their GNU and pax extensions, and each entry's data.
//!
//! There is one source for the size of an entry: pax `size` if present, else the header; if both speak and
//! contradict each other the archive is refused (CVE-2025-62518 came from two parts that chose differently).
//! Entries that carry no data in one reader and data in another are refused as well.

use std::io::BufRead;

use crate::error::{Context, Error, Kind, Result};
use crate::unpack::header::{self, BLOCK, Flag, Fragments, Header};
use crate::unpack::pax::{self, Pax};
use crate::unpack::whiteout::show;

/// Bytes of one extension header; Linux paths end at 4096, attributes at 64 KiB each.
const MAX_EXTENSION: u64 = 1 << 20;
/// Fragments of one sparse file.
const MAX_FRAGMENTS: usize = 1 << 19;

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Type {
    /// A file with data.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A character device, major and minor.
    Char(u32, u32),
    /// A block device, major and minor.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry, all extensions applied.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The path as stored.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Type,
    /// Target of a hard or symbolic link, as stored.
    pub link: Vec<u8>,
    /// Permission bits including setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time: seconds, nanoseconds.
    pub mtime: (i64, u32),
    /// Size of the file, holes included.
    pub size: u64,
    /// For a sparse file its (offset, length) fragments; data holds them one after the other.
    pub fragments: Option<Fragments>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads an archive from `R`.
pub struct Archive<R> {
    source: R,
    /// Data of the current entry not read yet, and the padding behind it.
    left: u64,
    padding: u64,
    ended: bool,
}

#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, format!("tar: {}", why.into()))
}

impl<R: BufRead> Archive<R> {
    /// Starts at the first header.
    pub fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, ended: false }
    }

    /// The next entry; what was left of the one before is skipped. `None` at the end of the archive.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for anything malformed or ambiguous; errors of the source keep their kind.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some((block, header)) = self.header()? else {
                return match extensions.is_empty() {
                    true => Ok(None),
                    false => Err(refuse("an extension header without an entry")),
                };
            };
            match header.flag {
                Flag::GnuLongName | Flag::GnuLongLink | Flag::Pax | Flag::PaxGlobal => {
                    let data = self.extension(header.size)?;
                    extensions.take(header.flag, &data)?;
                }
                _ => return self.entry(&block, header, extensions).map(Some),
            }
        }
    }

    /// Whatever data of the current entry is buffered; empty at its end. Pair with [`Archive::consume`].
    ///
    /// # Errors
    /// Those of the source; [`Kind::Invalid`] if it ends early.
    pub fn data(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let buffered = self.source.fill_buf().context(|| "tar")?;
        if buffered.is_empty() {
            return Err(refuse("the archive ends inside an entry"));
        }
        let count = buffered.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        Ok(&buffered[..count])
    }

    /// Marks `count` bytes out of [`Archive::data`] as read.
    pub fn consume(&mut self, count: usize) {
        self.source.consume(count);
        self.left -= count as u64;
    }

    /// The source, as far as it has been read.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The source, behind the archive's end.
    pub fn into_source(self) -> R {
        self.source
    }

    fn skip_rest(&mut self) -> Result<()> {
        while self.left > 0 {
            let count = self.data()?.len();
            self.consume(count);
        }
        // umoci never closes its archives: the last file may lack its padding, as every Go program reads it.
        let mut padding = std::mem::take(&mut self.padding);
        while padding > 0 {
            let count = self.source.fill_buf().context(|| "tar")?.len().min(padding as usize);
            if count == 0 {
                self.ended = true;
                break;
            }
            self.source.consume(count);
            padding -= count as u64;
        }
        Ok(())
    }

    /// The next header block, or `None` at a block of zeros or a clean end of the stream.
    fn header(&mut self) -> Result<Option<([u8; BLOCK], Header)>> {
        if self.ended {
            return Ok(None);
        }
        if self.source.fill_buf().context(|| "tar")?.is_empty() {
            self.ended = true;
            return Ok(None);
        }
        let block = self.block()?;
        if header::is_end(&block) {
            self.ended = true;
            self.second_end()?;
            return Ok(None);
        }
        let header = header::parse(&block)?;
        self.expect(header.size);
        Ok(Some((block, header)))
    }

    /// Two blocks of zeros end an archive, and what follows them is nobody's. Behind a single one GNU tar
    /// and Python stop, and Go refuses the archive: so only the end of the stream may follow it.
    fn second_end(&mut self) -> Result<()> {
        let mut left = BLOCK;
        while left > 0 {
            let piece = self.source.fill_buf().context(|| "tar")?;
            let count = piece.len().min(left);
            if count == 0 {
                break;
            }
            if piece[..count].iter().any(|byte| *byte != 0) {
                return Err(refuse("a single block of zeros inside the archive"));
            }
            self.source.consume(count);
            left -= count;
        }
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        self.source
            .read_exact(&mut block)
            .map_err(|why| match why.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    crate::error::through_io(refuse("the archive ends inside a header"))
                }
                _ => why,
            })
            .context(|| "tar")?;
        Ok(block)
    }

    /// Sets how much data follows the header just read.
    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            let why = format!("tar: an extension header of {size} bytes, more than {MAX_EXTENSION}");
            return Err(Error::new(Kind::TooLarge, why));
        }
        let mut data = Vec::with_capacity(size as usize);
        while self.left > 0 {
            let piece = self.data()?;
            let count = piece.len();
            data.extend_from_slice(piece);
            self.consume(count);
        }
        Ok(data)
    }

    fn entry(&mut self, block: &[u8; BLOCK], header: Header, extensions: Extensions) -> Result<Entry> {
        let pax = extensions.pax.unwrap_or_default();
        if pax.path.is_some() && extensions.name.is_some() || pax.link.is_some() && extensions.link.is_some() {
            return Err(refuse("a path both in a pax and in a GNU header"));
        }
        let path = pax.path.clone().or(extensions.name).unwrap_or(header.path.clone());
        check_slash(&header, &path)?;
        let kind = kind(&header, &path);
        let stored = stored_size(&header, kind, pax.size, &path)?;
        self.expect(stored);
        let (size, fragments) = self.sparse(block, &header, &pax, stored)?;
        if path.is_empty() {
            return Err(refuse("an entry without a name"));
        }
        Ok(Entry {
            path,
            kind,
            link: pax.link.or(extensions.link).unwrap_or(header.link),
            mode: header.mode & 0o7777,
            uid: pax.uid.unwrap_or(header.uid),
            gid: pax.gid.unwrap_or(header.gid),
            mtime: pax.mtime.unwrap_or((header.mtime, 0)),
            size,
            fragments,
            xattrs: pax.xattrs,
        })
    }

    /// The real size and the fragments of the entry, for whichever of the four sparse forms it has.
    fn sparse(
        &mut self,
        block: &[u8; BLOCK],
        header: &Header,
        pax: &Pax,
        stored: u64,
    ) -> Result<(u64, Option<Fragments>)> {
        let (size, map) = if header.flag == Flag::GnuSparse {
            let (mut map, mut more, size) = header::gnu_sparse(block)?;
            // The extension blocks stand between header and data and are not part of the size.
            while more {
                let (pairs, again) = header::gnu_sparse_more(&self.block()?)?;
                map.extend(pairs);
                more = again;
                check_fragments(map.len())?;
            }
            (size, map)
        } else if pax.sparse.major == Some(1) {
            let size = pax.sparse.real_size.ok_or_else(|| refuse("sparse file without a size"))?;
            (size, self.leading_map()?)
        } else if let Some(size) = pax.sparse.real_size {
            (size, pax.sparse.map.clone())
        } else if pax.sparse.map.is_empty() {
            return Ok((stored, None));
        } else {
            return Err(refuse("sparse map without a size"));
        };
        if !matches!(header.flag, Flag::GnuSparse | Flag::Regular | Flag::Old) {
            return Err(refuse("sparse records on what is no file"));
        }
        check_map(&map, size, self.left)?;
        Ok((size, Some(map)))
    }

    /// Form 1.0: decimal numbers, one a line, padded to a block, in front of the data.
    fn leading_map(&mut self) -> Result<Fragments> {
        let count = usize::try_from(self.number_line()?).unwrap_or(usize::MAX);
        check_fragments(count)?;
        let mut map = Vec::new();
        for _ in 0..count {
            map.push((self.number_line()?, self.number_line()?));
        }
        // The padding of the whole entry is known, so the map's own end is what aligns the rest.
        let aligned = (self.left + self.padding) % BLOCK as u64;
        for _ in 0..aligned {
            if self.data()?.is_empty() {
                return Err(refuse("sparse map without its padding"));
            }
            self.consume(1);
        }
        Ok(map)
    }

    fn number_line(&mut self) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            match self.data()?.first() {
                Some(b'\n') => break self.consume(1),
                Some(byte) if digits.len() < 20 => digits.push(*byte),
                _ => return Err(refuse("sparse map without an end")),
            }
            self.consume(1);
        }
        pax::decimal(&digits)
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.link.is_none() && self.pax.is_none()
    }

    fn take(&mut self, flag: Flag, data: &[u8]) -> Result<()> {
        let text = || data.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        let twice = match flag {
            Flag::GnuLongName => self.name.replace(text()).is_some(),
            Flag::GnuLongLink => self.link.replace(text()).is_some(),
            Flag::Pax => self.pax.replace(pax::parse(data)?).is_some(),
            _ => return pax::check_global(data),
        };
        match twice {
            true => Err(refuse("two extension headers of one kind before an entry")),
            false => Ok(()),
        }
    }
}

fn kind(header: &Header, path: &[u8]) -> Type {
    let (major, minor) = header.device;
    match header.flag {
        Flag::Old if path.ends_with(b"/") => Type::Directory,
        Flag::HardLink => Type::HardLink,
        Flag::Symlink => Type::Symlink,
        Flag::Char => Type::Char(major, minor),
        Flag::Block => Type::Block(major, minor),
        Flag::Directory => Type::Directory,
        Flag::Fifo => Type::Fifo,
        _ => Type::File,
    }
}

/// A slash at the end makes a directory for GNU tar and Go whatever the type, for Python only in old archives, and
/// there only the header's own name counts.
fn check_slash(header: &Header, path: &[u8]) -> Result<()> {
    let (final_slash, own_slash) = (path.ends_with(b"/"), header.path.ends_with(b"/"));
    let odd = match header.flag {
        Flag::Old => final_slash != own_slash,
        Flag::Regular | Flag::GnuSparse => final_slash,
        _ => false,
    };
    match odd {
        true => Err(refuse(format!("{}: a file whose name ends with a slash", show(path)))),
        false => Ok(()),
    }
}

/// How many bytes follow the header.
fn stored_size(header: &Header, kind: Type, pax: Option<u64>, path: &[u8]) -> Result<u64> {
    // A header cannot hold 8 GiB in octal; writers then leave zero or a cut number there.
    const OCTAL_END: u64 = 1 << 33;
    let size = match pax {
        Some(size) if size != header.size && size < OCTAL_END && header.size != 0 => {
            let name = show(path);
            return Err(refuse(format!("{name}: size {} in its header, {size} in its pax header", header.size)));
        }
        Some(size) => size,
        None => header.size,
    };
    match kind {
        Type::File => Ok(size),
        // Every reader agrees that a hard link has no data, though some writers repeat the file's size.
        Type::HardLink => Ok(0),
        _ if size == 0 => Ok(0),
        _ => Err(refuse(format!("{}: {size} bytes of data behind what is no file", show(path)))),
    }
}

fn check_fragments(count: usize) -> Result<()> {
    match count <= MAX_FRAGMENTS {
        true => Ok(()),
        false => Err(Error::new(Kind::TooLarge, format!("tar: a sparse file of more than {MAX_FRAGMENTS} fragments"))),
    }
}

/// Fragments in order, apart, inside the file, and together as long as the data.
fn check_map(map: &[(u64, u64)], size: u64, stored: u64) -> Result<()> {
    let mut at = 0u64;
    let mut sum = 0u64;
    for (offset, length) in map {
        let end = offset.checked_add(*length).ok_or_else(|| refuse("sparse map overflows"))?;
        if *offset < at || end > size {
            return Err(refuse("sparse map out of order or beyond the file"));
        }
        at = end;
        sum += length;
    }
    match sum == stored {
        true => Ok(()),
        false => Err(refuse("sparse map and data differ in length")),
    }
}
