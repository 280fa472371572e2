//! The root filesystem as a copy of the image's layers, where overlays cannot be used: blocks are shared where the
//! filesystem can share them (FICLONE: btrfs, xfs), holes stay holes, hard links are kept within a layer.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::disk;
use crate::error::{Context, Result};
use crate::rootfs::shift::Shift;
use crate::space::open_below;
use crate::unpack::directory::Directory;
use crate::unpack::implied;
use crate::unpack::target::{Look, Stands, Target as _};
use crate::unpack::tree::{Place, is_whiteout};

/// Copies one layer, seen as a directory in overlayfs form, over what is in `into`. The look of its root counts only if
/// `root`.
///
/// # Errors
/// [`Kind::System`](crate::Kind::System) for the disk.
pub(crate) fn layer(from: &Path, into: &mut Directory, root: bool, shift: Option<&Shift>) -> Result<()> {
    let start = disk::open_dir(from)?;
    let mut copying = Copying { into, shift, links: HashMap::new() };
    if root {
        let own =
            Place { dir: Rc::new(start.try_clone().context(|| "open the layer once more")?), name: c".".to_owned() };
        if let Some(stat) = own.stat()? {
            copying.directory(&own, &stat, b"")?;
        }
    }
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let Some(dir) = open_below(&start, if path.is_empty() { b"." } else { &path })? else { continue };
        let dir = Rc::new(dir);
        for entry in rustix::fs::Dir::read_from(&*dir).context(|| "read a directory")? {
            let name: CString = entry.context(|| "read a directory")?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let below =
                if path.is_empty() { name.to_bytes().to_vec() } else { [&path[..], b"/", name.to_bytes()].concat() };
            let own = Place { dir: dir.clone(), name };
            let Some(stat) = own.stat()? else { continue };
            copying.entry(&own, &stat, &below).context(|| format!("copy {:?}", String::from_utf8_lossy(&below)))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                todo.push(below);
            }
        }
    }
    Ok(())
}

struct Copying<'a> {
    into: &'a mut Directory,
    shift: Option<&'a Shift>,
    /// Files of this layer with several names.
    links: HashMap<u64, Vec<u8>>,
}

impl Copying<'_> {
    fn entry(&mut self, own: &Place, stat: &Stat, path: &[u8]) -> Result<()> {
        let parts = implied::components(path);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return self.directory(own, stat, path);
        }
        let place = self.into.place(&parts)?;
        if self.into.stands(&place)?.is_some() {
            self.into.remove(&place, &parts)?;
        }
        if is_whiteout(stat) {
            return Ok(());
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                let first = self.into.place(&implied::components(first))?;
                let place = self.into.place(&parts)?;
                return self.into.link(&first, &place);
            }
            self.links.insert(stat.st_ino, path.to_vec());
        }
        let xattrs = self.xattrs(own)?;
        let look = self.look(stat, &xattrs);
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let from = rustix::fs::openat(&own.dir, &own.name, flags, Mode::empty()).context(|| "open")?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.into.file_with(&place, &look, |to| data(&from, to, size)).map(drop)
            }
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(&own.dir, &own.name, Vec::new()).context(|| "read a link")?;
                self.into.symlink(&place, to.to_bytes(), &look).map(drop)
            }
            _ => {
                let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.into.node(&place, kind, device, &look).map(drop)
            }
        }
    }

    /// A directory keeps what lower layers have put into it, unless it is opaque.
    fn directory(&mut self, own: &Place, stat: &Stat, path: &[u8]) -> Result<()> {
        let parts = implied::components(path);
        let xattrs = self.xattrs(own)?;
        let opaque = xattrs.iter().any(|(name, value)| name == b"trusted.overlay.opaque" && value == b"y");
        let look = self.look(stat, &xattrs);
        if parts.is_empty() {
            let place = self.into.root()?;
            return self.into.dress(&place, &parts, &look);
        }
        let place = self.into.place(&parts)?;
        if self.into.stands(&place)?.is_some_and(|there| opaque || there != Stands::Directory) {
            self.into.remove(&place, &parts)?;
        }
        self.into.make_directory(&place)?;
        self.into.dress(&place, &parts, &look)
    }

    fn xattrs(&self, own: &Place) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = own.xattrs()?;
        if let Some(shift) = self.shift {
            let capability = all.iter_mut().find(|(name, _)| name == b"security.capability");
            capability.into_iter().for_each(|(_, value)| *value = shift.capability(value));
        }
        Ok(all)
    }

    fn look<'x>(&self, stat: &Stat, xattrs: &'x [(Vec<u8>, Vec<u8>)]) -> Look<'x> {
        let attributes = implied::look(stat);
        let kept = xattrs.iter().filter(|(name, _)| !name.starts_with(b"trusted.overlay."));
        Look {
            attributes: self.shift.map_or(attributes, |shift| shift.apply(attributes)),
            xattrs: kept.map(|(name, value)| (name.as_slice(), value.as_slice())).collect(),
        }
    }
}

/// Fills `to`: by sharing blocks if possible, else piece by piece without the holes.
fn data(from: &OwnedFd, to: &mut File, size: u64) -> Result<()> {
    if size == 0 || rustix::fs::ioctl_ficlone(&*to, from).is_ok() {
        return Ok(());
    }
    to.set_len(size).context(|| "set the size")?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // A filesystem without holes.
            Err(Errno::INVAL) => at,
            other => other.context(|| "seek")?,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        piece(from, to, start, end)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn piece(from: &OwnedFd, to: &File, start: u64, end: u64) -> Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let most = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), most) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => return by_hand(from, to, read, end),
            Err(why) => return Err(why).context(|| "copy"),
        }
    }
    Ok(())
}

fn by_hand(from: &OwnedFd, to: &File, mut at: u64, end: u64) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let from = File::from(from.try_clone().context(|| "open the file once more")?);
    let mut buffer = vec![0; 256 << 10];
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = from.read_at(&mut buffer[..most], at).context(|| "read")?;
        if count == 0 {
            break;
        }
        to.write_all_at(&buffer[..count], at).context(|| "write")?;
        at += count as u64;
    }
    Ok(())
}
