//! Files of keys and certificates: written whole or not at all, readable by their owner alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Kind, Result};

pub(super) fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed("create", dir, e))
}

/// Keeps everybody else, in this process or another, from issuing in `dir` until it is dropped.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let locked = open.and_then(|file| file.lock().map(|()| file));
    locked.map_err(|e| failed("lock", &path, e))
}

pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| failed("read", path, e))
}

/// The file's text, or `None` if there is no such file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path, e)),
    }
}

/// Replaces the file: write beside, fsync, rename, fsync the directory.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let replace = || -> std::io::Result<()> {
        match std::fs::remove_file(beside) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(beside, path)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()
    };
    replace().map_err(|e| failed("write", path, e))
}

/// A node's name becomes a directory and a user name: an RFC 1123 subdomain, nothing else.
pub(super) fn check_node_name(name: &str) -> Result<()> {
    let label = |l: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        edge(l.chars().next()) && edge(l.chars().last()) && l.chars().all(inside)
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    Err(Error::new(Kind::BadRequest, format!("a node cannot be named {name:?}: the name must be a DNS subdomain")))
}

fn failed(what: &str, path: &Path, cause: std::io::Error) -> Error {
    Error::internal(format!("cannot {what} {}", path.display()), cause)
}
