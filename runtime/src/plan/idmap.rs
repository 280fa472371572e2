//! DECIDE: id-mapped mounts (config.md, "Mounts": `uidMappings`, `gidMappings`, options `idmap` and `ridmap`).
//!
//! The kernel takes such a mapping as a user namespace. It is the container's where the mount has none of its own;
//! equal mappings share one.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount};

use super::options::Options;
use super::step::Slot;
use super::{IdMaps, Opens, path_text};
use crate::error::{Error, Kind, Result};
use crate::spec::{host_id, is_joined};
use crate::sys::clone::flags;
use crate::sys::mount::Depth;

/// The slot of the user namespace that a mount is mapped by, and whether what is mounted below is mapped, too.
pub(super) fn decide(
    mount: &Mount,
    options: &Options,
    linux: &Linux,
    privileged: bool,
    opens: &mut Opens,
) -> Result<Option<(Slot, Depth)>> {
    let (uids, gids) = (list(mount.uid_mappings()), list(mount.gid_mappings()));
    if options.idmap.is_none() && uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    if options.bind.is_none() && mount.typ().as_deref() != Some("bind") {
        return Err(Error::new(Kind::Invalid, "options: only a bind mount can be id-mapped"));
    }
    if !privileged {
        let what = "options: id-mapped mounts need CAP_SYS_ADMIN outside of the container; a rootless runtime has none";
        return Err(Error::new(Kind::Unsupported, what));
    }
    let depth = options.idmap.unwrap_or(Depth::One);
    let slot = match (&options.mapping, uids.is_empty(), gids.is_empty()) {
        (Some(text), _, _) => opens.mapping(written(text, linux)?),
        (None, true, true) => container(linux, opens)?,
        (None, false, false) => opens.mapping(IdMaps { uid: lines(uids), gid: lines(gids) }),
        (None, true, false) => return Err(Error::new(Kind::Invalid, "uidMappings: needed beside gidMappings")),
        (None, false, true) => return Err(Error::new(Kind::Invalid, "gidMappings: needed beside uidMappings")),
    };
    Ok(Some((slot, depth)))
}

fn list(mappings: &Option<Vec<LinuxIdMapping>>) -> &[LinuxIdMapping] {
    mappings.as_deref().unwrap_or_default()
}

/// The mappings of the container's own user namespace.
pub(super) fn of_container(linux: &Linux) -> IdMaps {
    IdMaps { uid: lines(list(linux.uid_mappings())), gid: lines(list(linux.gid_mappings())) }
}

/// The text of a `uid_map`.
fn lines(mappings: &[LinuxIdMapping]) -> String {
    let line = |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
    mappings.iter().map(line).collect()
}

/// The container's own user namespace, or, as that does not exist yet, one with the same mappings.
fn container(linux: &Linux, opens: &mut Opens) -> Result<Slot> {
    let spaces = linux.namespaces().as_deref().unwrap_or_default();
    let space = spaces.iter().find(|space| space.typ() == LinuxNamespaceType::User).ok_or_else(|| {
        let what = "options: idmap needs uidMappings and gidMappings here: the container has no user namespace";
        Error::new(Kind::Invalid, what)
    })?;
    match space.path() {
        Some(path) if is_joined(space) => opens.namespace(flags::USER, path_text(path)?),
        _ => Ok(opens.mapping(of_container(linux))),
    }
}

/// crun's text: `uids=0-1000-10#10-2000-1;gids=0-1000-10`: id in the file system, id on the host, count. With `@` before
/// the first number the second one is an id in the container.
fn written(text: &str, linux: &Linux) -> Result<IdMaps> {
    let mut maps = IdMaps::default();
    for part in text.split(';') {
        let (into, ranges, of) = match part.split_once('=') {
            Some(("uids", ranges)) => (&mut maps.uid, ranges, list(linux.uid_mappings())),
            Some(("gids", ranges)) => (&mut maps.gid, ranges, list(linux.gid_mappings())),
            _ => return Err(wrong(text)),
        };
        for range in ranges.split('#') {
            let relative = range.strip_prefix('@');
            let numbers: Vec<u32> = relative
                .unwrap_or(range)
                .split('-')
                .map(str::parse)
                .collect::<Result<_, _>>()
                .map_err(|_| wrong(text))?;
            let &[inside, mut host, count] = numbers.as_slice() else { return Err(wrong(text)) };
            if relative.is_some() {
                host = host_id(host, of).ok_or_else(|| wrong(text))?;
            }
            into.push_str(&format!("{inside} {host} {count}\n"));
        }
    }
    match maps.uid.is_empty() || maps.gid.is_empty() {
        true => Err(wrong(text)),
        false => Ok(maps),
    }
}

fn wrong(text: &str) -> Error {
    let what = format!("options: idmap={text}: not like uids=0-1000-1;gids=0-1000-1, or not mapped in the container");
    Error::new(Kind::Invalid, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(json: serde_json::Value) -> Linux {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_text_that_podman_writes() {
        let map = serde_json::json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }]);
        let linux = linux(serde_json::json!({ "uidMappings": map, "gidMappings": map }));
        let maps = written("uids=0-1-10#10-11-10;gids=@0-3-1", &linux).unwrap();
        assert_eq!((maps.uid.as_str(), maps.gid.as_str()), ("0 1 10\n10 11 10\n", "0 100003 1\n"));
        for text in ["", "uids=0-1-10", "uids=0-1;gids=0-0-1", "uids=0-1-x;gids=0-0-1", "uids=@0-11-1;gids=0-0-1"] {
            assert!(written(text, &linux).is_err(), "{text}");
        }
    }
}
