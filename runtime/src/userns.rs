//! DO, in the parent: user namespaces and their mappings (user_namespaces(7)), and mounts that are mapped by one.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use crate::error::{Context, Error, Kind, Result};
use crate::init::mounts::map_ids;
use crate::plan::{IdMaps, Mount, Tree, What};
use crate::spec::is_joined;
use crate::sys::clone::{self, Side, flags};
use crate::sys::mount::{self, MountAttr};
use crate::sys::{Errno, Solo, process};
use crate::talk;

/// The kernel takes a map in one write of less than a page.
const LONGEST: usize = 4095;

/// A user namespace that exists only to be a mapping: made by a short-lived child, held by the descriptor.
pub(crate) fn of_maps(maps: &IdMaps, alone: &Solo) -> Result<OwnedFd> {
    let (ours, theirs) = talk::pair()?;
    let (pid, pidfd) = match clone::clone3(alone, flags::USER, None).context(|| "clone user")? {
        Side::Child => {
            drop(ours);
            // Nothing is ever said: the end of the stream is the end of the child.
            let _ = theirs.hear();
            process::leave(0);
        }
        Side::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(theirs);
    let opened = write_maps(pid, maps).and_then(|()| {
        let path = format!("/proc/{pid}/ns/user");
        let opened = std::fs::File::open(&path).context(|| format!("open {path}"))?;
        Ok(OwnedFd::from(opened))
    });
    clone::kill_and_reap(pidfd.as_fd());
    drop(ours);
    opened.context(|| "make a user namespace for an id-mapped mount")
}

/// Clones a mount of the host for a child that cannot.
pub(crate) fn tree(wanted: &Tree, slots: &[OwnedFd]) -> Result<OwnedFd> {
    let path = wanted.path.to_string_lossy();
    let what = || format!("clone the mount {path}");
    let tree = mount::clone_path(&wanted.path, wanted.depth, wanted.follow).context(what)?;
    if wanted.slave {
        let attributes = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
        mount::mount_setattr(tree.as_fd(), c"", wanted.depth, &attributes).context(what)?;
    }
    if let Some((slot, depth)) = wanted.idmap {
        let user = slots.get(slot).ok_or_else(|| Error::new(Kind::System, "a slot is empty"))?;
        map_ids(&tree, user, depth).map_err(|errno| cannot_map(&path, errno))?;
    }
    Ok(tree)
}

/// The sentence for an id-mapped mount that the child was refused.
pub(crate) fn refused_map(mount: &Mount, errno: Errno) -> Option<Error> {
    match &mount.what {
        What::Bind { source, idmap: Some(_), .. } => Some(cannot_map(&source.to_string_lossy(), errno)),
        _ => None,
    }
}

fn cannot_map(path: &str, errno: Errno) -> Error {
    let error = Error::system(format!("map the ids of the mount {path}"), errno);
    match errno.raw() {
        libc::EINVAL => {
            let kind = kind_of(Path::new(path)).unwrap_or_else(|| "its file system".to_owned());
            Error::new(Kind::Unsupported, format!("{error}: {kind} does not support id-mapped mounts on this kernel"))
        }
        libc::EPERM => {
            Error::new(Kind::Unsupported, format!("{error}: it is id-mapped already, or is not ours to map"))
        }
        _ => error,
    }
}

/// The type of the file system that a path lies on, from the mount table.
fn kind_of(path: &Path) -> Option<String> {
    let device = std::fs::metadata(path).ok()?.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
    line.split_once(" - ")?.1.split(' ').next().map(str::to_owned)
}

/// Writes the id maps of a new user namespace from outside, where the capabilities are. Without these: the one line
/// that the kernel lets anybody write, or newuidmap(1) and newgidmap(1) for more.
pub(crate) fn write_maps(pid: i32, maps: &IdMaps) -> Result<()> {
    let write = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        if text.len() > LONGEST {
            let what = format!("{} bytes of mappings; the kernel takes {LONGEST}", text.len());
            return Err(Error::new(Kind::Invalid, what));
        }
        std::fs::write(&path, text).context(|| format!("write {path}"))
    };
    let permitted = process::capget().context(|| "look at the own capabilities")?.permitted;
    let has = |capability: caps::Capability| permitted & 1 << capability.index() != 0;
    let (uids, gids) = (has(caps::Capability::CAP_SETUID), has(caps::Capability::CAP_SETGID));
    let own = |id: u32, text: &str| own_alone(text, id);
    if maps.gid.is_empty() {
        write("setgroups", "deny")?;
    } else if gids {
        write("gid_map", &maps.gid).context(|| "linux.gidMappings")?;
    } else if own(nix::unistd::getegid().as_raw(), &maps.gid) {
        write("setgroups", "deny")?;
        write("gid_map", &maps.gid).context(|| "linux.gidMappings")?;
    } else {
        by_program("newgidmap", pid, &maps.gid).context(|| "linux.gidMappings")?;
    }
    match uids || own(nix::unistd::geteuid().as_raw(), &maps.uid) {
        true => write("uid_map", &maps.uid).context(|| "linux.uidMappings"),
        false => by_program("newuidmap", pid, &maps.uid).context(|| "linux.uidMappings"),
    }
}

