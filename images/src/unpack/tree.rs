//! A directory that is filled from an archive, and the only code that resolves an archive's names on this host.
//!
//! Directories are opened with `openat2(RESOLVE_IN_ROOT | NO_MAGICLINKS | NO_XDEV)` relative to the tree's own root,
//! so that a symbolic link inside the tree, even an absolute one, ends inside it; the last component is never
//! followed by anything (SECURITY_CASES 13, CVE-2021-32760, CVE-2025-47290).

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::unpack::names::Names;

/// Owner, mode and time of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
}

/// A directory that archives are unpacked into.
pub struct Tree {
    root: OwnedFd,
    /// The directory that was used last: archives keep siblings together.
    last: Option<Visited>,
    /// Directories made because something below them came first.
    pub implied: Names,
    /// How many of these were ever made.
    pub made: u64,
}

/// An open directory in which names come and go, and the time that it must have when that is over.
struct Visited {
    path: Vec<u8>,
    dir: Rc<OwnedFd>,
    mtime: (i64, u32),
}

/// A name inside an open directory.
pub struct Place {
    /// The directory.
    pub dir: Rc<OwnedFd>,
    /// The last component.
    pub name: CString,
}

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
/// Directories that [`remove_all`] keeps open at a time.
const MAX_DEPTH: usize = 64;
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn cstring(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Error::new(Kind::Invalid, format!("name {:?} contains NUL", show(name))))
}

impl Tree {
    /// A tree below an open directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, last: None, implied: Names::default(), made: 0 }
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a directory of the tree, making those that are missing with mode 0755, owner root and the time 0. What is
    /// done in it until another directory is opened, or until [`Tree::settle`], leaves its time as it is.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if something on the way is no directory or a link to nowhere.
    pub fn directory(&mut self, parts: &[&[u8]]) -> Result<Rc<OwnedFd>> {
        let path = parts.join(&b'/');
        if let Some(known) = self.last.as_ref().filter(|known| known.path == path) {
            return Ok(known.dir.clone());
        }
        self.settle()?;
        let fd = match self.open_directory(&path) {
            Err(Errno::NOENT) if !parts.is_empty() => self.make_directories(parts)?,
            other => other.map_err(|why| directory_error(&path, why))?,
        };
        let (dir, mtime) = (Rc::new(fd), (0, 0));
        let mut visited = Visited { path, dir, mtime };
        visited.mtime = modified(&visited.dir)?;
        let dir = visited.dir.clone();
        self.last = Some(visited);
        Ok(dir)
    }

    /// Gives the directory that was used last the time that it had before: names that come and go change it.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn settle(&mut self) -> Result<()> {
        match self.last.take() {
            Some(Visited { dir, mtime, .. }) => set_time_of(&dir, mtime),
            None => Ok(()),
        }
    }

    /// Says that the time of a directory is about to be set for good.
    pub fn forget(&mut self, path: &[u8]) {
        if self.last.as_ref().is_some_and(|known| known.path == path) {
            self.last = None;
        }
    }

    /// Opens a directory only if it is there.
    ///
    /// # Errors
    /// As [`Tree::directory`].
    pub fn existing(&self, parts: &[&[u8]]) -> Result<Option<Rc<OwnedFd>>> {
        let path = parts.join(&b'/');
        match self.open_directory(&path) {
            Ok(fd) => Ok(Some(Rc::new(fd))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(why) => Err(directory_error(&path, why)),
        }
    }

    fn open_directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        // EAGAIN: a rename elsewhere on the host raced with the resolution; the manual says to try again.
        for _ in 0..64 {
            match rustix::fs::openat2(&self.root, path, DIRECTORY, Mode::empty(), IN_ROOT) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Makes what is missing of a path, from the nearest directory that is there downwards. A loop, and each step from
    /// its parent's descriptor: a path has two thousand components if its writer wants to be a nuisance.
    fn make_directories(&mut self, parts: &[&[u8]]) -> Result<OwnedFd> {
        let mut there = parts.len();
        let mut dir = loop {
            there -= 1;
            let path = parts[..there].join(&b'/');
            match self.open_directory(&path) {
                Err(Errno::NOENT) if there > 0 => {}
                other => break other.map_err(|why| directory_error(&path, why))?,
            }
        };
        let mut mtime = modified(&dir)?;
        for (at, name) in parts.iter().enumerate().skip(there) {
            let path = parts[..=at].join(&b'/');
            let next = make_directory(&dir, name, &path)?;
            set_time_of(&dir, mtime)?;
            (dir, mtime) = (next, (0, 0));
            self.made += 1;
            self.implied.insert(&path)?;
        }
        set_time_of(&dir, (0, 0))?;
        Ok(dir)
    }

    /// The open parent directory and the last name of a path, which must not be the root.
    ///
    /// # Errors
    /// As [`Tree::directory`].
    pub fn place(&mut self, parts: &[&[u8]]) -> Result<Place> {
        let (name, parents) = parts.split_last().ok_or_else(|| Error::new(Kind::Invalid, "the root is no entry"))?;
        Ok(Place { dir: self.directory(parents)?, name: cstring(name)? })
    }

    /// As [`Tree::place`], but makes nothing: `None` if the parent is missing.
    ///
    /// # Errors
    /// As [`Tree::directory`].
    pub fn find(&self, parts: &[&[u8]]) -> Result<Option<Place>> {
        let (name, parents) = parts.split_last().ok_or_else(|| Error::new(Kind::Invalid, "the root is no entry"))?;
        let dir = self.existing(parents)?;
        dir.map(|dir| Ok(Place { dir, name: cstring(name)? })).transpose()
    }

    /// Removes whatever has this name, with everything below it.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn remove(&mut self, place: &Place) -> Result<()> {
        remove_all(place.dir.as_fd(), &place.name).context(|| format!("remove {:?}", place.name))?;
        // What takes its place is made in the same directory, whose time is still remembered.
        match self.last.as_ref().is_some_and(|known| Rc::ptr_eq(&known.dir, &place.dir)) {
            true => Ok(()),
            false => self.settle(),
        }
    }
}

