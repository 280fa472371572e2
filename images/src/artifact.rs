//! OCI artifacts (image-spec manifest.md "Guidelines for Artifact Usage"): manifests whose configuration is none of an
//! image. Each layer is one file under the name that its annotation `org.opencontainers.image.title` gives, as ORAS writes
//! it; an artifact is there to be mounted read-only as an image volume, never to be run.
//!
//! A layer's directory holds that one file, so that all drivers of root filesystems treat it like any other layer. Its
//! key must not be that of a tar archive with the same bytes, so it is made from the name and the blob's digest.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::digest::{Digest, Hasher};
use crate::error::{Context, Error, Kind, Result};
use crate::layers::{self, Position};
use crate::manifest::{Descriptor, Manifest};
use crate::unpack::Summary;

const TITLE: &str = "org.opencontainers.image.title";
/// Bytes of a file's name with its directories.
const LONGEST: usize = 1024;
/// What a file counts on disk.
const BLOCK: u64 = 4096;

/// The one file of a layer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct File {
    /// Below the layer's root: names joined by slashes, checked.
    pub(crate) name: String,
    /// The digest of its content.
    pub(crate) blob: Digest,
}

impl File {
    /// What stands for the layer's diff id.
    fn id(&self) -> Digest {
        Digest::of(format!("gantry artifact\0{}\0{}", self.name, self.blob).as_bytes())
    }
}

/// Where the layers of an artifact go.
///
/// # Errors
/// [`Kind::Invalid`] for names that are none, or that two files have.
pub(crate) fn positions(manifest: &Manifest) -> Result<Vec<Position>> {
    let files = manifest.layers.iter().map(file).collect::<Result<Vec<File>>>()?;
    let mut names = BTreeSet::new();
    if let Some(twice) = files.iter().find(|file| !names.insert(&file.name)) {
        return Err(Error::new(Kind::Invalid, format!("artifact: two files are named {:?}", twice.name)));
    }
    Ok(placed(files.into_iter().map(|file| (file.id(), Some(file))).collect()))
}

/// Positions of layers, lowest first, out of their diff ids and, for those of an artifact, their files.
pub(crate) fn placed(layers: Vec<(Digest, Option<File>)>) -> Vec<Position> {
    let diff_ids: Vec<Digest> = layers.iter().map(|(diff_id, _)| diff_id.clone()).collect();
    let chain = layers::chain_ids(&diff_ids);
    let all = layers.into_iter().zip(chain).enumerate();
    all.map(|(at, ((diff_id, file), chain_id))| Position { diff_id, chain_id, lowest: at == 0, file }).collect()
}

fn file(layer: &Descriptor) -> Result<File> {
    let name = layer.annotations.get(TITLE).map_or_else(|| layer.digest.hex(), String::as_str);
    let wrong = |why: &str| Error::new(Kind::Invalid, format!("artifact: file name {name:?} {why}"));
    let name = name.strip_prefix("./").unwrap_or(name);
    if name.is_empty() || name.len() > LONGEST {
        return Err(wrong("is empty or too long"));
    }
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.len() > 255 || part.contains(char::is_control);
    match name.split('/').any(bad) {
        true => Err(wrong("is no path below the volume")),
        false => Ok(File { name: name.to_owned(), blob: layer.digest.clone() }),
    }
}

