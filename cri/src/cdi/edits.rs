//! What a device does to an OCI specification. Pure but for the numbers of device nodes, which are looked up where a
//! file does not tell them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};

/// `containerEdits` of the specification.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    net_devices: Vec<NetDevice>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
    intel_rdt: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceNode {
    path: String,
    host_path: Option<String>,
    r#type: Option<String>,
    major: Option<u64>,
    minor: Option<u64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetDevice {
    host_interface_name: String,
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    r#type: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// The hooks that there are (runtime-spec, config.md).
const HOOKS: &[&str] = &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

pub(super) fn apply(spec: &mut Value, edits: &Edits) -> Result<()> {
    for line in &edits.env {
        env(spec, line)?;
    }
    for node in &edits.device_nodes {
        device(spec, node)?;
    }
    for device in &edits.net_devices {
        spec["linux"]["netDevices"][&device.host_interface_name] = json!({"name": device.name});
    }
    mounts(spec, &edits.mounts)?;
    for hook in &edits.hooks {
        if !HOOKS.contains(&hook.hook_name.as_str()) {
            return Err(invalid(format!("{:?} is no hook", hook.hook_name)));
        }
        let mut entry = json!({"path": hook.path, "args": hook.args, "env": hook.env});
        if let Some(seconds) = hook.timeout {
            entry["timeout"] = json!(seconds);
        }
        push(&mut spec["hooks"][&hook.hook_name], entry);
    }
    if let Some(rdt) = &edits.intel_rdt {
        spec["linux"]["intelRdt"] = rdt.clone();
    }
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        let groups = &mut spec["process"]["user"]["additionalGids"];
        if !groups.as_array().is_some_and(|known| known.contains(&json!(gid))) {
            push(groups, json!(gid));
        }
    }
    Ok(())
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, what)
}

fn push(list: &mut Value, entry: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(entry),
        None => *list = json!([entry]),
    }
}

/// A variable; one of the same name is replaced.
fn env(spec: &mut Value, line: &str) -> Result<()> {
    let Some((name, _)) = line.split_once('=').filter(|(name, _)| !name.is_empty() && !line.contains('\0')) else {
        return Err(invalid(format!("{line:?} is no variable")));
    };
    let list = &mut spec["process"]["env"];
    let same =
        |one: &&mut Value| one.as_str().and_then(|one| one.split_once('=')).is_some_and(|(known, _)| known == name);
    match list.as_array_mut().and_then(|list| list.iter_mut().find(same)) {
        Some(old) => *old = json!(line),
        None => push(list, json!(line)),
    }
    Ok(())
}

fn device(spec: &mut Value, node: &DeviceNode) -> Result<()> {
    let host = Path::new(node.host_path.as_ref().unwrap_or(&node.path));
    let told = node.r#type.as_deref().zip(node.major).zip(node.minor);
    let (kind, major, minor) = match told {
        Some(((kind, major), minor)) => (kind.to_owned(), major, minor),
        None => look_up(host)?,
    };
    let owner =
        |id: Option<u32>, field: &str| id.map_or_else(|| spec["process"]["user"][field].clone(), |id| json!(id));
    let mut entry = json!({"path": node.path, "type": kind, "major": major, "minor": minor});
    for (field, value) in [("uid", owner(node.uid, "uid")), ("gid", owner(node.gid, "gid"))] {
        if value.as_u64().is_some_and(|id| id > 0) {
            entry[field] = value;
        }
    }
    if let Some(mode) = node.file_mode.or_else(|| Some(fs::metadata(host).ok()?.mode() & 0o777)) {
        entry["fileMode"] = json!(mode);
    }
    let access = match node.permissions.as_deref() {
        None | Some("") => "rwm",
        Some("none") => "",
        Some(access) if access.chars().all(|c| "rwm".contains(c)) => access,
        Some(access) => return Err(invalid(format!("{}: permissions {access:?} are not of rwm", node.path))),
    };
    if let Some(list) = spec["linux"]["devices"].as_array_mut() {
        list.retain(|known| known["path"] != json!(node.path));
    }
    push(&mut spec["linux"]["devices"], entry);
    if matches!(kind.as_str(), "b" | "c") && !access.is_empty() {
        let rule = json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": access});
        push(&mut spec["linux"]["resources"]["devices"], rule);
    }
    Ok(())
}

fn look_up(path: &Path) -> Result<(String, u64, u64)> {
    let meta = fs::metadata(path).map_err(|why| invalid(format!("{}: {why}", path.display())))?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        kind if kind.is_fifo() => "p",
        _ => return Err(invalid(format!("{} is no device", path.display()))),
    };
    Ok((kind.to_owned(), nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev())))
}

