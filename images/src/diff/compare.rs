//! A copied root filesystem against the layers that it was made of: what differs, and what is missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::diff::emit::{Emit, walk};
use crate::disk;
use crate::error::{Context, Result};
use crate::unpack::implied;
use crate::unpack::tree::{Place, Tree, is_whiteout};

/// Writes the differences. `views` show the layers, highest first; `roots` says which of them describe the root.
pub(super) fn write(own: &Path, views: &[PathBuf], roots: Vec<bool>, emit: &mut Emit<'_>) -> Result<()> {
    let below = Below { layers: views.iter().map(|view| disk::open_dir(view).map(Tree::new)).collect::<Result<_>>()? };
    let described = views.iter().zip(roots).find(|(_, root)| *root).map(|(view, _)| view);
    walk(disk::open_dir(own)?, &mut |place, stat, path| {
        let parts = implied::components(path);
        let old = match (parts.is_empty(), described) {
            (true, Some(view)) => {
                let place = Place { dir: std::rc::Rc::new(disk::open_dir(view)?), name: c".".to_owned() };
                place.stat()?.map(|stat| (place, stat))
            }
            (true, None) => None,
            (false, _) => below.entry(&parts)?,
        };
        let is_dir = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let differs = match &old {
            Some((old, then)) => differs(emit, (old, then), (place, stat))?,
            None => true,
        };
        if differs {
            emit.entry(place, stat, path)?;
        }
        if is_dir(stat) && (parts.is_empty() || old.is_some_and(|(_, then)| is_dir(&then))) {
            for name in below.names(&parts)? {
                let gone: Vec<&[u8]> = parts.iter().copied().chain([name.as_slice()]).collect();
                let there = Place { dir: open(place)?, name: cstring(&name)? }.stat()?.is_some();
                if !there && below.entry(&gone)?.is_some() {
                    emit.whiteout(&gone.join(&b'/'))?;
                }
            }
        }
        Ok(true)
    })
}

fn open(place: &Place) -> Result<std::rc::Rc<std::os::fd::OwnedFd>> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(&place.dir, &place.name, flags, Mode::empty()).context(|| "open a directory")?;
    Ok(std::rc::Rc::new(dir))
}

fn cstring(name: &[u8]) -> Result<std::ffi::CString> {
    std::ffi::CString::new(name).map_err(|why| crate::Error::caused(crate::Kind::System, "a name with NUL", why))
}

/// Whether a layer has to say something about an entry. Content is told by size and time, as in every peer.
fn differs(emit: &Emit<'_>, (old, then): (&Place, &Stat), (new, now): (&Place, &Stat)) -> Result<bool> {
    let kind = FileType::from_raw_mode(now.st_mode);
    let (was, is) = (implied::look(then), emit.look(now));
    let same_look = (was.uid, was.gid, was.mtime) == (is.uid, is.gid, is.mtime);
    let same_kind = then.st_mode == now.st_mode && then.st_rdev == now.st_rdev;
    if !same_look || !same_kind || kind != FileType::Directory && then.st_size != now.st_size {
        return Ok(true);
    }
    let link = |place: &Place| rustix::fs::readlinkat(&place.dir, &place.name, Vec::new()).context(|| "read a link");
    if kind == FileType::Symlink && link(old)? != link(new)? {
        return Ok(true);
    }
    Ok(emit.xattrs(old)? != emit.xattrs(new)?)
}

/// The image's layers, highest first.
struct Below {
    layers: Vec<Tree>,
}

impl Below {
    /// What the image shows at a path whose parents are directories.
    fn entry(&self, parts: &[&[u8]]) -> Result<Option<(Place, Stat)>> {
        for layer in &self.layers {
            let mut opaque = false;
            for length in 1..=parts.len() {
                let Some(place) = layer.find(&parts[..length])? else { break };
                let Some(stat) = place.stat()? else { break };
                if is_whiteout(&stat) {
                    return Ok(None);
                }
                if length == parts.len() {
                    return Ok(Some((place, stat)));
                }
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Ok(None);
                }
                opaque |= crate::diff::is_opaque(&place)?;
            }
            if opaque {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Names that any layer has in a directory, hidden or not.
    fn names(&self, parts: &[&[u8]]) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for layer in &self.layers {
            let path = if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') };
            let Some(dir) = crate::space::open_below(layer.root(), &path)? else { continue };
            for entry in rustix::fs::Dir::read_from(&dir).context(|| "read a layer")? {
                let name = entry.context(|| "read a layer")?.file_name().to_bytes().to_vec();
                if !matches!(name.as_slice(), b"." | b"..") {
                    names.insert(name);
                }
            }
        }
        Ok(names)
    }
}
