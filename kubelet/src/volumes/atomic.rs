//! The atomic writer: all files of a volume change at once, through the `..data` symlink to a directory
//! with a new name. A reader that holds `..data` open sees all old or all new files.
//! Upstream: pkg/volume/util/atomic_writer.go, whose layout this keeps.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::content::Payload;
use crate::error::{Error, Result};

const DATA: &str = "..data";

/// Makes `dir` hold exactly `files`; `group` owns them where given. Returns whether anything changed.
///
/// # Errors
/// `Kind::Io` naming the directory.
pub(crate) fn write(dir: &Path, files: &[Payload], group: Option<u32>) -> Result<bool> {
    write_all(dir, files, group).map_err(|e| Error::io(format!("write volume {}", dir.display()), e))
}

fn write_all(dir: &Path, files: &[Payload], group: Option<u32>) -> io::Result<bool> {
    let current = fs::read_link(dir.join(DATA)).ok();
    if current.as_ref().is_some_and(|c| holds(&dir.join(c), files)) {
        return Ok(false);
    }
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let name = format!("..{nanos}");
    let new = dir.join(&name);
    make_dir(&new, group)?;
    for file in files {
        write_one(&new, file, group)?;
    }
    let link = dir.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&name, &link)?;
    fs::rename(&link, dir.join(DATA))?;
    link_names(dir, files)?;
    if let Some(old) = current {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

/// Whether `dir` holds exactly these files with this content.
fn holds(dir: &Path, files: &[Payload]) -> bool {
    let same = |f: &Payload| {
        let path = dir.join(&f.path);
        fs::read(&path).is_ok_and(|data| data == f.data)
            && fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o700 == f.mode & 0o700)
    };
    files.iter().all(same) && count(dir) == files.len()
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { count(&e.path()) } else { 1 }).sum()
}

fn make_dir(dir: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(dir)?;
    chown(dir, None, group)?;
    let mode = if group.is_some() { 0o2775 } else { 0o755 };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

fn write_one(dir: &Path, file: &Payload, group: Option<u32>) -> io::Result<()> {
    let mut at = dir.to_path_buf();
    let mut parts = file.path.split('/').peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        if parts.peek().is_some() && !at.is_dir() {
            make_dir(&at, group)?;
        }
    }
    fs::write(&at, &file.data)?;
    chown(&at, file.owner, group)?;
    // With an fsGroup the group can read what the owner can.
    let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
    fs::set_permissions(&at, fs::Permissions::from_mode(mode))
}

/// One symlink a first path component, through `..data`; those no longer wanted are removed.
fn link_names(dir: &Path, files: &[Payload]) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.iter().filter_map(|f| f.path.split('/').next()).collect();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) {
            fs::remove_file(dir.join(&*name))?;
        }
    }
    for name in wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("{DATA}/{name}"), link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn file(path: &str, data: &str) -> Payload {
        Payload { path: path.into(), data: data.into(), mode: 0o640, owner: None }
    }

    fn listing(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("dir").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names.retain(|n| n == DATA || !n.starts_with(".."));
        names
    }

    #[test]
    fn files_change_all_at_once() {
        let dir = TempDir::new("atomic");
        let at = dir.path();
        assert!(write(at, &[file("a", "1"), file("sub/b", "2")], None).expect("first"));
        assert!(!write(at, &[file("a", "1"), file("sub/b", "2")], None).expect("same"));
        let held = fs::read_link(at.join(DATA)).expect("..data");
        assert_eq!(fs::read_to_string(at.join("sub/b")).expect("b"), "2");
        assert_eq!(fs::metadata(at.join("a")).expect("a").permissions().mode() & 0o777, 0o640);
        assert!(write(at, &[file("a", "one"), file("c", "3")], None).expect("second"));
        assert_ne!(fs::read_link(at.join(DATA)).expect("..data"), held);
        assert_eq!(listing(at), [DATA, "a", "c"]);
        assert!(!at.join(held).exists(), "the old files are gone");
        assert!(write(at, &[], None).expect("empty"));
        assert_eq!(listing(at), [DATA]);
    }
}
