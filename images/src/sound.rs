//! The cheap look at what a power cut may have damaged, at the first use of each layer after a boot and whenever an image
//! that is here is pulled again: names, sizes, owners, modes and times, no content. What does not look as it did when it
//! was committed is taken out of use, and so unpacked again from its blob.
//!
//! Only a reboot can lose what was written, so a layer notes in which boot it was looked at last (`layers/KEY/boot`).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context, Result};
use crate::layers::{Form, Key, Position};
use crate::store::{Shared, positions};
use crate::verify::set_aside;

/// What a tree looks like from outside.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) names: u64,
    /// Sizes of all files, a hard link as often as it has names.
    pub(crate) bytes: u64,
    /// Of every name with its metadata, in any order.
    sum: u64,
}

/// How much was looked at before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trust {
    /// What was looked at since the host booted.
    SinceBoot,
    /// What this process has looked at itself.
    OwnEyes,
}

/// Looks at a tree.
///
/// # Errors
/// [`Kind::System`](crate::Kind::System) for the disk.
pub(crate) fn shape(root: &Path) -> Result<Shape> {
    let mut shape = Shape::default();
    let start = disk::open_dir(root)?;
    let mut todo: Vec<Vec<u8>> = vec![b".".to_vec()];
    while let Some(path) = todo.pop() {
        let dir = crate::verify::compare::open(&start, &path)?;
        for entry in rustix::fs::Dir::read_from(&dir).context(|| "read a directory")? {
            let entry = entry.context(|| "read a directory")?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "stat")?;
            let below = [&path, &b"/"[..], name.to_bytes()].concat();
            let kind = FileType::from_raw_mode(stat.st_mode);
            let size = if kind == FileType::Directory { 0 } else { u64::try_from(stat.st_size).unwrap_or(0) };
            let numbers = [
                u64::from(stat.st_mode),
                u64::from(stat.st_uid),
                u64::from(stat.st_gid),
                stat.st_rdev,
                size,
                stat.st_mtime.cast_unsigned(),
                stat.st_mtime_nsec,
            ];
            let mut hash = fnv(0xcbf2_9ce4_8422_2325, &below);
            for number in numbers {
                hash = fnv(hash, &number.to_le_bytes());
            }
            shape.names += 1;
            shape.bytes += size;
            shape.sum = shape.sum.wrapping_add(hash);
            if kind == FileType::Directory {
                todo.push(below);
            }
        }
    }
    Ok(shape)
}

/// FNV-1a: accidents are to be noticed, not attacks.
fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// The boot that the host is in; empty where the kernel does not say.
pub(crate) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

