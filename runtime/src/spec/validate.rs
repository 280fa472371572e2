//! What a `config.json` must and must not say, beyond its types. Pure; every sentence starts with a JSON path.

mod attributes;
mod resources;
mod spaces;

use oci_spec::runtime::{Hook, Hooks, Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, Process, Spec};

use crate::error::{Error, Kind, Result};

fn wrong<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::new(Kind::Invalid, what))
}

/// Checks a whole specification.
///
/// # Errors
/// `Invalid` with the JSON path of what is wrong; `Unsupported` for what this runtime cannot do.
pub fn check(spec: &Spec) -> Result<()> {
    let version = spec.version();
    let minor = version.strip_prefix("1.").and_then(|rest| rest.chars().next());
    if !minor.is_some_and(|digit| digit.is_ascii_digit()) {
        return wrong(format!("ociVersion: {version:?} is not a 1.x version"));
    }
    match spec.root() {
        Some(root) if root.path().as_os_str().is_empty() => return wrong("root.path: must not be empty"),
        Some(_) => {}
        None => return wrong("root: is missing"),
    }
    let Some(process) = spec.process() else {
        return wrong("process: is missing");
    };
    check_process(process, "process.")?;
    for (at, mount) in spec.mounts().iter().flatten().enumerate() {
        if mount.destination().as_os_str().is_empty() {
            return wrong(format!("mounts[{at}].destination: must not be empty"));
        }
        for (field, maps) in [("uidMappings", mount.uid_mappings()), ("gidMappings", mount.gid_mappings())] {
            spaces::id_maps(maps.as_deref().unwrap_or_default(), &format!("mounts[{at}].{field}"))?;
        }
    }
    check_hooks(spec.hooks().as_ref())?;
    match spec.linux() {
        Some(linux) => check_linux(spec, linux),
        None => wrong("linux: is missing"),
    }
}

/// Checks a process; `at` is the JSON path that stands before its fields (`"process."`, or nothing).
///
/// # Errors
/// `Invalid` with the JSON path of what is wrong.
pub fn check_process(process: &Process, at: &str) -> Result<()> {
    match process.args().as_deref() {
        None | Some([]) => return wrong(format!("{at}args: must not be empty")),
        Some([program, ..]) if program.is_empty() => return wrong(format!("{at}args[0]: must not be empty")),
        Some(args) => no_nul(args, &format!("{at}args"))?,
    }
    if !process.cwd().is_absolute() {
        return wrong(format!("{at}cwd: must be an absolute path, not {:?}", process.cwd()));
    }
    if let Some(env) = process.env() {
        no_nul(env, &format!("{at}env"))?;
    }
    attributes::check(process, at)?;
    let mut seen = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        if seen.contains(&limit.typ()) {
            return wrong(format!("{at}rlimits[{index}].type: {} is there twice", limit.typ()));
        }
        if limit.soft() > limit.hard() {
            return wrong(format!("{at}rlimits[{index}].soft: {} is above hard {}", limit.soft(), limit.hard()));
        }
        seen.push(limit.typ());
    }
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            wrong(format!("{at}oomScoreAdj: {score} is not between -1000 and 1000"))
        }
        _ => Ok(()),
    }
}

/// A list of processors or memory nodes as the kernel reads it (cpuset(7), "List format"): `0-3,7`, `0-31:2/4`.
fn cpu_list(list: &str, at: &str) -> Result<()> {
    let number = |text: &str| text.parse::<u32>().ok();
    let range = |part: &str| {
        let (part, group) = part.split_once(':').map_or((part, None), |(part, group)| (part, Some(group)));
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let ordered = matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last);
        let grouped = group.is_none_or(|group| {
            group.split_once('/').is_some_and(|(used, size)| number(used).is_some() && number(size).is_some())
        });
        ordered && grouped || part == "all"
    };
    match list.split(',').map(str::trim).filter(|part| !part.is_empty()).find(|part| !range(part)) {
        Some(part) => wrong(format!("{at}: {part:?} is neither a number nor a range")),
        None => Ok(()),
    }
}

fn no_nul(texts: &[String], at: &str) -> Result<()> {
    match texts.iter().position(|text| text.contains('\0')) {
        Some(index) => wrong(format!("{at}[{index}]: must not contain a zero byte")),
        None => Ok(()),
    }
}

#[allow(deprecated, reason = "prestart hooks are deprecated but in wide use")]
fn check_hooks(hooks: Option<&Hooks>) -> Result<()> {
    let Some(hooks) = hooks else { return Ok(()) };
    let kinds: [(&str, &Option<Vec<Hook>>); 6] = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, list) in kinds {
        for (at, hook) in list.iter().flatten().enumerate() {
            if !hook.path().is_absolute() {
                return wrong(format!("hooks.{kind}[{at}].path: must be an absolute path, not {:?}", hook.path()));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return wrong(format!("hooks.{kind}[{at}].timeout: must be above zero"));
            }
        }
    }
    Ok(())
}

