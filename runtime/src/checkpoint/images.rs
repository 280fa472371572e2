//! The directory of images: made for saving, mistrusted for restoring.
//!
//! An archive of images may come from anywhere (CVE-2026-53489, -53492, -50195: a restore that believed one). So it may
//! hold regular files only, and one link to the images that it continues, which has to stay in the same directory or
//! beside it. No configuration is read from it: that is the caller's.

use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};

/// criu's name for the images that these continue.
const PARENT: &str = "parent";

/// Where the first three descriptors of the first process led; runc's name and shape.
const DESCRIPTORS: &str = "descriptors.json";

/// How many pre-dumps may stand behind one another.
const LONGEST_CHAIN: usize = 64;

/// The largest file of descriptors that is read, in bytes.
const LARGEST: u64 = 4096;

/// Makes the directory with its parents, 0700, if it is not there, and opens it.
pub(super) fn make(path: &Path) -> Result<OwnedFd> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).context(|| format!("make {}", path.display()))?;
    open(path)
}

/// Opens the directory; a link is no directory.
pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    Ok(opened.context(|| format!("open the image directory {}", path.display()))?.into())
}

/// Checks `--parent-path`: relative to the image directory, and a directory.
///
/// # Errors
/// `Invalid`, with the path.
pub(super) fn check_parent(images: &Path, parent: &Path) -> Result<()> {
    let wrong = |why: &str| Err(Error::new(Kind::Invalid, format!("--parent-path {}: {why}", parent.display())));
    if parent.is_absolute() {
        return wrong("has to be relative to the image directory");
    }
    match fs::metadata(images.join(parent)) {
        Ok(about) if about.is_dir() => Ok(()),
        Ok(_) => wrong("is no directory"),
        Err(why) => wrong(&why.to_string()),
    }
}

/// Refuses a directory that holds anything but what criu writes, and a chain of parents that leads elsewhere.
///
/// # Errors
/// `Invalid`, with the entry that does not belong there.
pub(super) fn check(images: &Path) -> Result<()> {
    let mut dir = fs::canonicalize(images).context(|| format!("find the image directory {}", images.display()))?;
    let around = dir.parent().map(Path::to_owned).unwrap_or_default();
    for _ in 0..LONGEST_CHAIN {
        match check_one(&dir)? {
            None => return Ok(()),
            Some(next) => {
                let found = fs::canonicalize(dir.join(&next));
                let found = found.context(|| format!("find {} of {}", next.display(), dir.display()))?;
                if found.parent() != Some(&around) && !found.starts_with(&dir) {
                    return refuse(&dir.join(PARENT), "leads out of the directory of the images");
                }
                dir = found;
            }
        }
    }
    refuse(images, "has too many parents")
}

/// Looks at every entry; returns where `parent` points.
fn check_one(dir: &Path) -> Result<Option<PathBuf>> {
    let mut parent = None;
    for entry in fs::read_dir(dir).context(|| format!("read {}", dir.display()))? {
        let entry = entry.context(|| format!("read {}", dir.display()))?;
        let (path, kind) = (entry.path(), entry.file_type());
        let kind = kind.context(|| format!("look at {}", path.display()))?;
        let is_images = kind.is_dir() && path.join("inventory.img").exists();
        if kind.is_symlink() && entry.file_name() == PARENT {
            let to = fs::read_link(&path).context(|| format!("read {}", path.display()))?;
            if to.is_absolute() || to.components().any(|part| matches!(part, Component::RootDir)) {
                return refuse(&path, "is an absolute link");
            }
            parent = Some(to);
        } else if kind.is_symlink() {
            return refuse(&path, "is a symbolic link");
        } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
            return refuse(&path, "is no regular file");
        } else if kind.is_dir() && !is_images && entry.file_name() != PARENT {
            return refuse(&path, "is a directory");
        }
    }
    Ok(parent)
}

fn refuse<T>(path: &Path, why: &str) -> Result<T> {
    let what = format!("{}: {why}; images are regular files, as criu wrote them", path.display());
    Err(Error::new(Kind::Invalid, what))
}

/// Notes where the standard streams led, so that a restore can give the same names to its own.
pub(super) fn write_descriptors(images: &Path, names: &[String]) -> Result<()> {
    let text = serde_json::to_vec(names).map_err(|why| Error::new(Kind::System, format!("write JSON: {why}")))?;
    let path = images.join(DESCRIPTORS);
    fs::write(&path, text).context(|| format!("write {}", path.display()))
}