/// The unpacked layer that serves at this position, if there is one and it looks as it did.
///
/// # Errors
/// [`Kind::System`](crate::Kind::System) for the disk.
pub(crate) fn layer(shared: &Shared, position: &Position, trust: Trust) -> Result<Option<Key>> {
    for key in position.keys() {
        let suits = shared.layers.facts(&key).ok().flatten().is_none_or(|facts| facts.diff_id == position.diff_id);
        if suits && is_whole(shared, &key, trust)? {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// The layer is here and looks as it did; one that does not is taken out of use.
///
/// # Errors
/// [`Kind::System`](crate::Kind::System) for the disk.
pub(crate) fn is_whole(shared: &Shared, key: &Key, trust: Trust) -> Result<bool> {
    let home = shared.layers.home(key);
    loop {
        let Ok(held) = File::open(&home) else { return Ok(false) };
        let form = shared.layers.form(key);
        if form == Some(Form::Image) || form.is_some() && is_known(shared, key, trust) {
            return Ok(true);
        }
        // One at a time looks and decides: what another has put here meanwhile is not this one's to take away.
        let what = || format!("lock layer {key}");
        held.lock().context(what)?;
        let own = held.metadata().context(what)?;
        if !std::fs::metadata(&home).is_ok_and(|now| now.ino() == own.ino()) {
            continue;
        }
        let Some(why) = fault(shared, key) else {
            note(shared, key);
            return Ok(true);
        };
        tracing::warn!(layer = %key, %why, "a damaged layer is unpacked again");
        set_aside(shared, key)?;
        return Ok(false);
    }
}

fn is_known(shared: &Shared, key: &Key, trust: Trust) -> bool {
    let seen = shared.layers.has_seen(key);
    let noted = || std::fs::read_to_string(shared.layers.home(key).join("boot")).is_ok_and(|at| at == boot());
    seen || trust == Trust::SinceBoot && !boot().is_empty() && noted()
}

fn note(shared: &Shared, key: &Key) {
    shared.layers.see(key);
    // Where this cannot be written it is looked at again next time.
    drop(std::fs::write(shared.layers.home(key).join("boot"), boot()));
}

/// What is wrong with a layer as far as a look shows.
fn fault(shared: &Shared, key: &Key) -> Option<String> {
    let facts = match shared.layers.facts(key) {
        Ok(Some(facts)) => facts,
        Ok(None) => return Some("its record is missing".into()),
        Err(why) => return Some(why.to_string()),
    };
    if shared.layers.form(key).is_none() {
        return Some("its content is missing".into());
    }
    // A layer of a store from before shapes were noted is believed.
    let wanted = facts.shape?;
    match shape(&shared.layers.diff(key)) {
        Err(why) => Some(why.to_string()),
        Ok(found) if found == wanted => None,
        Ok(found) => Some(format!(
            "{} names and {} bytes instead of {} and {}, or other owners, modes or times",
            found.names, found.bytes, wanted.names, wanted.bytes
        )),
    }
}

/// The first opening after a boot: are all blobs here with their sizes, and all layers? What is not is told, and comes
/// back with the next pull or use.
///
/// # Errors
/// [`Kind::System`](crate::Kind::System) for the disk.
pub(crate) fn after_boot(shared: &Shared) -> Result<()> {
    let path = shared.config.root.join("boot");
    if std::fs::read_to_string(&path).is_ok_and(|at| at == boot()) {
        return Ok(());
    }
    for entry in &shared.index.load()?.0.images {
        let image = entry.tags.iter().next().map_or_else(|| entry.config.to_string(), Clone::clone);
        if !shared.blobs.has(&entry.config, entry.config_size) {
            tracing::error!(image, "the configuration is lost: pull the image again");
        }
        for (layer, position) in entry.layers.iter().zip(positions(entry)) {
            if !shared.blobs.has(&layer.digest, layer.size) {
                tracing::warn!(image, layer = %layer.digest, "a blob is lost: pull the image again, or verify --repair");
            }
            if shared.layers.find(&position).is_none() {
                tracing::warn!(image, layer = %layer.digest, "a layer is lost; its next use unpacks it again");
            }
        }
    }
    // Not synced: without it this is done once more.
    drop(std::fs::write(path, boot()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_change_shows_but_content() {
        let dir = Scratch::new("shape");
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("d")).unwrap();
        std::fs::write(path("d/file"), "text").unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(7);
        let at = |name: &str, time| File::open(path(name)).unwrap().set_modified(time).unwrap();
        let look = || {
            at("d", time);
            shape(dir.path()).unwrap()
        };
        at("d/file", time);
        let before = look();
        assert_eq!((before.names, before.bytes), (2, 4));
        std::fs::write(path("d/file"), "TEXT").unwrap();
        at("d/file", time);
        assert_eq!(look(), before);
        std::fs::write(path("d/file"), "").unwrap();
        at("d/file", time);
        assert_ne!(look(), before, "an emptied file");
        std::fs::write(path("d/file"), "text").unwrap();
        assert_ne!(look(), before, "another time");
        at("d/file", time);
        std::fs::write(path("d/more"), "").unwrap();
        assert_ne!(look(), before, "one more");
        std::fs::rename(path("d/more"), path("d/file")).unwrap();
        at("d/file", time);
        assert_ne!(look(), before);
    }
}
