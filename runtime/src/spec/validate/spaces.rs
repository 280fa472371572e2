//! What namespaces, id maps, names and devices must not say. Pure.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};

use super::{is_joined, wrong};
use crate::error::Result;

/// Longest host name and domain name (uname(2)).
const LONGEST_NAME: usize = 64;

pub(super) fn check(spec: &Spec, linux: &Linux) -> Result<()> {
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let length = name.as_ref().map_or(0, String::len);
        if length > LONGEST_NAME {
            return wrong(format!("{field}: {length} bytes are more than the {LONGEST_NAME} that the kernel takes"));
        }
    }
    maps(linux)?;
    offsets(linux)?;
    devices(linux)?;
    for name in linux.net_devices().iter().flat_map(|devices| devices.iter()) {
        network_device(linux, name.0, name.1.name().as_deref())?;
    }
    if let Some(class) = linux.intel_rdt().as_ref().and_then(|rdt| rdt.clos_id().as_deref()) {
        // "/" is the root class.
        if matches!(class, "." | "..") || class.len() > 1 && class.contains('/') {
            return wrong(format!("linux.intelRdt.closID: {class:?} is not the name of a class"));
        }
    }
    match linux.cgroups_path() {
        Some(path) if goes_up(path) => wrong(format!("linux.cgroupsPath: {path:?} must not contain ..")),
        _ => Ok(()),
    }
}

fn goes_up(path: &Path) -> bool {
    path.components().any(|part| matches!(part, std::path::Component::ParentDir))
}

fn maps(linux: &Linux) -> Result<()> {
    let space = linux.namespaces().iter().flatten().find(|space| space.typ() == LinuxNamespaceType::User);
    let lists = [("uidMappings", linux.uid_mappings()), ("gidMappings", linux.gid_mappings())];
    for (field, list) in lists {
        let list = list.as_deref().unwrap_or_default();
        match space {
            None if !list.is_empty() => {
                return wrong(format!("linux.{field}: needs a user namespace in linux.namespaces"));
            }
            Some(space) if list.is_empty() && !is_joined(space) && field == "uidMappings" => {
                return wrong(format!("linux.{field}: a new user namespace needs mappings"));
            }
            _ => id_maps(list, &format!("linux.{field}"))?,
        }
    }
    Ok(())
}

/// user_namespaces(7): no map is empty, none goes beyond the last id, none overlaps another on either side.
pub(super) fn id_maps(list: &[LinuxIdMapping], at: &str) -> Result<()> {
    let sides = |map: &LinuxIdMapping| [("containerID", map.container_id()), ("hostID", map.host_id())];
    for (index, map) in list.iter().enumerate() {
        if map.size() == 0 {
            return wrong(format!("{at}[{index}].size: must be above zero"));
        }
        for (side, (field, first)) in sides(map).into_iter().enumerate() {
            if first.checked_add(map.size()).is_none() {
                return wrong(format!("{at}[{index}].{field}: {first} and {} more are beyond the last id", map.size()));
            }
            let meets = |other: &LinuxIdMapping| {
                let start = sides(other)[side].1;
                start < first + map.size() && first < start.saturating_add(other.size())
            };
            if let Some(other) = list[..index].iter().position(meets) {
                return wrong(format!("{at}[{index}].{field}: overlaps with {at}[{other}]"));
            }
        }
    }
    Ok(())
}

fn offsets(linux: &Linux) -> Result<()> {
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if !matches!(&**clock, "monotonic" | "boottime") {
            return wrong(format!("linux.timeOffsets.{clock}: is neither monotonic nor boottime"));
        }
        if offset.nanosecs().is_some_and(|nanosecs| nanosecs >= 1_000_000_000) {
            return wrong(format!("linux.timeOffsets.{clock}.nanosecs: must be below a second"));
        }
    }
    Ok(())
}

