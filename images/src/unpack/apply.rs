//! DECIDES what the entries of a layer do to a tree, one small function a kind; [`Target`] carries it out.

use std::io::BufRead;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use crate::error::{Context, Error, Kind, Result};
use crate::fault;
use crate::unpack::borrowed::Borrowed;
use crate::unpack::directory::Directory;
use crate::unpack::names::Names;
use crate::unpack::tar::{Archive, Entry, Type};
use crate::unpack::target::{Look, Stands, Target};
use crate::unpack::tree::Attributes;
use crate::unpack::whiteout::{self, Components, Meaning};

const BLOCK: u64 = 4096;

/// How a layer is unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Nothing lies below this layer, so whiteouts hide nothing and are left out: overlayfs shows the markers of a
    /// lowest layer as broken files.
    pub lowest: bool,
    /// Entries beyond which the layer is refused; directories without an entry of their own count.
    pub entries: u64,
}

/// What unpacking a layer found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Bytes that the entries take on disk: data without holes in whole blocks of 4 KiB, a block for each directory.
    pub bytes: u64,
    /// Entries made, and directories that they implied.
    pub inodes: u64,
    /// Whiteouts and opaque markers met, written or left out.
    pub whiteouts: u64,
    /// Directories that hold whiteouts.
    pub whited: Names,
    /// The root directory has an entry of its own.
    pub root: bool,
    /// The root itself is opaque: nothing of the layers below is seen.
    pub hides_all: bool,
    /// Directories without an entry of their own, the root apart; over a lower layer they must look like its
    /// directory.
    pub implied: Names,
    /// Hard links to files of the layers below.
    pub borrowed: Borrowed,
}

/// Unpacks `archive` into the directory `root`.
///
/// # Errors
/// As [`write`].
pub fn unpack<R: BufRead>(archive: &mut Archive<R>, root: OwnedFd, options: Options) -> Result<Summary> {
    write(archive, &mut Directory::new(root), options)
}

/// Writes `archive` as whatever `target` is.
///
/// # Errors
/// [`Kind::Invalid`] for a malformed or hostile archive, [`Kind::TooLarge`] beyond `options.entries`,
/// [`Kind::System`] for the disk; errors of the source keep their kind.
pub fn write<R: BufRead, T: Target>(archive: &mut Archive<R>, target: &mut T, options: Options) -> Result<Summary> {
    let mut layer = Layer { target, options, opaque: Names::default(), summary: Summary::default() };
    let mut contents = None;
    while let Some(entry) = archive.next_entry()? {
        contents = (entry.kind == Type::File && is_contents(&entry.path)).then_some(entry.size);
        fault::point("unpack an entry").context(|| "unpack")?;
        layer
            .apply(archive, &entry)
            .and_then(|()| layer.count())
            .map_err(|why| why.within(format!("unpack {}", whiteout::show(&entry.path))))?;
    }
    if let Some(size) = contents {
        layer.forget_stargz(size)?;
    }
    layer.finish()
}

/// An eStargz layer ends with its table of contents and may hold a landmark for prefetching
/// (containerd/stargz-snapshotter, docs/estargz.md): parts of the packing, none of the image.
const STARGZ: [&[u8]; 3] = [b"stargz.index.json", b".prefetch.landmark", b".no.prefetch.landmark"];

fn is_contents(path: &[u8]) -> bool {
    path.strip_prefix(b"./").unwrap_or(path) == STARGZ[0]
}

struct Layer<'t, T> {
    target: &'t mut T,
    options: Options,
    opaque: Names,
    summary: Summary,
}