fn check_linux(spec: &Spec, linux: &Linux) -> Result<()> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let of = |kind| namespaces.iter().find(|space| space.typ() == kind);
    for (at, space) in namespaces.iter().enumerate() {
        if namespaces[..at].iter().any(|other| other.typ() == space.typ()) {
            return wrong(format!("linux.namespaces[{at}].type: {} is there twice", name(space)));
        }
        match space.path() {
            Some(path) if !path.is_absolute() && !path.as_os_str().is_empty() => {
                return wrong(format!("linux.namespaces[{at}].path: must be absolute, not {path:?}"));
            }
            _ => {}
        }
    }
    if of(LinuxNamespaceType::Mount).is_none() {
        check_without_mounts(linux)?;
    }
    if spec.hostname().as_ref().is_some_and(|name| !name.is_empty()) && of(LinuxNamespaceType::Uts).is_none() {
        return wrong("hostname: needs a uts namespace in linux.namespaces");
    }
    if spec.domainname().as_ref().is_some_and(|name| !name.is_empty()) && of(LinuxNamespaceType::Uts).is_none() {
        return wrong("domainname: needs a uts namespace in linux.namespaces");
    }
    if linux.time_offsets().is_some() && of(LinuxNamespaceType::Time).is_none_or(is_joined) {
        return wrong("linux.timeOffsets: needs a new time namespace in linux.namespaces");
    }
    spaces::check(spec, linux)?;
    check_paths(linux)?;
    if let Some(limits) = linux.resources() {
        resources::check(limits)?;
    }
    Ok(())
}

/// What cannot be had in the runtime's own mount namespace: it would change the host.
fn check_without_mounts(linux: &Linux) -> Result<()> {
    let any = |paths: &Option<Vec<String>>| paths.as_ref().is_some_and(|paths| !paths.is_empty());
    for (field, asked) in [("maskedPaths", any(linux.masked_paths())), ("readonlyPaths", any(linux.readonly_paths()))] {
        if asked {
            return wrong(format!("linux.{field}: needs a mount namespace in linux.namespaces"));
        }
    }
    if lists(linux, LinuxNamespaceType::User) {
        return wrong("linux.namespaces: a user namespace needs a mount namespace to mount anything in");
    }
    Ok(())
}

/// Whether a container has a namespace of this type, new or joined.
pub(crate) fn lists(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|space| space.typ() == kind)
}

/// The host's number of an id of the container.
pub(crate) fn host_id(id: u32, mappings: &[LinuxIdMapping]) -> Option<u32> {
    mappings.iter().find_map(|map| {
        let into = id.checked_sub(map.container_id()).filter(|into| *into < map.size())?;
        map.host_id().checked_add(into)
    })
}

/// Whether a namespace is one that exists already. An empty path is no path, as with runc.
pub(crate) fn is_joined(space: &LinuxNamespace) -> bool {
    space.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty())
}

/// How the specification writes a namespace's type.
fn name(space: &LinuxNamespace) -> &'static str {
    match space.typ() {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

fn check_paths(linux: &Linux) -> Result<()> {
    for (at, device) in linux.devices().iter().flatten().enumerate() {
        if !device.path().is_absolute() {
            return wrong(format!("linux.devices[{at}].path: must be absolute, not {:?}", device.path()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{TEMPLATE, parse};

    /// The template with one change, and the sentence that the change earns.
    fn refused(pointer: &str, value: &str) -> String {
        let mut json: serde_json::Value = serde_json::from_str(TEMPLATE).unwrap();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[field] = serde_json::from_str(value).unwrap();
        let spec: Spec = parse(&json.to_string()).unwrap();
        check(&spec).unwrap_err().to_string()
    }

    #[test]
    fn every_refusal_starts_with_the_path() {
        let cases = [
            ("/ociVersion", r#""0.9""#, "ociVersion: \"0.9\" is not a 1.x version"),
            ("/root", "null", "root: is missing"),
            ("/process/args", "[]", "process.args: must not be empty"),
            ("/process/cwd", r#""tmp""#, "process.cwd: must be an absolute path, not \"tmp\""),
            ("/process/oomScoreAdj", "2000", "process.oomScoreAdj: 2000 is not between -1000 and 1000"),
            (
                "/process/rlimits",
                r#"[{"type":"RLIMIT_CORE","soft":2,"hard":1}]"#,
                "process.rlimits[0].soft: 2 is above hard 1",
            ),
            (
                "/linux/namespaces",
                r#"[{"type":"mount"},{"type":"pid"},{"type":"pid"}]"#,
                "linux.namespaces[2].type: pid is there twice",
            ),
            ("/linux/namespaces", r#"[{"type":"mount"}]"#, "hostname: needs a uts namespace in linux.namespaces"),
            (
                "/linux/namespaces",
                r#"[{"type":"mount"},{"type":"uts"},{"type":"user"}]"#,
                "linux.uidMappings: a new user namespace needs mappings",
            ),
            ("/hooks", r#"{"poststop":[{"path":"x"}]}"#, "hooks.poststop[0].path: must be an absolute path, not \"x\""),
        ];
        for (pointer, value, sentence) in cases {
            let mut json: serde_json::Value = serde_json::from_str(TEMPLATE).unwrap();
            if json.pointer(pointer).is_none() && pointer == "/hooks" {
                json["hooks"] = serde_json::json!({});
            }
            assert_eq!(refused(pointer, value), sentence);
        }
    }

    #[test]
    fn ids_outside() {
        let map = |inside, outside, size| serde_json::json!({ "containerID": inside, "hostID": outside, "size": size });
        let maps = serde_json::json!([map(0, 1000, 1), map(1, 100_000, 10)]);
        let maps: Vec<LinuxIdMapping> = serde_json::from_value(maps).unwrap();
        assert_eq!(host_id(0, &maps), Some(1000));
        assert_eq!(host_id(10, &maps), Some(100_009));
        assert_eq!(host_id(11, &maps), None);
    }
}