fn devices(linux: &Linux) -> Result<()> {
    for (at, device) in linux.devices().iter().flatten().enumerate() {
        if let Some(mode) = device.file_mode().filter(|mode| mode & !0o177_777 != 0) {
            return wrong(format!("linux.devices[{at}].fileMode: {mode} (0o{mode:o}) is no mode of a file"));
        }
        for (field, id) in [("uid", device.uid()), ("gid", device.gid())] {
            if id == Some(u32::MAX) {
                return wrong(format!("linux.devices[{at}].{field}: {} is no id", u32::MAX));
            }
        }
    }
    Ok(())
}

fn network_device(linux: &Linux, name: &str, new_name: Option<&str>) -> Result<()> {
    if !linux.namespaces().iter().flatten().any(|space| space.typ() == LinuxNamespaceType::Network) {
        return wrong("linux.netDevices: needs a network namespace in linux.namespaces");
    }
    if !is_interface(name) {
        return wrong(format!("linux.netDevices: {name:?} is not the name of a network device"));
    }
    match new_name {
        Some(new) if !new.is_empty() && !is_interface(new) => {
            wrong(format!("linux.netDevices.{name}.name: {new:?} is not the name of a network device"))
        }
        _ => Ok(()),
    }
}

/// The kernel's `dev_valid_name`: at most 15 bytes, no slash, colon or white space.
pub(super) fn is_interface(name: &str) -> bool {
    let allowed = |letter: char| letter != '/' && letter != ':' && !letter.is_whitespace();
    (1..16).contains(&name.len()) && name != "." && name != ".." && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::spec::{TEMPLATE, check, parse};

    /// The template with a user and a time namespace and these fields of `linux`.
    fn said(fields: &Value) -> String {
        let mut json: Value = serde_json::from_str(TEMPLATE).unwrap();
        let linux = json["linux"].as_object_mut().unwrap();
        let spaces = linux["namespaces"].as_array_mut().unwrap();
        spaces.extend([json!({ "type": "user" }), json!({ "type": "time" })]);
        for field in ["uidMappings", "gidMappings"] {
            linux.insert(field.into(), json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]));
        }
        linux.extend(fields.as_object().unwrap().clone());
        let spec = parse(&json.to_string()).unwrap();
        check(&spec).map_or_else(|why| why.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn id_maps_are_full_apart_and_within_what_there_is() {
        let map = |first: u32, host: u32, size: u32| json!({ "containerID": first, "hostID": host, "size": size });
        let cases = [
            (json!([map(0, 1000, 10), map(10, 1010, 5)]), "fine"),
            (json!([map(0, 0, u32::MAX)]), "fine"),
            (json!([map(0, 1000, 0)]), "linux.uidMappings[0].size: must be above zero"),
            (
                json!([map(0, 1000, 10), map(9, 2000, 1)]),
                "linux.uidMappings[1].containerID: overlaps with linux.uidMappings[0]",
            ),
            (
                json!([map(0, 1000, 10), map(10, 1009, 1)]),
                "linux.uidMappings[1].hostID: overlaps with linux.uidMappings[0]",
            ),
            (
                json!([map(5, 1000, u32::MAX)]),
                "linux.uidMappings[0].containerID: 5 and 4294967295 more are beyond the last id",
            ),
        ];
        for (maps, sentence) in cases {
            assert_eq!(said(&json!({ "uidMappings": maps })), sentence);
        }
    }

    #[test]
    fn clocks_and_their_offsets() {
        assert_eq!(said(&json!({ "timeOffsets": { "boottime": { "secs": -5, "nanosecs": 7 } } })), "fine");
        let clock = said(&json!({ "timeOffsets": { "realtime": { "secs": 5 } } }));
        assert_eq!(clock, "linux.timeOffsets.realtime: is neither monotonic nor boottime");
        let nanosecs = said(&json!({ "timeOffsets": { "monotonic": { "nanosecs": 1_000_000_000 } } }));
        assert_eq!(nanosecs, "linux.timeOffsets.monotonic.nanosecs: must be below a second");
    }

    #[test]
    fn names_of_network_devices() {
        for name in ["eth0", "a", "fifteen.letters", "eth0.5", "-"] {
            assert!(super::is_interface(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen.letters."] {
            assert!(!super::is_interface(name), "{name:?}");
        }
    }
}
