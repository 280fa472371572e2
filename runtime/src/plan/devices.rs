//! DECIDE: device nodes and links below `/dev` (runtime-spec, "Default Devices" and "Linux devices").

use oci_spec::runtime::{Linux, LinuxDeviceType, Spec};

use super::step::{Device, Step};
use super::{c_string, path_text};
use crate::error::{Error, Kind, Result};
use crate::root::Place;

/// Nodes that every container has: path, major, minor.
const DEFAULT: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links that every container has.
const LINKS: &[(&str, &str)] = &[
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// The steps, for a `/dev` that is the container's own. `bind`: nodes cannot be made (user namespace).
pub(super) fn decide(spec: &Spec, linux: &Linux, bind: bool) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let asked = linux.devices().as_deref().unwrap_or_default();
    for (path, major, minor) in DEFAULT {
        if asked.iter().any(|device| device.path().as_os_str() == *path) {
            continue;
        }
        steps.push(Step::Device(Box::new(Device {
            to: Place::new(path)?,
            mode: libc::S_IFCHR | 0o666,
            number: libc::makedev(*major, *minor),
            owner: (0, 0),
            host: c_string(path)?,
            bind,
        })));
    }
    for (at, device) in asked.iter().enumerate() {
        let kind = match device.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => {
                return Err(Error::new(Kind::Invalid, format!("linux.devices[{at}].type: \"a\" is not a node")));
            }
        };
        let path = path_text(device.path())?;
        let number = |value: i64, field: &str| {
            u32::try_from(value).map_err(|_| {
                Error::new(Kind::Invalid, format!("linux.devices[{at}].{field}: {value} is not a number of a device"))
            })
        };
        steps.push(Step::Device(Box::new(Device {
            to: Place::new(path)?,
            mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
            number: libc::makedev(number(device.major(), "major")?, number(device.minor(), "minor")?),
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
            host: c_string(path)?,
            bind: bind && device.typ() != LinuxDeviceType::P,
        })));
    }
    let has_terminals = spec.mounts().iter().flatten().any(|mount| mount.typ().as_deref() == Some("devpts"));
    for (path, target) in LINKS.iter().filter(|(path, _)| has_terminals || *path != "/dev/ptmx") {
        steps.push(Step::Link(Place::new(path)?, c_string(target)?));
    }
    Ok(steps)
}
