//! Root filesystems of containers in user namespaces: the image's files show the owners that the namespace gives them.
//!
//! Layers are shared by all, so nothing in them is changed: each container's overlay stands on mounts of the layers whose
//! ids are mapped (mount_setattr(2) with `MOUNT_ATTR_IDMAP`; under an overlay since Linux 5.19). One such mount serves all
//! layers that are directories. They are needed only until the overlay stands: it keeps its own.

use std::fmt;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::OpenTreeFlags;

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::layers::remove_tree;
use crate::rootfs::{file_mount, overlay};
use crate::unpack::tree::Attributes;

/// Maps the ids of a mount as a user namespace does: `mount_setattr(mount, "", AT_EMPTY_PATH, {attr_set:
/// MOUNT_ATTR_IDMAP, userns_fd: userns})`. The caller brings it: no safe library offers the call, and this crate has no
/// unsafe code. `mount` is detached and has nothing mounted below it.
pub type SetIdMap = dyn Fn(BorrowedFd<'_>, BorrowedFd<'_>) -> std::io::Result<()> + Send + Sync;

/// Ids `inside..inside+count` of the namespace are `outside..outside+count` on the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IdRange {
    /// First id in the namespace: what the image says.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The user namespace of a container.
#[derive(Clone)]
pub struct Shift {
    /// A descriptor of the namespace (`/proc/PID/ns/user`), which has its maps already.
    pub userns: Arc<OwnedFd>,
    /// Its user ids.
    pub uids: Vec<IdRange>,
    /// Its group ids.
    pub gids: Vec<IdRange>,
    /// How a mount gets its map.
    pub set: Arc<SetIdMap>,
}

impl fmt::Debug for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shift").field("uids", &self.uids).field("gids", &self.gids).finish_non_exhaustive()
    }
}

/// What an id is that the namespace does not have.
const NOBODY: u32 = 65534;

fn inside(ranges: &[IdRange], id: u32) -> u32 {
    let within = |range: &&IdRange| id.checked_sub(range.outside).is_some_and(|offset| offset < range.count);
    ranges.iter().find(within).map_or(NOBODY, |range| range.inside + (id - range.outside))
}

fn outside(ranges: &[IdRange], id: u32) -> u32 {
    let within = |range: &&IdRange| id.checked_sub(range.inside).is_some_and(|offset| offset < range.count);
    ranges.iter().find(within).map_or(NOBODY, |range| range.outside + (id - range.inside))
}

impl Shift {
    /// The owner on the host of what an image says.
    pub(crate) fn apply(&self, look: Attributes) -> Attributes {
        Attributes { uid: outside(&self.uids, look.uid), gid: outside(&self.gids, look.gid), ..look }
    }

    /// The owner in the namespace of what is on the host.
    pub(crate) fn undo(&self, look: Attributes) -> Attributes {
        Attributes { uid: inside(&self.uids, look.uid), gid: inside(&self.gids, look.gid), ..look }
    }

    /// The reverse of [`Shift::capability`].
    pub(crate) fn plain_capability(value: &[u8]) -> Vec<u8> {
        let mut plain = value.to_vec();
        if value.len() == 24 && value[3] == 3 {
            plain.truncate(20);
            plain[3] = 2;
        }
        plain
    }

    /// A file's capabilities (capabilities(7), `VFS_CAP_REVISION_2`) as they count in the namespace: with the host's id
    /// of its root.
    pub(crate) fn capability(&self, value: &[u8]) -> Vec<u8> {
        let mut shifted = value.to_vec();
        if value.len() == 20 && value[3] == 2 {
            shifted[3] = 3;
            shifted.extend(outside(&self.uids, 0).to_le_bytes());
        }
        shifted
    }

    /// Mounts of `views` below `home/low` with mapped ids, in the same order; gone with [`clear`].
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the kernel or the filesystem maps no ids; [`Kind::System`].
    pub(crate) fn mounts(&self, views: &[PathBuf], home: &Path) -> Result<Vec<PathBuf>> {
        let low = home.join("low");
        disk::private_dir(&low)?;
        let mut shared: Option<(PathBuf, PathBuf)> = None;
        let mut mapped = Vec::with_capacity(views.len());
        for (at, view) in views.iter().enumerate() {
            let all = view.ends_with("diff").then(|| view.ancestors().nth(2)).flatten();
            let Some(all) = all else {
                mapped.push(self.mount(view, &low.join(at.to_string()))?);
                continue;
            };
            if shared.as_ref().is_none_or(|(of, _)| of != all) {
                shared = Some((all.to_owned(), self.mount(all, &low.join(at.to_string()))?));
            }
            if let (Some((_, mount)), Ok(rest)) = (&shared, view.strip_prefix(all)) {
                mapped.push(mount.join(rest));
            }
        }
        Ok(mapped)
    }

    fn mount(&self, from: &Path, at: &Path) -> Result<PathBuf> {
        let what = || format!("map the ids of {}", from.display());
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, from, flags).context(what)?;
        if let Err(why) = (self.set)(tree.as_fd(), self.userns.as_fd()) {
            return Err(Error::caused(Kind::Unsupported, what(), why));
        }
        disk::private_dir(at)?;
        file_mount::attach(&tree, at)?;
        Ok(at.to_owned())
    }
}

/// Unmounts and removes what [`Shift::mounts`] has made, also if its process was killed.
pub(crate) fn clear(home: &Path) -> Result<()> {
    let low = home.join("low");
    let Ok(entries) = std::fs::read_dir(&low) else { return Ok(()) };
    for entry in entries.flatten() {
        overlay::unmount(&entry.path())?;
    }
    remove_tree(&low).context(|| format!("remove {}", low.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_map_are_nobody() {
        let ranges =
            [IdRange { inside: 0, outside: 100_000, count: 1000 }, IdRange { inside: 5000, outside: 7, count: 1 }];
        for (id, expect) in
            [(0, 100_000), (999, 100_999), (1000, NOBODY), (5000, 7), (5001, NOBODY), (u32::MAX, NOBODY)]
        {
            assert_eq!(outside(&ranges, id), expect, "{id}");
        }
    }
}
