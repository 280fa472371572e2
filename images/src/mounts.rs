//! Images mounted where somebody wants them: `gantry image mount`, and images and artifacts as volumes.
//!
//! A mount is a root filesystem under a record of its own, `mounts/KEY`, so that its image and layers are not collected
//! as garbage; what is put on the target is a clone of it, or of a part of it, and the only mount that stays.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, OpenTreeFlags};

use crate::digest::Digest;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::rootfs::shift::Shift;
use crate::rootfs::{Paths, Plan, file_mount, overlay};
use crate::store::{Store, blocking};

/// What to mount where.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// [`Image::id`](crate::Image::id).
    pub image_id: String,
    /// An absolute path: a directory, or a file if the part is one; made if it is missing and its parent is not.
    pub at: PathBuf,
    /// Whether it can be written to; what is written is lost with the unmount.
    pub writable: bool,
    /// The part of the image that is wanted; empty for all of it. Links are followed inside the image only.
    pub sub_path: PathBuf,
    /// Whose ids its files show.
    pub shift: Option<Shift>,
}

/// A mount of an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mounted {
    /// [`Image::id`](crate::Image::id).
    pub image_id: String,
    /// Where it is.
    pub at: PathBuf,
    /// Whether it can be written to.
    pub writable: bool,
    /// Whether it is still mounted: not so after a reboot, or if somebody else has unmounted it.
    pub live: bool,
}

fn key(at: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    Digest::of(at.as_os_str().as_bytes()).hex()[..32].to_owned()
}

impl Store {
    /// Mounts an image, unpacking layers that are missing. The image is in use until [`Store::unmount`]. The same
    /// request again changes nothing while it is mounted, and mounts it anew after a reboot.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such an image or part of it; [`Kind::Conflict`] if another image, or something else, is
    /// mounted there; [`Kind::InvalidArgument`] for a path that is not absolute or of the wrong type.
    pub async fn mount(&self, request: &MountRequest) -> Result<Mounted> {
        let what = || format!("mount {} on {}", request.image_id, request.at.display());
        if !request.at.is_absolute() {
            return Err(Error::new(Kind::InvalidArgument, format!("{}: the path is not absolute", what())));
        }
        let key = key(&request.at);
        let _one = self.shared().flights.lock(format!("mount {key}")).await;
        let mount = async {
            let mut lease = self.shared().leases.begin()?;
            let record = self.shared().mounts.record(&key)?;
            let layers = self.layers_for(record, &request.image_id, &mut lease).await?;
            let wanted = Plan {
                image_id: request.image_id.clone(),
                layers,
                driver: self.shared().config.rootfs,
                shift: request.shift.clone(),
                mount: Some((request.at.clone(), request.writable)),
            };
            let (store, request) = (self.clone(), request.clone());
            blocking(move || store.place(&key, &wanted, &request)).await
        };
        mount.await.context(what)?;
        self.shared().uses.touch(&request.image_id.parse()?);
        let (image_id, at, writable) = (request.image_id.clone(), request.at.clone(), request.writable);
        Ok(Mounted { image_id, at, writable, live: true })
    }

    fn place(&self, key: &str, wanted: &Plan, request: &MountRequest) -> Result<()> {
        let shared = self.shared();
        let known = shared.mounts.record(key)?;
        if overlay::is_mounted(&request.at)? {
            return match known {
                Some(known) if known.image_id == wanted.image_id && known.mount == wanted.mount => Ok(()),
                _ => Err(Error::new(Kind::Conflict, "something else is mounted there")),
            };
        }
        if known.is_some_and(|known| known.mount != wanted.mount) {
            shared.mounts.release(key, &shared.layers)?;
        }
        let paths = shared.mounts.mount(key, wanted, &shared.layers)?;
        let placed = attach(&paths, request);
        // The clone on the target is enough.
        let gone = overlay::unmount(&paths.merged);
        match placed.and(gone) {
            Ok(()) => Ok(()),
            Err(why) => {
                drop(overlay::unmount(&request.at));
                shared.mounts.release(key, &shared.layers)?;
                Err(why)
            }
        }
    }

    /// Takes a mount away, with what was written to it; `false` if none of this store is there. Idempotent.
    ///
    /// # Errors
    /// [`Kind::System`]; call again later.
    pub async fn unmount(&self, at: &Path) -> Result<bool> {
        let key = key(at);
        let _one = self.shared().flights.lock(format!("mount {key}")).await;
        let (store, at) = (self.clone(), at.to_owned());
        blocking(move || {
            let shared = store.shared();
            if shared.mounts.record(&key)?.is_none() {
                return Ok(false);
            }
            overlay::unmount(&at)?;
            shared.mounts.release(&key, &shared.layers)?;
            Ok(true)
        })
        .await
        .context(|| "unmount an image")
    }

    /// The mounts of this store, sorted by path.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub fn mounts(&self) -> Result<Vec<Mounted>> {
        let mut all = Vec::new();
        for (_, record) in self.shared().mounts.everywhere()? {
            let Some((at, writable)) = record.mount else { continue };
            let live = overlay::is_mounted(&at)?;
            all.push(Mounted { image_id: record.image_id, at, writable, live });
        }
        all.sort_by(|a, b| a.at.cmp(&b.at));
        Ok(all)
    }
}

/// Puts a clone of the wanted part on the target.
fn attach(paths: &Paths, request: &MountRequest) -> Result<()> {
    let part = part(&paths.merged, &request.sub_path)?;
    let stat = rustix::fs::fstat(&part).context(|| "stat the part")?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&part, "", flags).context(|| "clone the mount")?;
    prepare(&request.at, is_dir)?;
    file_mount::attach(&tree, &request.at)?;
    let what = || format!("set up {}", request.at.display());
    rustix::mount::mount_change(&request.at, rustix::mount::MountPropagationFlags::PRIVATE).context(what)?;
    match request.writable {
        true => Ok(()),
        // An overlay without an upper directory is read-only by itself, a copy is not.
        false => rustix::mount::mount_remount(&request.at, MountFlags::BIND | MountFlags::RDONLY, c"").context(what),
    }
}

/// Opens a part of the image; nothing on the way leads out of it, and it is a directory or a file.
fn part(root: &Path, sub_path: &Path) -> Result<OwnedFd> {
    let root = disk::open_dir(root)?;
    let inside = sub_path.strip_prefix("/").unwrap_or(sub_path);
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let refuse = |kind, why: &str| Err(Error::new(kind, format!("{}: {why}", sub_path.display())));
    let part = match rustix::fs::openat2(&root, inside, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            return refuse(Kind::NotFound, "there is no such part in the image");
        }
        other => other.context(|| format!("open {}", sub_path.display()))?,
    };
    let stat = rustix::fs::fstat(&part).context(|| "stat the part")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory | FileType::RegularFile => Ok(part),
        _ => refuse(Kind::InvalidArgument, "the part is neither a directory nor a file"),
    }
}

/// Makes the target if it is missing; it must be of the kind that the part is.
fn prepare(at: &Path, is_dir: bool) -> Result<()> {
    let what = || format!("make {}", at.display());
    match std::fs::symlink_metadata(at) {
        Ok(there) if there.is_dir() == is_dir && !there.is_symlink() => Ok(()),
        Ok(_) => {
            let why = "is of another type than the part of the image, or a link";
            Err(Error::new(Kind::InvalidArgument, format!("{}: {why}", at.display())))
        }
        Err(why) if why.kind() == std::io::ErrorKind::NotFound && is_dir => std::fs::create_dir(at).context(what),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => std::fs::File::create_new(at).map(drop).context(what),
        Err(why) => Err(why).context(what),
    }
}
