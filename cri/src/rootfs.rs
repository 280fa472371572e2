//! Reading in a mounted root filesystem: names are resolved inside of it, by openat2, and what is read is bounded.
//!
//! The image decides what is there: `/etc/passwd` may be a link to the host's, a pipe that never ends or 10 GiB long
//! (SECURITY_CASES 15 and 17; CVE-2022-23648).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::convert::{User, Wanted, resolve};
use crate::error::{Context, Error, Kind, Result};

/// The largest passwd or group that is read; the largest of real images is some hundred KiB.
const LARGEST: u64 = 4 << 20;

/// Resolves who is to run a container in this root filesystem.
///
/// # Errors
/// [`Kind::Invalid`] for somebody that the image does not know, or files that are none.
pub fn user(root: &Path, wanted: &Wanted) -> Result<User> {
    if !wanted.needs_files() {
        return resolve(wanted, "", "");
    }
    let dir = open_root(root)?;
    resolve(wanted, &read(&dir, "etc/passwd")?, &read(&dir, "etc/group")?)
}

/// The path on the host of `inside`, a directory or file of this root filesystem, with every link resolved inside.
///
/// # Errors
/// [`Kind::Invalid`] where there is nothing.
pub fn beneath(root: &Path, inside: &str) -> Result<PathBuf> {
    if Path::new(inside).components().any(|part| part == Component::ParentDir) {
        return Err(Error::new(Kind::Invalid, format!("sub path {inside:?}: leads upwards")));
    }
    let inside = inside.trim_matches('/');
    if inside.is_empty() {
        return Ok(root.to_owned());
    }
    let found = look_up(&open_root(root)?, inside, OFlag::O_PATH);
    let found = found.map_err(|errno| Error::new(Kind::Invalid, format!("sub path {inside:?}: {}", errno.desc())))?;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).context(|| "resolve the sub path")?;
    match path.starts_with(root) {
        true => Ok(path),
        false => Err(Error::new(Kind::Invalid, format!("sub path {inside:?}: leads out of the image"))),
    }
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| format!("open {}", root.display()))
}

fn look_up(root: &impl AsFd, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// The text of a regular file; of one that is missing, nothing.
fn read(root: &OwnedFd, path: &str) -> Result<String> {
    // Not blocking: a pipe must not hold us, and is refused below.
    let file = match look_up(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(errno).context(|| format!("open the image's /{path}")),
    };
    let meta = file.metadata().context(|| format!("look at the image's /{path}"))?;
    if !meta.is_file() || meta.len() > LARGEST {
        let why = if meta.is_file() { "is larger than 4 MiB" } else { "is no regular file" };
        return Err(Error::new(Kind::Invalid, format!("the image's /{path} {why}")));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).context(|| format!("read the image's /{path}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use gantry_cri_api::LinuxContainerSecurityContext;

    use super::*;
    use crate::convert::wanted;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("gantry-cri-rootfs-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("etc")).unwrap();
            Self(dir)
        }

        fn user(&self, name: &str) -> Result<User> {
            user(&self.0, &wanted(&LinuxContainerSecurityContext::default(), name)?)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn no_files_are_empty_files() {
        let root = Root::new("none");
        assert_eq!(root.user("7").unwrap().uid, 7);
        assert_eq!(root.user("root").unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn links_stay_inside() {
        let root = Root::new("links");
        fs::write(root.0.join("passwd"), "web:x:33:33::/srv:/bin/sh\n").unwrap();
        symlink("/passwd", root.0.join("etc/passwd")).unwrap();
        assert_eq!(root.user("web").unwrap().uid, 33);
        fs::remove_file(root.0.join("etc/passwd")).unwrap();
        symlink("../../../../../../../../etc/passwd", root.0.join("etc/passwd")).unwrap();
        // Inside the root this leads back to itself: a loop, never the host's file.
        assert!(root.user("root").is_err());
    }

    #[test]
    fn case_15_hostile_files_are_refused_at_once() {
        let root = Root::new("hostile");
        File::create(root.0.join("etc/passwd")).unwrap().set_len(10 << 30).unwrap();
        assert!(root.user("root").unwrap_err().to_string().contains("4 MiB"));
        fs::remove_file(root.0.join("etc/passwd")).unwrap();
        nix::unistd::mkfifo(&root.0.join("etc/group"), Mode::S_IRWXU).unwrap();
        assert!(root.user("1").unwrap_err().to_string().contains("regular"));
    }

    #[test]
    fn case_17_a_sub_path_does_not_leave_the_image() {
        let root = Root::new("sub");
        fs::create_dir(root.0.join("data")).unwrap();
        symlink("/etc", root.0.join("out")).unwrap();
        symlink("../../../..", root.0.join("up")).unwrap();
        assert_eq!(beneath(&root.0, "data").unwrap(), root.0.join("data"));
        assert_eq!(beneath(&root.0, "/").unwrap(), root.0);
        assert_eq!(beneath(&root.0, "out").unwrap(), root.0.join("etc"));
        assert_eq!(beneath(&root.0, "up").unwrap(), root.0);
        assert!(beneath(&root.0, "../x").is_err());
        assert!(beneath(&root.0, "missing").is_err());
    }
}
