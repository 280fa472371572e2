//! What a layer can only know once it lies on others.
//!
//! Directories that a layer has without saying so (an archive with `usr/bin/tool` and no `usr/`) must look like the
//! directory below, because in an overlay the upper directory's owner and mode are what is seen. And a whiteout in a
//! directory that no layer below has hides nothing: overlayfs, which has nothing to merge there, would show it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat};

use crate::disk;
use crate::error::{Context, Result};
use crate::unpack::names::Names;
use crate::unpack::tree::{self, Attributes, Place, Tree};

/// Removes whiteouts from directories in `whited` that hide nothing, and gives each implied directory of `diff` the
/// attributes of the nearest layer below that has it; `below` from the
/// highest to the lowest. What no layer has keeps mode 0755 and owner root.
///
/// # Errors
/// [`Kind::System`](crate::Kind::System) for the disk.
pub(crate) fn inherit(diff: &Path, below: &[PathBuf], implied: &Names, whited: &Names) -> Result<()> {
    let own = Tree::new(disk::open_dir(diff)?);
    let lower = below.iter().map(|path| disk::open_dir(path).map(Tree::new)).collect::<Result<Vec<_>>>()?;
    for path in whited.paths() {
        let parts = components(&path);
        let Some(dir) = own.existing(&parts)? else { continue };
        if first(&lower, &parts)?.is_none() {
            tree::clear_whiteouts(&dir)?;
        }
    }
    for path in implied.paths() {
        let parts = components(&path);
        let Some(dir) = own.existing(&parts)? else { continue };
        if let Some(stat) = first(&lower, &parts)? {
            Place { dir, name: c".".to_owned() }.set_attributes(&look(&stat), false)?;
        }
    }
    Ok(())
}

/// Owner, mode and time of a lower directory.
pub(crate) fn look(stat: &Stat) -> Attributes {
    let mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    Attributes { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, mtime }
}

pub(crate) fn components(path: &[u8]) -> Vec<&[u8]> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect()
}

/// The directory as the layers below show it: the first that has the name decides, and a whiteout or an opaque
/// parent there hides what is further down.
pub(crate) fn first(lower: &[Tree], parts: &[&[u8]]) -> Result<Option<Stat>> {
    for tree in lower {
        if let Some(dir) = tree.existing(parts)? {
            let stat = rustix::fs::statat(&dir, ".", AtFlags::empty()).context(|| "stat a lower directory")?;
            return Ok(Some(stat));
        }
        if hides(tree, parts)? {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Something other than a plain directory stands on the way, or a directory on the way is opaque.
pub(super) fn hides(tree: &Tree, parts: &[&[u8]]) -> Result<bool> {
    for length in 0..parts.len() {
        let Some(dir) = tree.existing(&parts[..length])? else { return Ok(false) };
        if is_opaque(&dir) {
            return Ok(true);
        }
        let Some(place) = tree.find(&parts[..=length])? else { return Ok(false) };
        match place.stat()? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => return Ok(true),
            Some(_) => {}
            None => return Ok(false),
        }
    }
    Ok(false)
}

fn is_opaque(dir: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd as _;
    let mut value = [0; 1];
    // The descriptor is O_PATH, which fgetxattr refuses; its path in /proc is not refused.
    let path = format!("/proc/self/fd/{}/.", dir.as_raw_fd());
    rustix::fs::lgetxattr(path.as_str(), c"trusted.overlay.opaque", &mut value) == Ok(1) && value == *b"y"
}