/// The names noted by [`write_descriptors`], those alone that can stand for a stream of ours: `pipe:[7]`, `file[3:9]`.
///
/// # Errors
/// `Invalid`, if the file is not what `checkpoint` writes.
pub(super) fn descriptors(images: &OwnedFd, shown: &Path) -> Result<Vec<Option<String>>> {
    use std::io::Read as _;

    let path = shown.join(DESCRIPTORS);
    let inside = format!("/proc/self/fd/{}/{DESCRIPTORS}", images.as_raw_fd());
    let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(inside);
    let file = match opened {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.context(|| format!("open {}", path.display()))?,
    };
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).context(|| format!("read {}", path.display()))?;
    let names: Vec<String> =
        serde_json::from_str(&text).map_err(|why| Error::new(Kind::Invalid, format!("{}: {why}", path.display())))?;
    let mut seen: Vec<Option<String>> = Vec::new();
    for name in names.into_iter().take(3) {
        // One name stands for one stream: the first.
        let usable = is_name(&name) && !seen.iter().flatten().any(|other| *other == name);
        seen.push(usable.then_some(name));
    }
    Ok(seen)
}

fn is_name(name: &str) -> bool {
    let rest = name.strip_prefix("pipe:[").or_else(|| name.strip_prefix("file["));
    let Some(inner) = rest.and_then(|rest| rest.strip_suffix(']')) else { return false };
    !inner.is_empty() && inner.chars().all(|letter| letter.is_ascii_hexdigit() || letter == ':')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let dir = std::env::temp_dir().join(format!("gantry-images-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("images")).unwrap();
            fs::write(dir.join("images/inventory.img"), "x").unwrap();
            Scratch(dir)
        }

        fn check(&self) -> String {
            check(&self.0.join("images")).map_or_else(|why| why.to_string(), |()| "fine".to_owned())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn regular_files_are_fine_and_nothing_else_is() {
        let scratch = Scratch::new("kinds");
        let images = scratch.0.join("images");
        assert_eq!(scratch.check(), "fine");
        symlink("/etc/shadow", images.join("core-1.img")).unwrap();
        assert!(scratch.check().contains("core-1.img: is a symbolic link"), "{}", scratch.check());
        fs::remove_file(images.join("core-1.img")).unwrap();
        nix::unistd::mkfifo(&images.join("pages-1.img"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(scratch.check().contains("pages-1.img: is no regular file"), "{}", scratch.check());
        fs::remove_file(images.join("pages-1.img")).unwrap();
        fs::create_dir(images.join("sub")).unwrap();
        assert!(scratch.check().contains("sub: is a directory"), "{}", scratch.check());
    }

    #[test]
    fn parents_stay_beside_the_images() {
        let scratch = Scratch::new("parents");
        let images = scratch.0.join("images");
        fs::create_dir(scratch.0.join("before")).unwrap();
        symlink("../before", images.join("parent")).unwrap();
        assert_eq!(scratch.check(), "fine");
        symlink("../images", scratch.0.join("before/parent")).unwrap();
        assert!(scratch.check().contains("too many parents"), "a circle ends: {}", scratch.check());
        for (to, why) in [("../../", "leads out"), ("/etc", "is an absolute link"), ("../../../etc", "leads out")] {
            fs::remove_file(images.join("parent")).unwrap();
            symlink(to, images.join("parent")).unwrap();
            assert!(scratch.check().contains(why), "{to}: {}", scratch.check());
        }
    }

    #[test]
    fn descriptors_are_names_and_nothing_more() {
        let scratch = Scratch::new("descriptors");
        let images = scratch.0.join("images");
        let read = || descriptors(&open(&images).unwrap(), &images);
        assert_eq!(read().unwrap(), []);
        let names = ["file[1a:4]", "pipe:[77]", "pipe:[77]", "pipe:[5]"].map(str::to_owned);
        write_descriptors(&images, &names).unwrap();
        assert_eq!(read().unwrap(), [Some("file[1a:4]".to_owned()), Some("pipe:[77]".to_owned()), None]);
        write_descriptors(&images, &["/dev/pts/0".into(), "extRootNetNS".into(), "pipe:[]".into()]).unwrap();
        assert_eq!(read().unwrap(), [None, None, None]);
        fs::write(images.join("descriptors.json"), "{").unwrap();
        assert_eq!(read().unwrap_err().kind(), Kind::Invalid);
        fs::remove_file(images.join("descriptors.json")).unwrap();
        symlink("/etc/passwd", images.join("descriptors.json")).unwrap();
        assert!(read().unwrap_err().to_string().contains("ELOOP"));
    }

    #[test]
    fn a_parent_path_is_relative_and_there() {
        let scratch = Scratch::new("parent-path");
        let images = scratch.0.join("images");
        let said = |parent: &str| check_parent(&images, Path::new(parent)).map_err(|why| why.to_string());
        assert!(said("/tmp").unwrap_err().contains("has to be relative"));
        assert!(said("../nowhere").unwrap_err().contains("--parent-path ../nowhere: No such file"));
        assert!(said("inventory.img").unwrap_err().contains("is no directory"));
        assert_eq!(said("../images"), Ok(()));
    }
}
