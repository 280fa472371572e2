//! The directories of configurations and of plugins, read anew at each use: a change counts from the next pod on.

use super::list::{self, List};
use crate::error::{Context as _, Error, Kind, Result};
use nix::libc::O_NONBLOCK;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Largest configuration file, in bytes.
const LARGEST: u64 = 1 << 20;

/// A configuration, and the file that it is from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    pub(super) file: PathBuf,
    pub(super) list: List,
}

/// The first `most` valid configurations (0: all), in the order of their files' names; at least one.
///
/// # Errors
/// `Unavailable`, with what is wrong with each file that was looked at.
pub(super) fn load(dir: &Path, most: usize) -> Result<Vec<Source>> {
    let mut found: Vec<Source> = Vec::new();
    let mut wrong = Vec::new();
    let limit = if most == 0 { usize::MAX } else { most };
    for file in files(dir, &["conflist", "conf", "json"])? {
        if found.len() == limit {
            break;
        }
        match read(dir, &file) {
            Ok(list) if found.iter().any(|other| other.list.name == list.name) => {
                wrong.push(format!("{}: network {} is configured twice", file.display(), list.name));
            }
            Ok(list) => found.push(Source { file, list }),
            Err(why) => wrong.push(why.to_string()),
        }
    }
    if found.is_empty() {
        let why = match wrong.is_empty() {
            true => format!("no network configuration in {}", dir.display()),
            false => format!("no valid network configuration in {}: {}", dir.display(), wrong.join("; ")),
        };
        return Err(Error::new(Kind::Unavailable, format!("cni plugin not initialized: {why}")));
    }
    Ok(found)
}

fn read(dir: &Path, file: &Path) -> Result<List> {
    let what = || file.display().to_string();
    let text = contents(file)?;
    let mut list = match file.extension().is_some_and(|ending| ending == "conflist") {
        true => list::parse_list(&text),
        false => list::parse_single(&text),
    }
    .context(what)?;
    if !list.inlined_only {
        for file in files(&dir.join(&list.name), &["conf"])? {
            let plugin = list::parse_plugin(&contents(&file)?).context(|| file.display().to_string())?;
            list.plugins.push(plugin);
        }
    }
    list.complete().context(what)
}

/// Files with one of these endings, in the order of their names; a directory that is not there has none.
fn files(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let what = || format!("list {}", dir.display());
    let listed = match fs::read_dir(dir) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.context(what)?,
    };
    let mut found = Vec::new();
    for entry in listed {
        let path = entry.context(what)?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| endings.contains(&ending)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A regular file's bytes: no pipe is waited for, nothing endless is read.
fn contents(file: &Path) -> Result<Vec<u8>> {
    let what = || format!("read {}", file.display());
    let opened: File = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(file).context(what)?;
    let data = opened.metadata().context(what)?;
    let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("{}: {why}", what())));
    if !data.is_file() {
        return refuse("is no regular file");
    }
    let mut text = Vec::new();
    opened.take(LARGEST + 1).read_to_end(&mut text).context(what)?;
    if text.len() as u64 > LARGEST {
        return refuse("is larger than 1 MiB");
    }
    Ok(text)
}

/// The program of a plugin: the first executable file of that name in the directories.
///
/// # Errors
/// `Unavailable`, in libcni's words.
pub(super) fn program(kind: &str, dirs: &[PathBuf]) -> Result<PathBuf> {
    let executable =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    dirs.iter().map(|dir| dir.join(kind)).find(executable).ok_or_else(|| {
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        Error::new(Kind::Unavailable, format!("failed to find plugin {kind:?} in path [{}]", dirs.join(" ")))
    })
}