/// Makes one directory and opens it.
fn make_directory(dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name, Mode::from(0o755)) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let why = format!("path {:?}: goes through a symbolic link to nowhere", show(path));
            return Err(Error::new(Kind::Invalid, why));
        }
        Err(why) => return Err(directory_error(path, why)),
    }
    let flags = DIRECTORY.union(OFlags::NOFOLLOW);
    let made = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|why| directory_error(path, why))?;
    // The umask of whoever embeds us must not show in a layer.
    rustix::fs::chmodat(&made, c".", Mode::from(0o755), AtFlags::empty())
        .context(|| format!("chmod {:?}", show(path)))?;
    Ok(made)
}

/// When names last came into a directory or went.
fn modified(dir: &OwnedFd) -> Result<(i64, u32)> {
    let stat = rustix::fs::statat(dir, c".", AtFlags::empty()).context(|| "stat a directory")?;
    Ok((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)))
}

fn set_time_of(dir: &OwnedFd, mtime: (i64, u32)) -> Result<()> {
    rustix::fs::utimensat(dir, c".", &timestamps(mtime), AtFlags::empty()).context(|| "set the time of a directory")
}

fn directory_error(path: &[u8], why: Errno) -> Error {
    let kind = match why {
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV => Kind::Invalid,
        _ => Kind::System,
    };
    Error::caused(kind, format!("directory {:?}", show(path)), std::io::Error::from(why))
}

