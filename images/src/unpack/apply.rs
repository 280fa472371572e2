//! Carries out the entries of a layer, one small function a kind.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::fault;
use crate::unpack::tar::{Archive, Entry, Type};
use crate::unpack::tree::{self, Attributes, Place, Tree, is_whiteout};
use crate::unpack::whiteout::{self, Components, Meaning};

const BLOCK: u64 = 4096;
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// How a layer is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Nothing lies below this layer, so whiteouts hide nothing and are left out: overlayfs shows the markers of a
    /// lowest layer as broken files.
    pub lowest: bool,
    /// Entries beyond which the layer is refused.
    pub entries: u64,
}

/// What unpacking a layer found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Bytes that the entries take on disk: data without holes in whole blocks of 4 KiB, a block for each directory.
    pub bytes: u64,
    /// Entries made.
    pub inodes: u64,
    /// Whiteouts and opaque markers met, written or left out.
    pub whiteouts: u64,
    /// Directories that hold whiteouts.
    pub whited: BTreeSet<Vec<u8>>,
    /// The root directory has an entry of its own.
    pub root: bool,
    /// Directories without an entry of their own, the root apart; over a lower layer they must look like its
    /// directory.
    pub implied: BTreeSet<Vec<u8>>,
}

/// Unpacks `archive` into the directory `root`.
///
/// # Errors
/// [`Kind::Invalid`] for a malformed or hostile archive, [`Kind::TooLarge`] beyond `options.entries`,
/// [`Kind::System`] for the disk; errors of the source keep their kind.
pub fn unpack<R: BufRead>(archive: &mut Archive<R>, root: OwnedFd, options: Options) -> Result<Summary> {
    let mut layer = Layer {
        tree: Tree::new(root),
        options,
        times: BTreeMap::new(),
        opaque: BTreeSet::new(),
        summary: Summary::default(),
    };
    while let Some(entry) = archive.next_entry()? {
        layer.count()?;
        fault::point("unpack an entry").context(|| "unpack")?;
        layer
            .apply(archive, &entry)
            .map_err(|why| why.within(format!("unpack {:?}", String::from_utf8_lossy(&entry.path))))?;
    }
    layer.finish()
}

struct Layer {
    tree: Tree,
    options: Options,
    /// Times of directories, set last: every entry made inside one changes them.
    times: BTreeMap<Vec<u8>, (i64, u32)>,
    opaque: BTreeSet<Vec<u8>>,
    summary: Summary,
}

impl Layer {
    fn count(&mut self) -> Result<()> {
        self.summary.inodes += 1;
        match self.summary.inodes > self.options.entries {
            true => Err(Error::new(Kind::TooLarge, format!("more than {} entries", self.options.entries))),
            false => Ok(()),
        }
    }