/// Refuses a configuration that joins a user namespace by path and says that its mappings are others than they are;
/// containerd and CRI-O write both. `pid` is a process in it.
pub(crate) fn check_joined(pid: i32, linux: &Linux) -> Result<()> {
    let spaces = linux.namespaces().as_deref().unwrap_or_default();
    if !spaces.iter().any(|space| space.typ() == LinuxNamespaceType::User && is_joined(space)) {
        return Ok(());
    }
    for (field, file, said) in
        [("uidMappings", "uid_map", linux.uid_mappings()), ("gidMappings", "gid_map", linux.gid_mappings())]
    {
        let Some(said) = said.as_ref().filter(|said| !said.is_empty()) else { continue };
        let mut said: Vec<_> = said.iter().map(|map| (map.container_id(), map.host_id(), map.size())).collect();
        said.sort_unstable();
        let path = format!("/proc/{pid}/{file}");
        let text = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
        if ranges(&text) != said {
            let what = format!("linux.{field}: not those of the user namespace that is joined; leave one of them out");
            return Err(Error::new(Kind::Invalid, what));
        }
    }
    Ok(())
}

/// The lines of a `uid_map`, sorted.
fn ranges(text: &str) -> Vec<(u32, u32, u32)> {
    let range = |line: &str| -> Option<(u32, u32, u32)> {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?, numbers.next()?))
    };
    let mut found: Vec<_> = text.lines().filter_map(range).collect();
    found.sort_unstable();
    found
}

/// Whether a map is the one line that needs no privileges: a single id, one's own.
pub(crate) fn own_alone(map: &str, id: u32) -> bool {
    let numbers: Vec<&str> = map.split_whitespace().collect();
    matches!(numbers.as_slice(), [_, outside, "1"] if outside.parse() == Ok(id))
}

/// Has a map written by the set-user-id program that checks it against `/etc/subuid` or `/etc/subgid`.
fn by_program(program: &str, pid: i32, map: &str) -> Result<()> {
    let output = Command::new(program).arg(pid.to_string()).args(map.split_whitespace()).output();
    let output = match output {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            let what = format!(
                "an ordinary user can map only its own id; for more install {program} (package uidmap) and add \
                 ranges to /etc/sub{}",
                &program[3..6]
            );
            return Err(Error::new(Kind::Unsupported, what));
        }
        output => output.context(|| format!("run {program}"))?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(Kind::System, format!("{program}: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::{own_alone, ranges};

    #[test]
    fn the_map_that_anybody_may_write() {
        assert!(own_alone("0 1000 1\n", 1000));
        for map in ["0 1001 1\n", "0 1000 2\n", "0 1000 1\n1 100000 10\n", ""] {
            assert!(!own_alone(map, 1000), "{map:?}");
        }
    }

    #[test]
    fn the_kernels_columns() {
        assert_eq!(
            ranges("         1     100000         10\n         0       1000          1\n"),
            [(0, 1000, 1), (1, 100_000, 10)]
        );
    }
}
