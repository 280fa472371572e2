//! Entries of a layer out of files on disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};

use crate::error::{Context, Error, Kind, Result};
use crate::layout::archive::{Item, write_header};
use crate::rootfs::shift::Shift;
use crate::space::open_below;
use crate::unpack::header::BLOCK;
use crate::unpack::tree::{Attributes, Place};
use crate::unpack::{apply, implied};

/// Pieces of one sparse file; one with more is written with its holes.
const MOST_PIECES: usize = 1 << 16;

/// Names and values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Writes entries.
pub(super) struct Emit<'a> {
    shift: Option<&'a Shift>,
    out: &'a mut dyn Write,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// What is done with a place.
type Visit<'a> = dyn FnMut(&Place, &Stat, &[u8]) -> Result<bool> + 'a;

/// Calls `visit` for the root (an empty path) and everything below it, a directory before what is in it; `visit` says
/// whether to go into a directory. Names are sorted. Follows nothing.
pub(super) fn walk(root: OwnedFd, visit: &mut Visit<'_>) -> Result<()> {
    let stat = rustix::fs::fstat(&root).context(|| "stat the root")?;
    let own = Rc::new(root.try_clone().context(|| "open the root once more")?);
    if !visit(&Place { dir: own, name: c".".to_owned() }, &stat, b"")? {
        return Ok(());
    }
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let what = || format!("read directory {:?}", String::from_utf8_lossy(&path));
        let lost = || Error::new(Kind::Unsupported, format!("{}: it is gone, or its path is too long", what()));
        let dir = open_below(&root, if path.is_empty() { b"." } else { &path })?.ok_or_else(lost)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&dir).context(what)? {
            let entry = entry.context(what)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        let (dir, mut below) = (Rc::new(dir), Vec::new());
        for name in names {
            let own = match path.is_empty() {
                true => name.to_bytes().to_vec(),
                false => [&path[..], b"/", name.to_bytes()].concat(),
            };
            let place = Place { dir: dir.clone(), name };
            let Some(stat) = place.stat()? else { continue };
            let enter = visit(&place, &stat, &own).context(|| format!("{:?}", String::from_utf8_lossy(&own)))?;
            if enter && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                below.push(own);
            }
        }
        todo.extend(below.into_iter().rev());
    }
    Ok(())
}

impl<'a> Emit<'a> {
    pub(super) fn new(shift: Option<&'a Shift>, out: &'a mut dyn Write) -> Self {
        Self { shift, out, links: HashMap::new() }
    }

    /// Owner, mode and time, as the image is to say them.
    pub(super) fn look(&self, stat: &Stat) -> Attributes {
        let look = implied::look(stat);
        self.shift.map_or(look, |shift| shift.undo(look))
    }

    /// The attributes that belong into an image.
    pub(super) fn xattrs(&self, place: &Place) -> Result<Xattrs> {
        let mut all = place.xattrs()?;
        all.retain(|(name, _)| apply::keeps(name));
        if self.shift.is_some() {
            let capability = all.iter_mut().find(|(name, _)| name == b"security.capability");
            capability.into_iter().for_each(|(_, value)| *value = Shift::plain_capability(value));
        }
        all.sort();
        Ok(all)
    }