    fn apply<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry) -> Result<()> {
        match whiteout::meaning(&entry.path)? {
            Meaning::Skip => Ok(()),
            Meaning::Opaque(parts) => self.make_opaque(&parts),
            Meaning::Whiteout(parts) => self.whiteout(&parts),
            Meaning::Entry(parts) if parts.is_empty() => self.root(entry),
            Meaning::Entry(parts) => match entry.kind {
                Type::File => self.file(archive, entry, &parts),
                Type::Directory => self.directory(entry, &parts),
                Type::Symlink => self.symlink(entry, &parts),
                Type::HardLink => self.hard_link(entry, &parts),
                // The marker itself, in an archive of an unpacked overlay directory.
                Type::Char(0, 0) => self.whiteout(&parts),
                Type::Char(major, minor) => self.node(entry, &parts, FileType::CharacterDevice, (major, minor)),
                Type::Block(major, minor) => self.node(entry, &parts, FileType::BlockDevice, (major, minor)),
                Type::Fifo => self.node(entry, &parts, FileType::Fifo, (0, 0)),
            },
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Type::Directory {
            return Err(Error::new(Kind::Invalid, "the layer's root is no directory"));
        }
        // `.` is a name like any other to the *at calls.
        let place = Place { dir: self.tree.directory(&[])?, name: c".".to_owned() };
        self.summary.root = true;
        self.finish_directory(entry, &place, Vec::new())
    }

    fn directory(&mut self, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        let place = self.tree.place(parts)?;
        match rustix::fs::mkdirat(&place.dir, &place.name, Mode::from(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => self.replace_by_directory(&place, parts)?,
            Err(why) => return Err(why).context(|| "mkdir"),
        }
        self.finish_directory(entry, &place, parts.join(&b'/'))
    }

    fn finish_directory(&mut self, entry: &Entry, place: &Place, path: Vec<u8>) -> Result<()> {
        let attributes = attributes(entry)?;
        self.summary.bytes += BLOCK;
        place.set_owner(&attributes)?;
        set_xattrs(place, entry)?;
        place.set_mode(attributes.mode)?;
        self.tree.implied.remove(&path);
        self.times.insert(path, attributes.mtime);
        Ok(())
    }

    /// A directory where something exists: another directory keeps its content, all else gives way. A whiteout
    /// that gives way still hides what is below.
    fn replace_by_directory(&mut self, place: &Place, parts: &Components<'_>) -> Result<()> {
        let Some(stat) = place.stat()? else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        let hides = is_whiteout(&stat);
        self.remove(place, parts)?;
        rustix::fs::mkdirat(&place.dir, &place.name, Mode::from(0o700)).context(|| "mkdir")?;
        match hides {
            true => self.make_opaque(parts),
            false => Ok(()),
        }
    }

    fn file<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        let place = self.tree.place(parts)?;
        let mut file = match place.create() {
            Err(Errno::EXIST) => {
                self.remove(&place, parts)?;
                place.create()
            }
            other => other,
        }
        .context(|| "create")?;
        self.summary.bytes += write_data(archive, entry, &mut file)?.next_multiple_of(BLOCK);
        let attributes = attributes(entry)?;
        let owner = (rustix::fs::Uid::from_raw(attributes.uid), rustix::fs::Gid::from_raw(attributes.gid));
        rustix::fs::fchown(&file, Some(owner.0), Some(owner.1)).context(|| "chown")?;
        // After the data and the owner: writing and chown both drop security.capability.
        for (name, value) in kept_xattrs(entry) {
            tolerate(rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()), name)?;
        }
        rustix::fs::fchmod(&file, Mode::from(attributes.mode)).context(|| "chmod")?;
        rustix::fs::futimens(&file, &tree::timestamps(attributes.mtime)).context(|| "set the time")
    }

    fn symlink(&mut self, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(Error::new(Kind::Invalid, "a symbolic link without a target"));
        }
        let place = self.fresh(parts)?;
        rustix::fs::symlinkat(entry.link.as_slice(), &place.dir, &place.name).context(|| "symlink")?;
        set_xattrs(&place, entry)?;
        place.set_attributes(&attributes(entry)?, true)
    }

    fn node(&mut self, entry: &Entry, parts: &Components<'_>, kind: FileType, device: (u32, u32)) -> Result<()> {
        let place = self.fresh(parts)?;
        place.node(kind, device).context(|| "mknod")?;
        set_xattrs(&place, entry)?;
        place.set_attributes(&attributes(entry)?, false)
    }

    /// A further name for an inode of this layer. Its attributes are those of the first name.
    fn hard_link(&mut self, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        let refuse = |why: &str| {
            Error::new(Kind::Invalid, format!("hard link to {:?}: {why}", String::from_utf8_lossy(&entry.link)))
        };
        let target = whiteout::components(&entry.link)?;
        if target.is_empty() || target == *parts {
            return Err(refuse("it is the link itself or the root"));
        }
        let missing = || refuse("no such file in this layer");
        let target = self.tree.find(&target)?.ok_or_else(missing)?;
        let stat = target.stat()?.filter(|stat| !is_whiteout(stat)).ok_or_else(missing)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(refuse("it is a directory"));
        }
        let place = self.tree.place(parts)?;
        if let Some(own) = place.stat()? {
            if (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino) {
                return Ok(());
            }
            self.remove(&place, parts)?;
        }
        rustix::fs::linkat(&target.dir, &target.name, &place.dir, &place.name, AtFlags::empty()).context(|| "link")
    }

    /// The place of a path with nothing there.
    fn fresh(&mut self, parts: &Components<'_>) -> Result<Place> {
        let place = self.tree.place(parts)?;
        if place.stat()?.is_some() {
            self.remove(&place, parts)?;
        }
        Ok(place)
    }

    /// Removes an entry and what is remembered about it and below it.
    fn remove(&mut self, place: &Place, parts: &Components<'_>) -> Result<()> {
        self.tree.remove(place)?;
        let path = parts.join(&b'/');
        let below =
            |other: &[u8]| other.strip_prefix(path.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        self.times.retain(|other, _| !below(other));
        self.opaque.retain(|other| !below(other));
        self.tree.implied.retain(|other| !below(other));
        Ok(())
    }

    fn whiteout(&mut self, parts: &Components<'_>) -> Result<()> {
        self.summary.whiteouts += 1;
        if self.options.lowest || parts.is_empty() {
            return Ok(());
        }
        let place = self.tree.place(parts)?;
        match place.stat()? {
            None => {
                self.summary.whited.insert(parts[..parts.len() - 1].join(&b'/'));
                place.node(FileType::CharacterDevice, (0, 0)).context(|| "make a whiteout")
            }
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => self.make_opaque(parts),
            // What this layer has put there hides the lower file already.
            Some(_) => Ok(()),
        }
    }

    fn make_opaque(&mut self, parts: &Components<'_>) -> Result<()> {
        self.summary.whiteouts += 1;
        if self.options.lowest {
            return Ok(());
        }
        let place = Place { dir: self.tree.directory(parts)?, name: c".".to_owned() };
        place.set_xattr(OPAQUE, b"y").context(|| "mark a directory opaque")?;
        self.opaque.insert(parts.join(&b'/'));
        Ok(())
    }

    fn finish(mut self) -> Result<Summary> {
        for path in std::mem::take(&mut self.opaque) {
            self.clear_whiteouts(&path)?;
        }
        for path in &self.tree.implied {
            self.times.entry(path.clone()).or_insert((0, 0));
        }
        for (path, mtime) in std::mem::take(&mut self.times) {
            let parts: Components<'_> = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
            // A directory may have gone again, by way of a link that names it differently.
            if let Some(dir) = self.tree.existing(&parts)? {
                Place { dir, name: c".".to_owned() }.set_time(mtime)?;
            }
        }
        self.summary.implied = self.tree.implied;
        Ok(self.summary)
    }

    /// Nothing is merged below an opaque directory, and overlayfs shows markers in unmerged directories.
    fn clear_whiteouts(&mut self, path: &[u8]) -> Result<()> {
        let parts: Components<'_> = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
        match self.tree.existing(&parts)? {
            Some(dir) => tree::clear_whiteouts(&dir, true),
            None => Ok(()),
        }
    }
}

