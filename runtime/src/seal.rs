//! Nothing in a container can write to the runtime's binary (CVE-2019-5736).
//!
//! A container's program may be `/proc/self/exe`, or a script that names it: then the kernel runs *this* binary as the
//! container's process, and another process of the container can open it through `/proc/<pid>/exe`. So the commands
//! that clone run from a copy that cannot be written to: a sealed memfd (what the daemon starts monitors from), a
//! read-only file system, or else a read-only private mount of the binary, from which the process executes itself once
//! more. No bytes are copied; the mount has no place in any namespace and ends with the process. A user who may not
//! mount runs from a sealed memfd with a copy, unless the binary is root's and no id of his can write to it.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::mount::{self, Depth, MountAttr, attr};
use crate::sys::process::{self, CStringArray};
use crate::sys::{Solo, fs};

/// Makes sure that this process runs from a binary that cannot be written to; executes itself again where needed.
///
/// # Errors
/// `System`, if neither way works: then no container may be made.
pub fn protect(_alone: &Solo) -> Result<()> {
    let exe = fs::open(c"/proc/self/exe", libc::O_RDONLY).context(|| "open /proc/self/exe")?;
    if is_protected(&exe)? {
        return Ok(());
    }
    let copy = match read_only(&exe) {
        Err(why) if why.errno().is_some_and(|errno| errno.raw() == libc::EPERM) => match belongs_to_root(&exe)? {
            true => return Ok(()),
            false => sealed(exe)?,
        },
        copy => copy?,
    };
    if !is_protected(&copy)? {
        return Err(Error::new(Kind::System, "the private mount of the binary is not read-only"));
    }
    let strings = |list: &mut dyn Iterator<Item = OsString>| -> Result<CStringArray> {
        let strings = list.map(|text| CString::new(text.into_vec())).collect::<std::result::Result<_, _>>();
        let strings = strings.map_err(|_| Error::new(Kind::Invalid, "an argument has a zero byte"))?;
        Ok(CStringArray::new(strings))
    };
    let args = strings(&mut std::env::args_os())?;
    let env = strings(&mut std::env::vars_os().map(|(mut key, value)| {
        key.push("=");
        key.push(value);
        key
    }))?;
    let errno = process::execve_fd(copy.as_fd(), &args, &env);
    Err(Error::system("execute the own binary from a read-only mount", errno))
}

fn is_protected(exe: &OwnedFd) -> Result<bool> {
    let sealed = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    if fs::is_read_only(exe.as_fd()).context(|| "look at the own binary")? {
        return Ok(true);
    }
    Ok(fs::seals(exe.as_fd()).is_ok_and(|seals| seals & sealed == sealed))
}

/// Whether the binary is root's alone, and this process another user's: none of the ids that such a user can map into a
/// container can write to it.
fn belongs_to_root(exe: &OwnedFd) -> Result<bool> {
    let about = fs::fstat(exe.as_fd()).context(|| "look at the own binary")?;
    Ok(!nix::unistd::geteuid().is_root() && about.st_uid == 0 && about.st_gid == 0 && about.st_mode & 0o022 == 0)
}

/// A copy of the binary that nobody can change.
fn sealed(exe: OwnedFd) -> Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};

    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let made = memfd_create(c"gantry-runtime", flags).map_err(crate::sys::Errno::from).context(|| "make a memfd")?;
    let (mut from, mut to) = (std::fs::File::from(exe), std::fs::File::from(made));
    std::io::copy(&mut from, &mut to).context(|| "copy the own binary")?;
    let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&to, FcntlArg::F_ADD_SEALS(all)).map_err(crate::sys::Errno::from).context(|| "seal the own binary")?;
    Ok(to.into())
}

/// The binary on a private read-only mount. Closing the descriptor at exec dissolves the mount's tree, so that nobody
/// can change its attributes; the running program keeps it alive.
fn read_only(exe: &OwnedFd) -> Result<OwnedFd> {
    let tree = mount::clone_tree(exe.as_fd(), c"", Depth::One).context(|| "clone the mount of the own binary")?;
    let attributes = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    mount::mount_setattr(tree.as_fd(), c"", Depth::One, &attributes).context(|| "make the own binary read-only")?;
    Ok(tree)
}
