//! Facts about the host, read so that `convert` can stay pure: capabilities, devices, security modules, profiles.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_cri_api::security_profile::ProfileType;
use gantry_cri_api::{Device, SecurityProfile};
use serde_json::Value;

use crate::convert::{ALL_CAPABILITIES, Host, HostDevice};
use crate::error::{Context, Error, Kind, Result};

/// The largest seccomp profile that is read.
const LARGEST_PROFILE: u64 = 1 << 20;

/// Device files that a container has of its own even when it gets all of the host's.
const OWN: &[&str] = &["/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/.udev"];

/// Reads what the host has; called once, at start.
pub fn look() -> Host {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = capabilities(&status);
    let own_score = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    let any_score = capabilities.contains("CAP_SYS_RESOURCE");
    Host {
        oom_score_floor: own_score.filter(|_| !any_score),
        apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|yes| yes.starts_with('Y')),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        devices: all_devices(),
        capabilities,
    }
}

/// The bounding set, which is what this process can give away (capabilities(7)).
fn capabilities(status: &str) -> BTreeSet<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let named = ALL_CAPABILITIES.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
    named.map(|(_, name)| (*name).to_owned()).collect()
}

fn all_devices() -> Vec<HostDevice> {
    let mut list = Vec::new();
    collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut list);
    list.retain(|device| !OWN.iter().any(|own| device.path.starts_with(own)));
    list.sort_by(|a, b| a.path.cmp(&b.path));
    list
}

/// Every device below `dir`, to appear below `inside`; links are not followed.
fn collect(dir: &Path, inside: &Path, access: &str, list: &mut Vec<HostDevice>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, inside) = (entry.path(), inside.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !OWN.iter().any(|own| path == Path::new(own)) => {
                collect(&path, &inside, access, list);
            }
            Ok(_) => list.extend(node(&path, &inside, access)),
            Err(_) => {}
        }
    }
}

fn node(path: &Path, inside: &Path, access: &str) -> Option<HostDevice> {
    let meta = fs::symlink_metadata(path).ok()?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(HostDevice {
        path: inside.to_owned(),
        kind,
        major: nix::sys::stat::major(meta.rdev()),
        minor: nix::sys::stat::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

/// The devices that a container's configuration names; a directory stands for all devices in it.
///
/// # Errors
/// [`Kind::Invalid`] for a path that leads to no device, or access that is not of `rwm`.
pub fn devices(wanted: &[Device]) -> Result<Vec<HostDevice>> {
    let mut list = Vec::new();
    for device in wanted {
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        if !access.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::new(Kind::Invalid, format!("devices: permissions {access:?} are not of rwm")));
        }
        let real = fs::canonicalize(&device.host_path);
        let real = real.map_err(|why| Error::new(Kind::Invalid, format!("devices: {}: {why}", device.host_path)))?;
        let inside =
            PathBuf::from(if device.container_path.is_empty() { &device.host_path } else { &device.container_path });
        let before = list.len();
        match real.is_dir() {
            true => collect(&real, &inside, access, &mut list),
            false => list.extend(node(&real, &inside, access)),
        }
        if list.len() == before {
            return Err(Error::new(Kind::Invalid, format!("devices: {} is no device", device.host_path)));
        }
    }
    Ok(list)
}

/// Reads the seccomp profile that `localhost_ref` names, if that is what is asked for.
///
/// # Errors
/// [`Kind::Invalid`] for a path that is empty or relative, and for what is not JSON.
pub fn localhost_profile(profile: Option<&SecurityProfile>) -> Result<Option<Value>> {
    let Some(profile) = profile.filter(|profile| profile.profile_type() == ProfileType::Localhost) else {
        return Ok(None);
    };
    let path = Path::new(profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref));
    let invalid = |why: String| Error::new(Kind::Invalid, format!("seccomp profile {}: {why}", path.display()));
    if !path.is_absolute() {
        return Err(invalid("localhost_ref is not an absolute path".into()));
    }
    let file = fs::File::open(path).map_err(|why| invalid(why.to_string()))?;
    if !file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST_PROFILE) {
        return Err(invalid("is not a file of at most 1 MiB".into()));
    }
    let mut text = Vec::new();
    file.take(LARGEST_PROFILE).read_to_end(&mut text).map_err(|why| invalid(why.to_string()))?;
    serde_json::from_slice(&text).map(Some).map_err(|why| invalid(why.to_string()))
}

/// Makes the directory that a mount names where nothing is there, as every CRI runtime does for hostPath volumes.
pub fn ensure_source(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Ok(()),
        Err(_) => fs::create_dir_all(path).context(|| format!("make the mount's source {}", path.display())),
    }
}

/// The binary that monitors are made from: as configured, else beside this executable, else in `PATH`.
///
/// # Errors
/// [`Kind::NotFound`], naming the places that were looked at.
pub fn runtime_binary(configured: Option<&Path>) -> Result<PathBuf> {
    const NAME: &str = "gantry-runtime";
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = beside.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join(NAME)));
    all.into_iter().find(|candidate| candidate.is_file()).ok_or_else(|| {
        Error::new(Kind::NotFound, "gantry-runtime: neither beside this program nor in PATH; set runtime_binary")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounding_set_by_name() {
        let set = capabilities("Name:\tx\nCapBnd:\t0000000000000401\n");
        assert_eq!(set.into_iter().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
        assert!(capabilities("").is_empty());
    }

    #[test]
    fn devices_are_looked_up() {
        let wanted = |path: &str, permissions: &str| {
            let device =
                Device { host_path: path.into(), container_path: "/dev/x".into(), permissions: permissions.into() };
            devices(&[device])
        };
        let null = &wanted("/dev/null", "rw").unwrap()[0];
        assert_eq!((null.kind, null.major, null.minor, null.access.as_str()), ('c', 1, 3, "rw"));
        assert_eq!(null.path, Path::new("/dev/x"));
        for (path, permissions) in [("/dev/null", "x"), ("/etc/passwd", ""), ("/dev/nothing", "")] {
            assert_eq!(wanted(path, permissions).unwrap_err().kind(), Kind::Invalid, "{path}");
        }
    }

    #[test]
    fn a_localhost_profile_is_read_or_refused() {
        let ask = |path: &str| {
            let profile = SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: path.into() };
            localhost_profile(Some(&profile))
        };
        for bad in ["", "profile.json", "/nonexistent/profile.json", "/proc", "/dev/zero", "/etc/passwd"] {
            assert_eq!(ask(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
        assert_eq!(localhost_profile(Some(&SecurityProfile::default())).unwrap(), None);
    }
}
