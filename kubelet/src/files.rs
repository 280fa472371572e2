//! Files of the kubelet's own: private directories and atomic replacement.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::{Error, Result};

/// Makes `dir` and its parents, mode 0700 for what is new.
pub(crate) fn make_private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::io(format!("create {}", dir.display()), e))
}

/// Makes `dir` with `mode` whatever the umask; its parents are private.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    make_private_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
        .map_err(|e| Error::io(format!("set the mode of {}", dir.display()), e))
}

/// Replaces `file` by write and rename; readers see the old or the new.
pub(crate) fn replace(file: &Path, data: &[u8], mode: u32) -> Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let new = file.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        out.write_all(data)?;
        out.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&new, file)
    };
    write().map_err(|e| Error::io(format!("write {}", file.display()), e))
}

/// Reads at most `limit` bytes of a regular file, never through a final symlink, never blocking on a FIFO.
pub(crate) fn read_capped(file: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let open = fs::OpenOptions::new().read(true).custom_flags(flags).open(file)?;
    if !open.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut data = Vec::new();
    open.take(limit).read_to_end(&mut data)?;
    Ok(data)
}