fn attributes(entry: &Entry) -> Result<Attributes> {
    // The id -1 means "leave it" to chown.
    let id = |value: u64, what: &str| {
        let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| Error::new(Kind::Invalid, format!("{what} {value} is no id")))
    };
    let (uid, gid) = (id(entry.uid, "uid")?, id(entry.gid, "gid")?);
    Ok(Attributes { uid, gid, mode: entry.mode, mtime: entry.mtime })
}

/// Copies the entry's data into `file`; fragments of a sparse file to their places.
fn write_data<R: BufRead>(archive: &mut Archive<R>, entry: &Entry, file: &mut std::fs::File) -> Result<u64> {
    let Some(fragments) = &entry.fragments else {
        return copy(archive, file, u64::MAX);
    };
    let mut written = 0;
    for (offset, length) in fragments {
        file.seek(SeekFrom::Start(*offset)).context(|| "seek")?;
        written += copy(archive, file, *length)?;
    }
    file.set_len(entry.size).context(|| "set the size")?;
    Ok(written)
}

fn copy<R: BufRead>(archive: &mut Archive<R>, file: &mut std::fs::File, most: u64) -> Result<u64> {
    let mut written = 0;
    while written < most {
        let data = archive.data()?;
        let count = data.len().min(usize::try_from(most - written).unwrap_or(usize::MAX));
        if count == 0 {
            break;
        }
        file.write_all(&data[..count]).context(|| "write")?;
        archive.consume(count);
        written += count as u64;
    }
    Ok(written)
}

/// Attributes that an image may bring. `trusted.overlay.*` would steer overlayfs itself (redirects to any file of a
/// lower layer), and labels of security modules belong to this host's policy.
fn kept_xattrs(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    let kept = |name: &[u8]| {
        name.starts_with(b"user.")
            || name == b"security.capability"
            || name == b"system.posix_acl_access"
            || name == b"system.posix_acl_default"
            || name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay.")
    };
    let all = entry.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    all.filter(move |(name, _)| kept(name) && !name.contains(&0))
}

fn set_xattrs(place: &Place, entry: &Entry) -> Result<()> {
    kept_xattrs(entry).try_for_each(|(name, value)| tolerate(place.set_xattr(name, value), name))
}

/// A filesystem without the attribute, or a kind of file that cannot have it (user.* on a link), is no failure.
fn tolerate(result: rustix::io::Result<()>, name: &[u8]) -> Result<()> {
    match result {
        Err(Errno::NOTSUP) => {
            tracing::warn!(xattr = %String::from_utf8_lossy(name), "the filesystem cannot store the attribute");
            Ok(())
        }
        Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        other => other.context(|| format!("set attribute {}", String::from_utf8_lossy(name))),
    }
}
