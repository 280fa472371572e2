//! DECIDE: what of a container's mounts comes from outside of it. criu saves the others by itself; these it is told by
//! name when it saves, and where to find them when it restores.
//!
//! The name is the place in the container; on restoring, the source comes from the specification of the new container
//! and never from the images.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use crate::error::{Context, Error, Kind, Result};
use crate::plan::Host;
use crate::root::{Entry, Place, RootDir};
use crate::sys::fs;

/// A mount from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct External {
    /// Where it is in the container, as the specification spells it.
    pub(super) to: String,
    /// What is mounted there, on the host.
    pub(super) from: PathBuf,
}

/// Bind mounts, the container's own cgroups, and the devices that a user namespace gets from the host.
pub(super) fn externals(spec: &Spec, bundle: &Path, host: &Host) -> Result<Vec<External>> {
    let mut found = Vec::new();
    for (at, mount) in spec.mounts().iter().flatten().enumerate() {
        let to = text(mount.destination())?;
        if is_bind(mount) {
            let what = || Error::new(Kind::Invalid, format!("mounts[{at}]: source: is missing"));
            let from = bundle.join(mount.source().as_ref().ok_or_else(what)?);
            found.push(External { to, from });
        } else if is_cgroup(mount) {
            cgroups(&to, host, &mut found);
        }
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    let devices: Vec<String> = devices.map(|device| text(device.path())).collect::<Result<_>>()?;
    let devices = devices.into_iter().chain(DEVICES.iter().map(|name| (*name).to_owned()));
    if namespace(spec, LinuxNamespaceType::User).is_some() {
        // Nobody makes a node in a user namespace: they are the host's own, bound.
        found.extend(devices.map(|path| External { from: path.clone().into(), to: path }));
    }
    Ok(found)
}

/// Devices that every container has (runtime-spec, "Default Devices").
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// As `plan::mounts` lays them out: one bind, or a tmpfs with one for each tree.
fn cgroups(to: &str, host: &Host, found: &mut Vec<External>) {
    if let [only] = host.cgroups.as_slice()
        && only.v2
    {
        found.push(External { to: to.to_owned(), from: only.own.clone() });
        return;
    }
    for tree in &host.cgroups {
        let name = tree.mount.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        found.push(External { to: format!("{to}/{name}"), from: tree.own.clone() });
    }
}

fn is_bind(mount: &Mount) -> bool {
    let words = mount.options().as_deref().unwrap_or_default();
    mount.typ().as_deref() == Some("bind") || words.iter().any(|word| word == "bind" || word == "rbind")
}

fn is_cgroup(mount: &Mount) -> bool {
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
}

/// A namespace of the specification: `None` where the container has the host's, `Some(None)` for one of its own,
/// `Some(Some(path))` for one that it joins.
pub(super) fn namespace(spec: &Spec, of: LinuxNamespaceType) -> Option<Option<PathBuf>> {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let found = listed.iter().find(|space| space.typ() == of)?;
    Some(found.path().clone().filter(|path| !path.as_os_str().is_empty()))
}

/// Where a place of the container really is, as a path in it: links on the way are followed as the container would.
///
/// # Errors
/// `System`; what is not there is none but `None`.
pub(super) fn resolve(root: &RootDir, base: &Path, place: &str) -> Result<Option<String>> {
    let found = match root.find(&Place::new(place)?) {
        Err(errno) if errno.raw() == libc::ENOENT => return Ok(None),
        found => found.context(|| format!("find {place} in the container"))?,
    };
    let path =
        std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).context(|| format!("find {place}"))?;
    let inside = path.strip_prefix(base).unwrap_or(&path);
    Ok(Some(format!("/{}", inside.to_string_lossy().trim_start_matches('/'))))
}

