//! Starting a monitor from a daemon: out of a sealed copy of the binary, in a session of its own.
//!
//! The copy is made once and executed for every pod, so its pages are shared, and nothing in a container can reach the
//! file on disk through `/proc/<pid>/exe` (CVE-2019-5736).

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::{Context, Error, Kind, Result};

/// A binary in memory that nobody can change any more.
#[derive(Debug)]
pub struct SealedBinary {
    memory: OwnedFd,
}

impl SealedBinary {
    /// Copies the binary at `path` into a memfd and seals it against writing, growing and shrinking.
    ///
    /// # Errors
    /// `System`, with the path and what could not be done.
    pub fn open(path: &Path) -> Result<Self> {
        let mut from = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
            .context(|| format!("open {}", path.display()))?;
        let memory = new_memory().context(|| "make a memfd")?;
        let mut into = File::from(memory);
        io::copy(&mut from, &mut into).context(|| format!("copy {} into memory", path.display()))?;
        into.rewind().context(|| "rewind the copy")?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(into.as_fd(), FcntlArg::F_ADD_SEALS(seals))
            .map_err(|errno| Error::system(format!("seal the copy of {}", path.display()), errno.into()))?;
        Ok(Self { memory: into.into() })
    }

    /// A command that runs it. Safe to start from a process with threads.
    pub fn command(&self) -> Command {
        Command::new(format!("/proc/self/fd/{}", self.memory.as_raw_fd()))
    }
}

/// `MFD_EXEC` of linux/memfd.h.
const MFD_EXEC: u32 = 0x10;

/// The kernel wants to hear since 6.3 that the memory is to be executed; older ones do not know the flag.
fn new_memory() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(c"gantry-runtime", flags | MFdFlags::from_bits_retain(MFD_EXEC)) {
        Err(nix::errno::Errno::EINVAL) => Ok(memfd_create(c"gantry-runtime", flags)?),
        memory => Ok(memory?),
    }
}

/// Starts the monitor of the pod whose directory is `dir`, and returns once it listens.
///
/// It has left the caller's process tree then: it is a child of init (or of the nearest subreaper), in a session of its
/// own, and there is nothing to wait for.
///
/// # Errors
/// `Exists`, if one lives there already; `System` with what the monitor said on its standard error.
pub fn spawn(binary: &SealedBinary, dir: &Path) -> Result<()> {
    if super::Client::connect(dir).is_ok() {
        return Err(Error::new(Kind::Exists, format!("a monitor already answers in {}", dir.display())));
    }
    let mut command = binary.command();
    command.arg("monitor").arg("--dir").arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Not `output()`'s stdin and not its signals either: the daemon's terminal is none of the monitor's business.
    let done = command.output().context(|| format!("start the monitor of {}", dir.display()))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let said = said.trim();
    let why = if said.is_empty() { done.status.to_string() } else { said.to_owned() };
    Err(Error::new(Kind::System, format!("start the monitor of {}: {why}", dir.display())))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::CommandExt;

    use super::*;

    #[test]
    fn the_copy_runs_and_cannot_be_written() {
        let sealed = SealedBinary::open(Path::new("/bin/echo")).unwrap();
        // Where echo is busybox, it goes by the name that it was called.
        let said = sealed.command().arg0("echo").arg("hello").output().unwrap();
        assert_eq!(said.stdout, b"hello\n");
        let path = format!("/proc/self/fd/{}", sealed.memory.as_raw_fd());
        let written = OpenOptions::new().write(true).open(path).and_then(|mut file| file.write(b"x"));
        assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn a_missing_binary_is_named() {
        let error = SealedBinary::open(Path::new("/nowhere/gantry-runtime")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/gantry-runtime"), "{error}");
    }

    #[test]
    fn what_the_monitor_says_is_what_the_caller_hears() {
        let dir = std::env::temp_dir();
        let error = spawn(&SealedBinary::open(Path::new("/bin/cat")).unwrap(), &dir).unwrap_err();
        assert!(error.to_string().contains("monitor"), "{error}");
    }
}