    /// A name that is no more.
    pub(super) fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        self.marker(&[&path[..at], b".wh.", &path[at..]].concat())
    }

    /// A directory that hides what was in it.
    pub(super) fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.marker(&[path, if path.is_empty() { b"" } else { b"/" }, b".wh..wh..opq"].concat())
    }

    fn marker(&mut self, path: &[u8]) -> Result<()> {
        write_header(&Item { path, flag: b'0', ..Item::default() }, self.out)
    }

    /// What stands at a place, with its data; a further name of something written already becomes a link.
    pub(super) fn entry(&mut self, place: &Place, stat: &Stat, path: &[u8]) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(Kind::Unsupported, why.to_owned()));
        if path.split(|b| *b == b'/').any(|name| name.starts_with(b".wh.")) {
            return refuse("its name would be taken for a whiteout");
        }
        if path.len() > 4095 {
            return refuse("its path has more than 4095 bytes");
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (look, xattrs) = (self.look(stat), self.xattrs(place)?);
        let named = match (kind, path) {
            (FileType::Directory, b"") => b"./".to_vec(),
            (FileType::Directory, _) => [path, b"/"].concat(),
            _ => path.to_vec(),
        };
        let (uid, gid, mtime) = (look.uid, look.gid, look.mtime);
        let mut item = Item { path: &named, mode: look.mode, uid, gid, mtime, xattrs: &xattrs, ..Item::default() };
        let first;
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(known) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                first = known.clone();
                (item.flag, item.link, item.xattrs) = (b'1', &first, &[]);
                return write_header(&item, self.out);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let target;
        item.flag = match kind {
            FileType::RegularFile => return self.file(place, stat, item),
            FileType::Directory => b'5',
            FileType::Symlink => {
                target = rustix::fs::readlinkat(&place.dir, &place.name, Vec::new()).context(|| "read a link")?;
                item.link = target.to_bytes();
                b'2'
            }
            FileType::CharacterDevice => b'3',
            FileType::BlockDevice => b'4',
            FileType::Fifo => b'6',
            _ => {
                tracing::warn!(path = %String::from_utf8_lossy(path), "a socket is left out of a layer");
                return Ok(());
            }
        };
        if matches!(item.flag, b'3' | b'4') {
            item.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        write_header(&item, self.out)
    }

    fn file(&mut self, place: &Place, stat: &Stat, item: Item<'_>) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::openat(&place.dir, &place.name, flags, Mode::empty()).context(|| "open")?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let holes = u64::try_from(stat.st_blocks).unwrap_or(0) * 512 < size;
        let pieces = if holes { pieces(&file, size)? } else { None };
        let Some(pieces) = pieces.filter(|pieces| *pieces != [(0, size)]) else {
            write_header(&Item { flag: b'0', size, ..item }, self.out)?;
            self.copy(&file, 0, size)?;
            return self.pad(size);
        };
        // GNU's form 1.0: the map in decimal leads the data.
        let numbers = pieces.iter().flat_map(|(offset, length)| [*offset, *length]);
        let mut map = format!("{}\n", pieces.len());
        numbers.for_each(|number| map += &format!("{number}\n"));
        map.extend(std::iter::repeat_n('\0', map.len().next_multiple_of(BLOCK) - map.len()));
        let stored = map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>();
        let more = [
            ("GNU.sparse.major", b"1".to_vec()),
            ("GNU.sparse.minor", b"0".to_vec()),
            ("GNU.sparse.name", item.path.to_vec()),
            ("GNU.sparse.realsize", size.to_string().into_bytes()),
        ];
        write_header(&Item { flag: b'0', size: stored, more: &more, ..item }, self.out)?;
        self.out.write_all(map.as_bytes()).context(|| "write the layer")?;
        pieces.iter().try_for_each(|(offset, length)| self.copy(&file, *offset, *length))?;
        self.pad(stored)
    }

    fn copy(&mut self, file: &File, mut at: u64, length: u64) -> Result<()> {
        let end = at + length;
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(256 << 10)];
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let count = file.read_at(&mut buffer[..most], at).context(|| "read")?;
            if count == 0 {
                return Err(Error::new(Kind::System, "the file became shorter while it was read"));
            }
            self.out.write_all(&buffer[..count]).context(|| "write the layer")?;
            at += count as u64;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        self.out.write_all(&[0; BLOCK][..padding as usize]).context(|| "write the layer")
    }

    pub(super) fn end(self) -> Result<()> {
        self.out.write_all(&[0; 2 * BLOCK]).and_then(|()| self.out.flush()).context(|| "write the layer")
    }
}

/// Where a file has data: (offset, length); `None` if there are too many pieces to say.
fn pieces(file: &impl AsFd, size: u64) -> Result<Option<Vec<(u64, u64)>>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => return Ok(None),
            other => other.context(|| "seek")?,
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).context(|| "seek")?.min(size);
        if start >= end || found.len() == MOST_PIECES {
            return Ok(None);
        }
        found.push((start, end - start));
        at = end;
    }
    Ok(Some(found))
}