/// Mounts take the place of what is mounted at the same path; outer paths come first again afterwards.
fn mounts(spec: &mut Value, wanted: &[Mount]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    for mount in wanted {
        if !mount.container_path.starts_with('/') {
            return Err(invalid(format!("mount {:?}: is not absolute", mount.container_path)));
        }
        if let Some(list) = spec["mounts"].as_array_mut() {
            list.retain(|known| known["destination"] != json!(mount.container_path));
        }
        let entry = json!({
            "destination": mount.container_path, "type": mount.r#type.as_deref().unwrap_or("bind"),
            "source": mount.host_path, "options": mount.options,
        });
        push(&mut spec["mounts"], entry);
    }
    if let Some(list) = spec["mounts"].as_array_mut() {
        list.sort_by_key(|mount| Path::new(mount["destination"].as_str().unwrap_or_default()).components().count());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(edits: Value) -> Result<Value> {
        let edits: Edits = serde_json::from_value(edits).unwrap();
        let mut spec = json!({
            "process": {"env": ["PATH=/bin", "X=old"], "user": {"uid": 33, "gid": 0, "additionalGids": [50]}},
            "mounts": [{"destination": "/a"}, {"destination": "/a/b/c"}],
            "linux": {"devices": [], "resources": {"devices": [{"allow": false, "access": "rwm"}]}},
        });
        apply(&mut spec, &edits).map(|()| spec)
    }

    #[test]
    fn variables_and_groups() {
        let spec = edited(json!({"env": ["X=new", "Y=1"], "additionalGids": [0, 44, 50]})).unwrap();
        assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "X=new", "Y=1"]));
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([50, 44]));
        assert!(edited(json!({"env": ["=x"]})).is_err());
    }

    #[test]
    fn device_nodes_are_looked_up_or_as_told() {
        let spec = edited(json!({"deviceNodes": [
            {"path": "/dev/own-null", "hostPath": "/dev/null", "permissions": "rw"},
            {"path": "/dev/card", "type": "c", "major": 226, "minor": 1, "fileMode": 0o660, "uid": 5, "gid": 44},
            {"path": "/dev/shut", "type": "c", "major": 226, "minor": 2, "permissions": "none"},
        ]}));
        let linux = spec.unwrap()["linux"].clone();
        let devices = linux["devices"].as_array().unwrap();
        assert_eq!(
            devices[0],
            json!({"path": "/dev/own-null", "type": "c", "major": 1, "minor": 3, "uid": 33, "fileMode": 0o666})
        );
        let card =
            json!({"path": "/dev/card", "type": "c", "major": 226, "minor": 1, "fileMode": 0o660, "uid": 5, "gid": 44});
        assert_eq!(devices[1], card);
        assert_eq!(devices.len(), 3);
        let rules = json!([
            {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            {"allow": true, "type": "c", "major": 226, "minor": 1, "access": "rwm"},
        ]);
        assert_eq!(linux["resources"]["devices"], rules);
        for wrong in [json!({"path": "/dev/nothing-here"}), json!({"path": "/etc/passwd"})] {
            assert!(edited(json!({"deviceNodes": [wrong]})).is_err(), "{wrong}");
        }
        let wrong = json!({"deviceNodes": [{"path": "/dev/null", "permissions": "x"}]});
        assert!(edited(wrong).unwrap_err().to_string().contains("rwm"));
    }

    #[test]
    fn mounts_replace_and_stay_in_order() {
        let mounts = json!({"mounts": [
            {"hostPath": "/h/b", "containerPath": "/a/b", "options": ["ro", "bind"]},
            {"hostPath": "tmpfs", "containerPath": "/a", "type": "tmpfs"},
        ]});
        let spec = edited(mounts).unwrap();
        let order: Vec<_> = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| (m["destination"].as_str().unwrap(), &m["type"]))
            .collect();
        assert_eq!(order, [("/a", &json!("tmpfs")), ("/a/b", &json!("bind")), ("/a/b/c", &Value::Null)]);
        assert!(edited(json!({"mounts": [{"hostPath": "/h", "containerPath": "b"}]})).is_err());
    }

    #[test]
    fn hooks_and_network_devices() {
        let spec = edited(json!({
            "hooks": [{"hookName": "createContainer", "path": "/usr/bin/ldcache", "args": ["ldcache", "update"], "timeout": 3}],
            "netDevices": [{"hostInterfaceName": "ib0", "name": "net1"}],
            "intelRdt": {"closID": "x"},
        }))
        .unwrap();
        let hook = json!([{"path": "/usr/bin/ldcache", "args": ["ldcache", "update"], "env": [], "timeout": 3}]);
        assert_eq!(spec["hooks"]["createContainer"], hook);
        assert_eq!(spec["linux"]["netDevices"], json!({"ib0": {"name": "net1"}}));
        assert_eq!(spec["linux"]["intelRdt"], json!({"closID": "x"}));
        assert!(edited(json!({"hooks": [{"hookName": "later", "path": "/x"}]})).is_err());
    }
}
