//! Where the state of containers lives: `--root`, or a default that depends on who calls.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::lifecycle::DEFAULT_ROOT;

/// The root directory of state, absolute.
///
/// # Errors
/// `Invalid` for a `--root` that cannot be meant.
pub(super) fn find(given: Option<&OsStr>) -> Result<PathBuf> {
    let Some(given) = given else { return Ok(default()) };
    let path = if given.is_empty() { PathBuf::from("/") } else { std::path::absolute(given).context(|| "--root")? };
    if path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).count() == 0 {
        let what = "--root: the root directory itself holds no state; name a directory of its own";
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(path)
}

/// Who is not root on the host has a runtime directory of his own.
fn default() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) if honours_xdg() => Path::new(&dir).join("gantry/runtime"),
        _ => PathBuf::from(DEFAULT_ROOT),
    }
}

fn honours_xdg() -> bool {
    if !nix::unistd::geteuid().is_root() {
        return true;
    }
    // user_namespaces(7): the first namespace maps everything to itself.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    !initial && std::env::var_os("USER").is_none_or(|user| user != "root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_a_directory_of_its_own() {
        assert_eq!(find(Some(OsStr::new("/a/b"))).unwrap(), Path::new("/a/b"));
        assert!(find(Some(OsStr::new("a"))).unwrap().is_absolute());
        for given in ["", "/", "//", "/.", "/./"] {
            assert!(find(Some(OsStr::new(given))).is_err(), "{given:?}");
        }
    }
}