impl<T: Target> Layer<'_, T> {
    fn count(&mut self) -> Result<()> {
        self.summary.inodes += 1;
        match self.summary.inodes + self.target.implied() > self.options.entries {
            true => Err(Error::new(Kind::TooLarge, format!("more than {} entries", self.options.entries))),
            false => Ok(()),
        }
    }

    fn apply<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry) -> Result<()> {
        let meaning = whiteout::meaning(&entry.path)?;
        match &meaning {
            Meaning::Skip => {}
            Meaning::Opaque(parts) => self.clear_way(parts, parts.len())?,
            Meaning::Whiteout(parts) | Meaning::Entry(parts) => self.clear_way(parts, parts.len().saturating_sub(1))?,
        }
        match meaning {
            Meaning::Skip => Ok(()),
            Meaning::Opaque(parts) => self.make_opaque(&parts),
            Meaning::Whiteout(parts) => self.whiteout(&parts),
            Meaning::Entry(parts) => {
                self.target.expect(entry, &look(entry)?)?;
                match parts.is_empty() {
                    true => self.root(entry),
                    false => self.entry(archive, entry, &parts),
                }
            }
        }
    }

    fn entry<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        if !self.summary.borrowed.is_empty() {
            let path = parts.join(&b'/');
            match entry.kind {
                Type::Directory => self.summary.borrowed.remove(&path),
                _ => self.summary.borrowed.remove_within(&path),
            }
        }
        match entry.kind {
            Type::File => self.file(archive, entry, parts),
            Type::Directory => self.directory(entry, parts),
            Type::Symlink => self.symlink(entry, parts),
            Type::HardLink => self.hard_link(entry, parts),
            // The marker itself, in an archive of an unpacked overlay directory.
            Type::Char(0, 0) => self.whiteout(parts),
            Type::Char(major, minor) => self.node(entry, parts, FileType::CharacterDevice, (major, minor)),
            Type::Block(major, minor) => self.node(entry, parts, FileType::BlockDevice, (major, minor)),
            Type::Fifo => self.node(entry, parts, FileType::Fifo, (0, 0)),
        }
    }

    /// A name that this layer hides becomes a directory again, which hides the same, when something comes into it.
    fn clear_way(&mut self, parts: &Components<'_>, directories: usize) -> Result<()> {
        if self.summary.whited.is_empty() {
            return Ok(());
        }
        for length in 1..=directories {
            if !self.summary.whited.contains(&parts[..length - 1].join(&b'/')) {
                continue;
            }
            let parts = parts[..length].to_vec();
            let Some(place) = self.target.find(&parts)? else { return Ok(()) };
            if self.target.stands(&place)? == Some(Stands::Whiteout) {
                self.remove(&place, &parts)?;
                return self.make_opaque(&parts);
            }
        }
        Ok(())
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Type::Directory {
            return Err(Error::new(Kind::Invalid, "the layer's root is no directory"));
        }
        self.summary.root = true;
        self.summary.bytes += BLOCK;
        let place = self.target.root()?;
        self.target.dress(&place, &[], &look(entry)?)
    }

    fn directory(&mut self, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        let look = look(entry)?;
        let place = self.target.place(parts)?;
        if !self.target.make_directory(&place)? {
            self.replace_by_directory(&place, parts)?;
        }
        self.summary.bytes += BLOCK;
        self.target.dress(&place, parts, &look)
    }

    /// A directory where something exists: another directory keeps its content, all else gives way. A whiteout
    /// that gives way still hides what is below.
    fn replace_by_directory(&mut self, place: &T::Place, parts: &Components<'_>) -> Result<()> {
        let hides = match self.target.stands(place)? {
            Some(Stands::Directory) => return Ok(()),
            other => other == Some(Stands::Whiteout),
        };
        self.remove(place, parts)?;
        self.make(|target| target.make_directory(place))?;
        match hides {
            true => self.make_opaque(parts),
            false => Ok(()),
        }
    }

    fn file<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        let look = look(entry)?;
        let place = self.target.place(parts)?;
        let written = match self.target.file(&place, entry, &look, archive)? {
            Some(written) => written,
            None => {
                self.remove(&place, parts)?;
                self.target.file(&place, entry, &look, archive)?.ok_or_else(taken)?
            }
        };
        self.summary.bytes += written.next_multiple_of(BLOCK);
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(Error::new(Kind::Invalid, "a symbolic link without a target"));
        }
        if entry.link.len() > 4095 {
            let why = format!("the target of a symbolic link has {} bytes, more than 4095", entry.link.len());
            return Err(Error::new(Kind::TooLarge, why));
        }
        let look = look(entry)?;
        let place = self.fresh(parts)?;
        self.make(|target| target.symlink(&place, &entry.link, &look))
    }

    fn node(&mut self, entry: &Entry, parts: &Components<'_>, kind: FileType, device: (u32, u32)) -> Result<()> {
        let look = look(entry)?;
        let place = self.fresh(parts)?;
        self.make(|target| target.node(&place, kind, device, &look))
    }

    /// A further name for an inode of this layer, or of one below. Its attributes are those of the first name.
    fn hard_link(&mut self, entry: &Entry, parts: &Components<'_>) -> Result<()> {
        let refuse =
            |why: &str| Error::new(Kind::Invalid, format!("hard link to {}: {why}", whiteout::show(&entry.link)));
        let from = whiteout::components(&entry.link)?;
        if from.is_empty() || from == *parts {
            return Err(refuse("it is the link itself or the root"));
        }
        let path = parts.join(&b'/');
        if let Some(first) = self.summary.borrowed.target(&from.join(&b'/')).map(<[u8]>::to_vec) {
            self.fresh(parts)?;
            return self.summary.borrowed.insert(&path, &first);
        }
        let missing = || refuse("no such file in this layer");
        let place = self.target.find(&from)?;
        let stands = place.as_ref().map(|place| self.target.stands(place)).transpose()?.flatten();
        let inode = match stands {
            Some(Stands::Other(inode)) => inode,
            Some(Stands::Directory) => return Err(refuse("it is a directory")),
            None if !self.options.lowest && !self.hides(&from)? => {
                self.fresh(parts)?;
                return self.summary.borrowed.insert(&path, &from.join(&b'/'));
            }
            Some(Stands::Whiteout) | None => return Err(missing()),
        };
        let from = place.ok_or_else(missing)?;
        let place = self.target.place(parts)?;
        match self.target.stands(&place)? {
            Some(Stands::Other(own)) if own == inode => return Ok(()),
            Some(_) => self.remove(&place, parts)?,
            None => {}
        }
        self.target.link(&from, &place)
    }

    /// This layer hides what those below have at a path, where it has nothing itself.
    fn hides(&mut self, parts: &Components<'_>) -> Result<bool> {
        for length in 0..parts.len() {
            if self.opaque.contains(&parts[..length].join(&b'/')) {
                return Ok(true);
            }
            let Some(place) = self.target.find(&parts[..=length])? else { return Ok(false) };
            if matches!(self.target.stands(&place)?, Some(Stands::Whiteout | Stands::Other(_))) {
                // A link on the way may lead to where it is not hidden; such a target is not looked for.
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The place of a path with nothing there.
    fn fresh(&mut self, parts: &Components<'_>) -> Result<T::Place> {
        let place = self.target.place(parts)?;
        if self.target.stands(&place)?.is_some() {
            self.remove(&place, parts)?;
        }
        Ok(place)
    }

    /// Makes what must not be there yet.
    fn make(&mut self, make: impl FnOnce(&mut T) -> Result<bool>) -> Result<()> {
        make(self.target)?.then_some(()).ok_or_else(taken)
    }

    /// Removes an entry and what is remembered about it and below it.
    fn remove(&mut self, place: &T::Place, parts: &Components<'_>) -> Result<()> {
        self.target.remove(place, parts)?;
        let path = parts.join(&b'/');
        self.opaque.remove_within(&path);
        self.summary.borrowed.remove_within(&path);
        self.summary.whited.remove_within(&path);
        Ok(())
    }

    fn whiteout(&mut self, parts: &Components<'_>) -> Result<()> {
        self.summary.whiteouts += 1;
        if self.options.lowest || parts.is_empty() {
            return Ok(());
        }
        let place = self.target.place(parts)?;
        match self.target.stands(&place)? {
            None => {
                self.summary.whited.insert(&parts[..parts.len() - 1].join(&b'/'))?;
                self.target.whiteout(&place)
            }
            Some(Stands::Directory) => self.make_opaque(parts),
            // What this layer has put there hides the lower file already.
            Some(_) => Ok(()),
        }
    }

    fn make_opaque(&mut self, parts: &Components<'_>) -> Result<()> {
        self.summary.whiteouts += 1;
        if self.options.lowest {
            return Ok(());
        }
        // overlayfs does not look for the marker in a root, so whoever mounts must know.
        self.summary.hides_all |= parts.is_empty();
        self.target.make_opaque(parts)?;
        self.opaque.insert(&parts.join(&b'/'))
    }

    /// Takes away again what only an eStargz layer's packing needs; the table of contents has `size` bytes.
    fn forget_stargz(&mut self, size: u64) -> Result<()> {
        for name in STARGZ {
            let parts: Components<'_> = vec![name];
            let Some(place) = self.target.find(&parts)? else { continue };
            if let Some(Stands::Other(_)) = self.target.stands(&place)? {
                self.remove(&place, &parts)?;
                let bytes = if name == STARGZ[0] { size } else { 1 };
                self.summary.inodes = self.summary.inodes.saturating_sub(1);
                self.summary.bytes = self.summary.bytes.saturating_sub(bytes.next_multiple_of(BLOCK));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Summary> {
        // Nothing is merged below an opaque directory, and overlayfs shows markers in unmerged directories.
        for path in self.summary.whited.paths_within(&self.opaque) {
            let parts: Components<'_> = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
            self.target.clear_whiteouts(&parts)?;
        }
        self.summary.inodes += self.target.implied();
        self.summary.bytes += self.target.implied() * BLOCK;
        self.summary.implied = self.target.finish()?;
        Ok(self.summary)
    }
}

fn taken() -> Error {
    Error::new(Kind::System, "something else appeared at that name")
}

fn look(entry: &Entry) -> Result<Look<'_>> {
    // The id -1 means "leave it" to chown.
    let id = |value: u64, what: &str| {
        let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
        id.ok_or_else(|| Error::new(Kind::Invalid, format!("{what} {value} is no id")))
    };
    let (uid, gid) = (id(entry.uid, "uid")?, id(entry.gid, "gid")?);
    let attributes = Attributes { uid, gid, mode: entry.mode, mtime: entry.mtime };
    Ok(Look { attributes, xattrs: kept_xattrs(entry).collect() })
}

/// Attributes that an image may bring. `trusted.overlay.*` would steer overlayfs itself (redirects to any file of a
/// lower layer), and labels of security modules belong to this host's policy.
pub(crate) fn keeps(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
        || name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay.")
}

fn kept_xattrs(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    let all = entry.xattrs.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    all.filter(|(name, _)| keeps(name) && !name.contains(&0))
}
