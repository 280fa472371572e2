//! A container whose records cannot be read: damaged, half-written at a power cut, or of a newer version.
//!
//! What the file system and the kernel still tell is enough to be rid of it: the first process, its cgroups, and the
//! cgroup that a container of this name has when nobody asked for another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cgroup::{Cgroup, Layout};
use crate::error::Result;
use crate::state::{Home, Init, started};

/// Kills and removes what can be found of it, and then its directory. No hook runs: they were in the record.
pub(crate) fn destroy(home: Home, patience: Duration, end: impl FnOnce(Init) -> Result<()>) -> Result<()> {
    let layout = Layout::discover()?;
    let init = home.init().ok().flatten().filter(|init| started(init.pid) == Some(init.start));
    let mut paths = init.map(|init| paths(init.pid)).unwrap_or_default();
    let id = home.path().file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
    if let Ok(usual) = Cgroup::asked(&layout, None, &id) {
        paths.push(usual.path().to_owned());
    }
    let cgroups = paths.iter().map(|path| Cgroup::at(&layout, path)).collect::<Result<Vec<_>>>()?;
    let cgroups: Vec<Cgroup> = cgroups.into_iter().filter(Cgroup::exists).collect();
    // First of all: a frozen process does not die before it is thawed.
    cgroups.iter().try_for_each(Cgroup::kill_all)?;
    init.map_or(Ok(()), end)?;
    cgroups.iter().try_for_each(|cgroup| cgroup.delete(patience))?;
    home.remove()
}

/// Cgroups of a process below the mounts, without those that it shares with this one: nothing may end with it but itself.
fn paths(pid: i32) -> Vec<PathBuf> {
    let read = |of: &str| std::fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap_or_default();
    own(&read(&pid.to_string()), &read("self"))
}

fn own(theirs: &str, ours: &str) -> Vec<PathBuf> {
    let list = |text: &str| -> Vec<PathBuf> {
        text.lines().filter_map(|line| Some(PathBuf::from(line.splitn(3, ':').nth(2)?))).collect()
    };
    let shared = list(ours);
    let is_above = |path: &Path| shared.iter().any(|own| own.starts_with(path));
    let mut found: Vec<PathBuf> = list(theirs).into_iter().filter(|path| !is_above(path)).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cgroups_that_are_the_container_s_alone() {
        let theirs = "3:memory:/pods/web\n2:cpu:/pods/web\n1:freezer:/\n0::/system.slice\n";
        let ours = "3:memory:/\n2:cpu:/\n1:freezer:/\n0::/system.slice/me.service\n";
        assert_eq!(own(theirs, ours), [PathBuf::from("/pods/web")]);
        assert_eq!(own("0::/\n", "0::/\n"), Vec::<PathBuf>::new());
    }
}