/// Makes the places on which something is to be mounted, as the creation of the container would have: in the rootfs, or
/// in the source of the bind mount that covers the place. What lies on a tmpfs comes back with the images.
pub(super) fn make_places(root: &RootDir, spec: &Spec, bundle: &Path) -> Result<()> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for (at, mount) in mounts.iter().enumerate() {
        let to = Place::new(&text(mount.destination())?)?.to_string();
        let above = mounts[..at].iter().rev().find_map(|other| {
            let place = Place::new(&other.destination().to_string_lossy()).ok()?.to_string();
            to.strip_prefix(&format!("{place}/")).map(|rest| (other, rest.to_owned()))
        });
        let entry = match mount.source().as_ref().filter(|_| is_bind(mount)) {
            Some(source) if !bundle.join(source).is_dir() => Entry::File,
            _ => Entry::Directory,
        };
        let made = match above {
            None => root.ensure(&Place::new(&to)?, entry),
            Some((other, rest)) if is_bind(other) => {
                let source = bundle.join(other.source().clone().unwrap_or_default());
                root_dir(&source)?.ensure(&Place::new(&rest)?, entry)
            }
            Some(_) => continue,
        };
        made.context(|| format!("mounts[{at}]: make {to}"))?;
    }
    Ok(())
}

/// A directory of the host as a root.
pub(super) fn root_dir(path: &Path) -> Result<RootDir> {
    let name = std::ffi::CString::new(text(path)?)
        .map_err(|_| Error::new(Kind::Invalid, format!("{}: has a zero byte", path.display())))?;
    let opened = fs::open(&name, libc::O_PATH | libc::O_DIRECTORY);
    opened.map(RootDir::new).context(|| format!("open {}", path.display()))
}

/// Paths that were masked and are no directories: the null device lies on each.
pub(super) fn masked_files(root: &RootDir, spec: &Spec) -> Result<Vec<String>> {
    let paths = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref());
    let mut files = Vec::new();
    for path in paths.into_iter().flatten() {
        let Ok(found) = root.find(&Place::new(path)?) else { continue };
        let about = fs::fstat(found.as_fd()).context(|| format!("look at {path}"))?;
        if about.st_mode & libc::S_IFMT != libc::S_IFDIR {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| Error::new(Kind::Invalid, format!("{}: is not UTF-8", path.display())))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::CgroupMount;

    fn spec(text: &str) -> Spec {
        let mut whole: serde_json::Value = serde_json::from_str(crate::spec::TEMPLATE).unwrap();
        let given: serde_json::Value = serde_json::from_str(text).unwrap();
        for (key, value) in given.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn printed(text: &str, trees: &[(&str, bool)]) -> String {
        let cgroups = trees
            .iter()
            .map(|(mount, v2)| CgroupMount { mount: mount.into(), own: Path::new(mount).join("web"), v2: *v2 })
            .collect();
        let host = Host { cgroups, ..Host::default() };
        let found = externals(&spec(text), Path::new("/bundle"), &host).unwrap();
        found.iter().map(|one| format!("{} <- {}\n", one.to, one.from.display())).collect()
    }

    #[test]
    fn binds_and_cgroups_come_from_outside() {
        let text = r#"{"mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "source": "vol", "options": ["rbind", "ro"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/run/hosts"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}]}"#;
        let binds = "/data <- /bundle/vol\n/etc/hosts <- /run/hosts\n";
        let pure = printed(text, &[("/sys/fs/cgroup", true)]);
        assert_eq!(pure, format!("{binds}/sys/fs/cgroup <- /sys/fs/cgroup/web\n"));
        let hybrid = printed(text, &[("/cg/memory", false), ("/cg/unified", true)]);
        let own = "/sys/fs/cgroup/memory <- /cg/memory/web\n/sys/fs/cgroup/unified <- /cg/unified/web\n";
        assert_eq!(hybrid, format!("{binds}{own}"));
    }

    #[test]
    fn a_user_namespace_has_the_devices_of_the_host() {
        let text = r#"{"mounts": [], "linux": {"namespaces": [{"type": "user"}], "devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]}}"#;
        let found = printed(text, &[]);
        assert!(found.starts_with("/dev/fuse <- /dev/fuse\n/dev/null <- /dev/null\n"), "{found}");
    }

    #[test]
    fn namespaces_by_path() {
        let spec = spec(r#"{"linux": {"namespaces": [{"type": "network", "path": "/run/ns"}, {"type": "ipc"}]}}"#);
        assert_eq!(namespace(&spec, LinuxNamespaceType::Network), Some(Some("/run/ns".into())));
        assert_eq!(namespace(&spec, LinuxNamespaceType::Ipc), Some(None));
        assert_eq!(namespace(&spec, LinuxNamespaceType::Pid), None);
    }
}