/// Writes `input`, of `size` bytes, as the file below the empty directory `root`, owned by root and readable by all.
///
/// # Errors
/// [`Kind::Invalid`] if the content is not that of the digest; [`Kind::System`] for the disk.
pub(crate) fn place(input: &mut dyn Read, size: u64, file: &File, root: OwnedFd) -> Result<Summary> {
    let what = || format!("write {:?}", file.name);
    let mut dirs = vec![root];
    let mut parts: Vec<&str> = file.name.split('/').collect();
    let last = parts.pop().unwrap_or_default();
    let (executable, plain) = (Mode::from(0o755), Mode::from(0o644));
    for part in &parts {
        let above = dirs[dirs.len() - 1].as_fd();
        rustix::fs::mkdirat(above, *part, executable).context(what)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(above, *part, flags, Mode::empty()).context(what)?;
        rustix::fs::fchmod(&dir, executable).context(what)?;
        dirs.push(dir);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(dirs[dirs.len() - 1].as_fd(), last, flags, plain).context(what)?;
    rustix::fs::fchmod(&made, plain).context(what)?;
    let (mut to, mut hasher) = (std::fs::File::from(made), Hasher::new(file.blob.algorithm()));
    let mut buffer = vec![0; 256 << 10];
    let mut left = size;
    loop {
        let count = input.read(&mut buffer).context(|| "read the artifact")?;
        if count == 0 {
            break;
        }
        let more = || Error::new(Kind::Invalid, format!("artifact: more than {size} bytes in {:?}", file.name));
        left = left.checked_sub(count as u64).ok_or_else(more)?;
        hasher.update(&buffer[..count]);
        std::io::Write::write_all(&mut to, &buffer[..count]).context(what)?;
    }
    // No time of ours: the same artifact is the same tree everywhere.
    to.set_modified(std::time::UNIX_EPOCH).context(what)?;
    for dir in dirs.into_iter().rev() {
        std::fs::File::from(dir).set_modified(std::time::UNIX_EPOCH).context(what)?;
    }
    match hasher.finish() == file.blob {
        true => Ok(Summary {
            bytes: size.next_multiple_of(BLOCK) + parts.len() as u64 * BLOCK,
            inodes: 1 + parts.len() as u64,
            ..Summary::default()
        }),
        false => Err(Error::new(Kind::Invalid, format!("artifact: {:?} is not what its digest says", file.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn named(title: Option<&str>) -> Descriptor {
        let mut layer = Descriptor::plain(&Digest::of(b"hello"), 5);
        layer.annotations.extend(title.map(|title| (TITLE.to_owned(), title.to_owned())));
        layer
    }

    #[test]
    fn names_stay_below() {
        let said = |title: &str| file(&named(Some(title))).map(|file| file.name).map_err(|why| why.kind());
        assert_eq!(said("model.bin").as_deref(), Ok("model.bin"));
        assert_eq!(said("./a/b c/.wh.d").as_deref(), Ok("a/b c/.wh.d"));
        assert_eq!(file(&named(None)).unwrap().name, Digest::of(b"hello").hex());
        for bad in ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a//b", "a/", ".", "a\0b", "a\nb"] {
            assert_eq!(said(bad), Err(Kind::Invalid), "{bad:?}");
        }
        assert!(said(&"x".repeat(256)).is_err() && said(&"x/".repeat(600)).is_err());
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let layers = vec![named(Some("a")), named(Some("./a"))];
        let manifest = Manifest { config: named(None), layers, artifact: Some("x/y".into()) };
        assert!(positions(&manifest).unwrap_err().to_string().contains("two files"));
    }

    #[test]
    fn a_file_and_its_digest() {
        let dir = Scratch::new("artifact");
        let root = || {
            let path = dir.path().join("root");
            drop(std::fs::remove_dir_all(&path));
            std::fs::create_dir(&path).unwrap();
            crate::disk::open_dir(&path).unwrap()
        };
        let one = File { name: "a/b/c".into(), blob: Digest::of(b"hello") };
        let summary = place(&mut &b"hello"[..], 5, &one, root()).unwrap();
        assert_eq!((summary.bytes, summary.inodes, summary.whiteouts), (3 * BLOCK, 3, 0));
        assert_eq!(std::fs::read(dir.path().join("root/a/b/c")).unwrap(), b"hello");
        assert_eq!(place(&mut &b"hellO"[..], 5, &one, root()).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(place(&mut &b"hello"[..], 4, &one, root()).unwrap_err().kind(), Kind::Invalid);
    }
}
