//! DECIDE: the unit and the cgroup of a container, from `linux.cgroupsPath`. systemd.slice(5), systemd.unit(5).
//!
//! With the systemd driver the field is no path but `slice:prefix:name`, as every caller of runc writes it:
//! `system.slice:docker:1234` is the scope `docker-1234.scope` in `system.slice`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Longest name of a unit.
const LONGEST: usize = 255;

/// Whose systemd has the unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// The host's.
    #[default]
    System,
    /// The caller's own (`systemd --user`).
    User,
}

/// A unit of systemd that is the cgroup of a container; part of the facts on disk, so that every later verb knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `runc-web.scope`.
    pub name: String,
    /// The slice that it is in: `system.slice`.
    pub slice: String,
    /// Whose it is.
    #[serde(default)]
    pub owner: Owner,
}

impl Unit {
    /// The unit that `asked` (`linux.cgroupsPath`) names, or the usual one of the container `id`.
    ///
    /// # Errors
    /// `Invalid` for anything but `slice:prefix:name`, or a name that no unit can have.
    pub fn of(asked: Option<&str>, id: &str, owner: Owner) -> Result<Unit> {
        let wrong = |what: String| Err(Error::new(Kind::Invalid, format!("linux.cgroupsPath: {what}")));
        let (slice, prefix, name) = match asked.filter(|asked| !asked.is_empty()) {
            None => ("", "runc", id),
            Some(asked) => match asked.split(':').collect::<Vec<_>>().as_slice() {
                [slice, prefix, name] => (*slice, *prefix, *name),
                _ => return wrong(format!("expected slice:prefix:name for systemd, not {asked:?}")),
            },
        };
        let usual = match owner {
            Owner::System => "system.slice",
            Owner::User => "user.slice",
        };
        let slice = if slice.is_empty() { usual } else { slice };
        if name.ends_with(".slice") {
            return wrong(format!("{name} is a slice, which holds units and no processes"));
        }
        let unit = format!("{prefix}-{name}.scope");
        let plain = |letter: char| letter.is_ascii_alphanumeric() || ":-_.\\@".contains(letter);
        if name.is_empty() || unit.len() > LONGEST || !unit.chars().all(plain) {
            return wrong(format!("systemd can have no unit {unit:?}"));
        }
        expand(slice)?;
        Ok(Unit { name: unit, slice: slice.to_owned(), owner })
    }

    /// Its cgroup below that of its systemd.
    ///
    /// # Errors
    /// `Invalid` for a slice that cannot be.
    pub fn path(&self) -> Result<PathBuf> {
        Ok(expand(&self.slice)?.join(&self.name))
    }
}

/// The directories of a slice: `a-b.slice` is `a.slice/a-b.slice`, as the dash makes one the parent of the other.
fn expand(slice: &str) -> Result<PathBuf> {
    let wrong = || Error::new(Kind::Invalid, format!("linux.cgroupsPath: {slice:?} is not the name of a slice"));
    let name = slice.strip_suffix(".slice").ok_or_else(wrong)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ":-_.\\@".contains(letter);
    if slice.len() > LONGEST || name.split('-').any(str::is_empty) || !name.chars().all(plain) {
        return Err(wrong());
    }
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    Ok(ends.map(|end| format!("{}.slice", &name[..end])).collect::<Vec<_>>().iter().map(Path::new).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(asked: &str, owner: Owner) -> Result<String> {
        Unit::of(Some(asked), "web", owner)?.path().map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn slice_prefix_and_name_become_a_path() {
        for (asked, expected) in [
            ("system.slice:docker:1234", "system.slice/docker-1234.scope"),
            ("machine.slice:libpod:ab", "machine.slice/libpod-ab.scope"),
            (
                "kubepods-burstable-pod7.slice:cri-containerd:c",
                "kubepods.slice/kubepods-burstable.slice/\
              kubepods-burstable-pod7.slice/cri-containerd-c.scope",
            ),
            (":runc:x", "system.slice/runc-x.scope"),
            ("a.slice::x", "a.slice/-x.scope"),
            ("-.slice:p:x", "p-x.scope"),
            ("", "system.slice/runc-web.scope"),
        ] {
            assert_eq!(path(asked, Owner::System).unwrap(), expected, "{asked}");
        }
        assert_eq!(path("", Owner::User).unwrap(), "user.slice/runc-web.scope");
        assert_eq!(path(":p:x", Owner::User).unwrap(), "user.slice/p-x.scope");
    }

    #[test]
    fn what_no_unit_can_be_called_is_refused() {
        for asked in [
            "/kubepods/web",
            "a:b",
            "a:b:c:d",
            "a.slice:b:",
            "nothing:p:x",
            "a/b.slice:p:x",
            "-a.slice:p:x",
            "a--b.slice:p:x",
            ".slice:p:x",
            "a.slice:p/..:x",
            "a.slice:p:../x",
            "a.slice:p:x y",
            "../a.slice:p:x",
            "a.slice:p:x\n",
            "system.slice:p:a-b.slice",
        ] {
            let why = path(asked, Owner::System).unwrap_err();
            assert_eq!(why.kind(), Kind::Invalid, "{asked}");
            assert!(why.to_string().starts_with("linux.cgroupsPath: "), "{why}");
        }
        assert!(path(&format!("a.slice:p:{}", "x".repeat(300)), Owner::System).is_err());
    }

    #[test]
    fn a_unit_survives_the_disk() {
        let unit = Unit::of(None, "web", Owner::User).unwrap();
        let text = serde_json::to_string(&unit).unwrap();
        assert_eq!(text, r#"{"name":"runc-web.scope","slice":"user.slice","owner":"user"}"#);
        assert_eq!(serde_json::from_str::<Unit>(&text).unwrap(), unit);
    }
}