impl Place {
    /// The name's own metadata, never a link's target; `None` if there is nothing.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn stat(&self) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(why) => Err(why).context(|| format!("stat {:?}", self.name)),
        }
    }

    /// Makes a file that must not exist, open for writing.
    ///
    /// # Errors
    /// The errno, so that the caller can tell EEXIST.
    pub fn create(&self) -> rustix::io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, &self.name, flags, Mode::from(0o600)).map(File::from)
    }

    /// Makes a device, pipe or socket.
    ///
    /// # Errors
    /// The errno.
    pub fn node(&self, kind: FileType, device: (u32, u32)) -> rustix::io::Result<()> {
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(&self.dir, &self.name, kind, Mode::from(0o600), device)
    }

    /// Sets an extended attribute of the name itself. The path goes through `/proc/self/fd`, because the calls that
    /// take a directory and a name exist only since Linux 6.13; the `l` variant does not follow the last name.
    ///
    /// # Errors
    /// The errno; ENOTSUP where the filesystem has no such attributes.
    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        rustix::fs::lsetxattr(self.proc_path().as_slice(), name, value, XattrFlags::empty())
    }

    /// The extended attributes of the name itself, none where the filesystem has no such thing.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn xattrs(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let path = self.proc_path();
        let mut names = vec![0; 64 << 10];
        let count = match rustix::fs::llistxattr(path.as_slice(), &mut names) {
            Err(Errno::NOTSUP) => 0,
            other => other.context(|| format!("list the attributes of {:?}", self.name))?,
        };
        let names = names[..count].split(|b| *b == 0).filter(|name| !name.is_empty());
        let value = |name: &[u8]| {
            let mut value = vec![0; 64 << 10];
            let count = rustix::fs::lgetxattr(path.as_slice(), name, &mut value)
                .context(|| format!("read attribute {} of {:?}", String::from_utf8_lossy(name), self.name))?;
            value.truncate(count);
            Ok((name.to_vec(), value))
        };
        names.map(value).collect()
    }

    fn proc_path(&self) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.as_bytes());
        path
    }

    /// Owner, then mode (chown clears setuid), then time. For a symbolic link the mode has no meaning.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn set_attributes(&self, attributes: &Attributes, is_link: bool) -> Result<()> {
        self.set_owner(attributes)?;
        if !is_link {
            self.set_mode(attributes.mode)?;
        }
        self.set_time(attributes.mtime)
    }

    /// Owner and group of the name itself.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn set_owner(&self, attributes: &Attributes) -> Result<()> {
        let owner = (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)));
        rustix::fs::chownat(&self.dir, &self.name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .context(|| format!("chown {:?} to {}:{}", self.name, attributes.uid, attributes.gid))
    }

    /// Mode of a name that the caller knows to be no symbolic link (it has just made it, and nobody else can reach
    /// the tree): chmod cannot be told not to follow before Linux 6.6.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        rustix::fs::chmodat(&self.dir, &self.name, Mode::from(mode), AtFlags::empty())
            .context(|| format!("chmod {:?}", self.name))
    }

    /// Modification and access time of the name itself.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub fn set_time(&self, mtime: (i64, u32)) -> Result<()> {
        rustix::fs::utimensat(&self.dir, &self.name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .context(|| format!("set the time of {:?}", self.name))
    }
}

/// Access time and modification time alike.
pub fn timestamps(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: i64::from(mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}

/// Overlayfs' marker for a name that is hidden: a character device 0:0.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes the whiteouts in a directory, whose time stays.
///
/// # Errors
/// [`Kind::System`].
pub fn clear_whiteouts(start: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let what = || "clear whiteouts";
    let dir = rustix::fs::openat(start, c".", flags, Mode::empty()).context(what)?;
    let mtime = modified(&dir)?;
    for entry in rustix::fs::Dir::read_from(&dir).context(what)? {
        let entry = entry.context(what)?;
        let name = entry.file_name();
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).context(what)?;
        if is_whiteout(&stat) {
            rustix::fs::unlinkat(&dir, name, AtFlags::empty()).context(what)?;
        }
    }
    set_time_of(&dir, mtime)
}

/// Removes a name and everything below it, following nothing; a missing name is success. Iterative, because a
/// hostile layer nests deeper than a thread's stack.
///
/// # Errors
/// The first errno.
pub fn remove_all(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(why) => return Err(why),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Each level: its open directory and its name in the level above.
    let mut levels = vec![(rustix::fs::openat(dir, name, flags, Mode::empty())?, name.to_owned())];
    let mut raised = 0u64;
    while let Some((fd, own)) = levels.last() {
        let mut deeper = None;
        for entry in rustix::fs::Dir::read_from(fd)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::unlinkat(fd, entry.file_name(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    deeper = Some(entry.file_name().to_owned());
                    break;
                }
                Err(why) => return Err(why),
            }
        }
        if let Some(name) = deeper {
            if levels.len() >= MAX_DEPTH {
                // Deeper than we want open descriptors: bring it up to where it is met again.
                let (top, _) = &levels[0];
                raised += 1;
                rustix::fs::renameat(fd, &name, top, format!(".raised-{raised}").as_str())?;
                continue;
            }
            let below = rustix::fs::openat(fd, &name, flags, Mode::empty())?;
            levels.push((below, name));
            continue;
        }
        let own = own.clone();
        levels.pop();
        let above = levels.last().map_or(dir, |(fd, _)| fd.as_fd());
        rustix::fs::unlinkat(above, &own, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}
