//! What was restored has no more rights than the specification gives.
//!
//! Images say with which capabilities, in which namespaces, under which mounts a process runs, and criu does as they say.
//! So before the first instruction runs, everything restored is compared with the specification of the new container;
//! whatever has more is killed. SECURITY row 22.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

use super::mounts;
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Kind, Result};
use crate::plan;
use crate::state::Facts;
use crate::sys::clone::flags;

/// Kinds of namespaces as procfs calls them.
const SPACES: [(&str, LinuxNamespaceType); 8] = [
    ("mnt", LinuxNamespaceType::Mount),
    ("cgroup", LinuxNamespaceType::Cgroup),
    ("uts", LinuxNamespaceType::Uts),
    ("ipc", LinuxNamespaceType::Ipc),
    ("user", LinuxNamespaceType::User),
    ("pid", LinuxNamespaceType::Pid),
    ("net", LinuxNamespaceType::Network),
    ("time", LinuxNamespaceType::Time),
];

/// The namespaces in which a process differs from this one, as the kernel's flags. criu restores into a time namespace
/// of its own, which the specification does not tell.
pub(super) fn namespaces(pid: i32) -> Result<u64> {
    let mut found = 0;
    for (word, of) in SPACES {
        let (Ok(theirs), Ok(ours)) = (space(&pid.to_string(), word), space("self", word)) else { continue };
        found |= if theirs == ours { 0 } else { plan::flag(of) };
    }
    if found & flags::MOUNT == 0 {
        return Err(Error::new(Kind::Invalid, "the images restore into the host's mount namespace"));
    }
    Ok(found)
}

fn space(pid: &str, word: &str) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/ns/{word}");
    std::fs::read_link(&path).context(|| format!("read {path}"))
}

/// Compares everything that was restored; returns what a caller has to be told though it is no reason to refuse.
///
/// # Errors
/// `Invalid`, with the process and what it has too much of.
pub(super) fn check(
    spec: &Spec,
    facts: &Facts,
    init: i32,
    criu: i32,
    cgroup: &Cgroup,
    bundle: &Path,
) -> Result<Vec<String>> {
    let inside: HashSet<i32> = cgroup.pids()?.into_iter().collect();
    let mut all = vec![init];
    descendants(init, &mut all);
    all.extend(inside.iter().copied().filter(|pid| *pid != criu && !all.contains(pid)).collect::<Vec<_>>());
    let mut free = Vec::new();
    for &pid in &all {
        if !inside.contains(&pid) {
            return refuse(pid, "is outside of the container's cgroup");
        }
        spaces(spec, facts, pid)?;
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
        if let Some(why) = excess(spec, &status) {
            return refuse(pid, &why);
        }
        if may_gain(spec, &status) {
            free.push(pid);
        }
    }
    maps(spec, init)?;
    let mounts = format!("/proc/{init}/mountinfo");
    let theirs = std::fs::read_to_string(&mounts).context(|| format!("read {mounts}"))?;
    let ours = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
    let host = crate::create::host(cgroup)?;
    let mut sources: Vec<PathBuf> =
        mounts::externals(spec, bundle, &host)?.into_iter().map(|external| external.from).collect();
    sources.push(facts.rootfs.clone());
    sources.push("/dev/null".into());
    let sources: Vec<PathBuf> = sources.iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect();
    match foreign_mount(spec, &theirs, &ours, &sources) {
        Some(line) => refuse(init, &format!("has a mount that the specification does not give: {line}")),
        None => Ok(told(&free)),
    }
}

/// One warning, however many processes there are. criu 3.17 does not restore the bit, so that a refusal would refuse every
/// container of an engine's; what a set-user-id program could gain stays within the bounding set, which is compared.
fn told(free: &[i32]) -> Vec<String> {
    let Some(first) = free.first() else { return Vec::new() };
    let others = if free.len() > 1 { format!(" and {} more", free.len() - 1) } else { String::new() };
    vec![format!(
        "process.noNewPrivileges is set, but criu has not restored it: NoNewPrivs is 0 in process {first}{others}; \
         set-user-id programs work in it, within its bounding set"
    )]
}

/// Whether a process lacks the `no_new_privs` that the specification asks for.
fn may_gain(spec: &Spec, status: &str) -> bool {
    let asked = spec.process().as_ref().and_then(|process| process.no_new_privileges()) == Some(true);
    asked && field(status, "NoNewPrivs:") != Some("1")
}

/// A field of `/proc/<pid>/status` (proc_pid_status(5)).
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn refuse<T>(pid: i32, why: &str) -> Result<T> {
    Err(Error::new(Kind::Invalid, format!("restored process {pid} {why}; the images do not fit this config.json")))
}

/// Children of every thread, and theirs.
fn descendants(pid: i32, found: &mut Vec<i32>) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            if !found.contains(&child) {
                found.push(child);
                descendants(child, found);
            }
        }
    }
}

/// A namespace that the specification makes is not the host's; one that it joins is that one.
fn spaces(spec: &Spec, facts: &Facts, pid: i32) -> Result<()> {
    for (word, of) in SPACES {
        let Some(wanted) = mounts::namespace(spec, of) else { continue };
        let theirs = space(&pid.to_string(), word)?;
        match wanted {
            Some(path) => {
                let joined = inode(&path)? == inode(Path::new(&format!("/proc/{pid}/ns/{word}")))?;
                // criu makes a copy of a namespace only where it could not join: then it is not the one asked for.
                if !joined && facts.namespaces & plan::flag(of) == 0 {
                    return refuse(pid, &format!("is not in the {of} namespace {}", path.display()));
                }
            }
            None if theirs == space("self", word)? => {
                return refuse(pid, &format!("is in the host's {of} namespace"));
            }
            None => {}
        }
    }
    Ok(())
}

fn inode(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt as _;

    Ok(std::fs::metadata(path).context(|| format!("look at {}", path.display()))?.ino())
}

/// What `/proc/<pid>/status` has beyond the specification.
fn excess(spec: &Spec, status: &str) -> Option<String> {
    let process = spec.process().as_ref()?;
    let sets = process.capabilities().as_ref();
    let listed = sets
        .into_iter()
        .flat_map(|sets| [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()]);
    let allowed = listed.flatten().flatten().fold(0u64, |all, capability| all | 1 << bit(&capability.to_string()));
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let has = field(status, name).and_then(|hex| u64::from_str_radix(hex, 16).ok())?;
        if has & !allowed != 0 {
            return Some(format!("has capabilities {:#x} too much ({name} {has:#x})", has & !allowed));
        }
    }
    let filtered = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
    if filtered && field(status, "Seccomp:") != Some("2") {
        return Some("has no seccomp filter (linux.seccomp is set)".to_owned());
    }
    None
}

/// Number of a capability by its name, with or without `CAP_`; 63, which none has, for an unknown one.
fn bit(name: &str) -> u32 {
    use std::str::FromStr as _;

    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    caps::Capability::from_str(&full).map_or(63, |capability| u32::from(capability.index()))
}

/// A user namespace of its own has the id maps of the specification.
fn maps(spec: &Spec, pid: i32) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    if mounts::namespace(spec, LinuxNamespaceType::User) != Some(None) {
        return Ok(());
    }
    for (file, maps) in [("uid_map", linux.uid_mappings()), ("gid_map", linux.gid_mappings())] {
        let path = format!("/proc/{pid}/{file}");
        let text = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
        if numbers(&text) != wanted(maps.as_deref().unwrap_or_default()) {
            return refuse(pid, &format!("has another {file} than the specification"));
        }
    }
    Ok(())
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn wanted(maps: &[LinuxIdMapping]) -> Vec<u32> {
    maps.iter().flat_map(|map| [map.container_id(), map.host_id(), map.size()]).collect()
}

/// Fields of a line of `mountinfo` (proc_pid_mountinfo(5)).
struct Line<'a> {
    device: &'a str,
    root: &'a str,
    to: &'a str,
    kind: &'a str,
}

fn line(text: &str) -> Option<Line<'_>> {
    let (before, after) = text.split_once(" - ")?;
    let mut words = before.split(' ').skip(2);
    let (device, root, to) = (words.next()?, words.next()?, words.next()?);
    Some(Line { device, root, to, kind: after.split(' ').next()? })
}

/// The first mount that is neither of a kind which the specification mounts anew, nor a piece of what it binds.
fn foreign_mount<'a>(spec: &Spec, theirs: &'a str, ours: &str, sources: &[PathBuf]) -> Option<&'a str> {
    let listed = spec.mounts().iter().flatten().filter_map(|mount| mount.typ().as_deref());
    let kinds: HashSet<&str> = listed.filter(|kind| !["bind", "none", ""].contains(kind)).chain(["tmpfs"]).collect();
    let held: Vec<Line<'_>> = ours.lines().filter_map(line).collect();
    let allowed: Vec<(&str, PathBuf)> = sources.iter().flat_map(|source| pieces(&held, source)).collect();
    theirs.lines().find(|text| {
        let Some(mount) = line(text) else { return true };
        let anew = kinds.contains(mount.kind) && !mount.kind.starts_with("cgroup");
        let bound =
            |(device, root): &(&str, PathBuf)| *device == mount.device && Path::new(mount.root).starts_with(root);
        !anew && !allowed.iter().any(bound)
    })
}

/// Device and path in its file system of `source`, and of everything that is mounted below it.
fn pieces<'a>(held: &[Line<'a>], source: &Path) -> Vec<(&'a str, PathBuf)> {
    let on = held.iter().filter(|mount| source.starts_with(mount.to)).max_by_key(|mount| mount.to.len());
    let own = on.map(|mount| {
        let rest = source.strip_prefix(mount.to).unwrap_or(Path::new(""));
        let whole = if rest.as_os_str().is_empty() { mount.root.into() } else { Path::new(mount.root).join(rest) };
        (mount.device, whole)
    });
    let below = held.iter().filter(|mount| mount.to != "/" && Path::new(mount.to).starts_with(source));
    own.into_iter().chain(below.map(|mount| (mount.device, mount.root.into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut whole: serde_json::Value = serde_json::from_str(crate::spec::TEMPLATE).unwrap();
        change(&mut whole);
        serde_json::from_value(whole).unwrap()
    }

    fn status(caps: &str, privileges: u8, seccomp: u8) -> String {
        let sets: String =
            ["Inh", "Prm", "Eff", "Bnd", "Amb"].iter().map(|set| format!("Cap{set}:\t{caps}\n")).collect();
        format!("Name:\tx\n{sets}NoNewPrivs:\t{privileges}\nSeccomp:\t{seccomp}\n")
    }

    #[test]
    fn no_more_capabilities_than_given() {
        let few = spec(|spec| {
            spec["process"]["capabilities"] =
                serde_json::json!({ "bounding": ["CAP_KILL"], "permitted": ["CAP_CHOWN"] });
        });
        assert_eq!(excess(&few, &status("21", 1, 0)), None);
        let why = excess(&few, &status("200021", 1, 0)).unwrap();
        assert!(why.contains("capabilities 0x200000 too much"), "{why}");
        let none = spec(|spec| drop(spec["process"].as_object_mut().unwrap().remove("capabilities")));
        assert!(excess(&none, &status("1", 1, 0)).is_some());
        assert_eq!(excess(&none, &status("0", 1, 0)), None);
    }

    #[test]
    fn a_filter_is_asked_for() {
        let strict = spec(|spec| {
            spec["process"]["noNewPrivileges"] = true.into();
            spec["linux"]["seccomp"] = serde_json::json!({ "defaultAction": "SCMP_ACT_ALLOW" });
        });
        assert_eq!(excess(&strict, &status("0", 1, 2)), None);
        assert!(excess(&strict, &status("0", 1, 0)).unwrap().contains("no seccomp filter"));
    }

    #[test]
    fn a_missing_bit_is_told_once() {
        let asks = |given: bool| spec(|spec| spec["process"]["noNewPrivileges"] = given.into());
        assert!(may_gain(&asks(true), &status("0", 0, 0)));
        assert!(!may_gain(&asks(true), &status("0", 1, 0)));
        assert!(!may_gain(&asks(false), &status("0", 0, 0)));
        assert_eq!(told(&[]), Vec::<String>::new());
        assert!(told(&[7])[0].contains("NoNewPrivs is 0 in process 7; "));
        assert!(told(&[7, 8, 9])[0].contains("process 7 and 2 more; ") && told(&[7, 8, 9]).len() == 1);
    }

    const HOST: &str = "1 0 8:1 / / rw - ext4 /dev/sda rw\n\
        2 1 0:30 / /run rw - tmpfs tmpfs rw\n\
        3 1 0:40 / /srv/c/rootfs rw - overlay overlay rw\n\
        4 1 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    fn foreign(theirs: &str) -> Option<&str> {
        let sources = ["/srv/c/rootfs", "/srv/data", "/run/hosts", "/sys/fs/cgroup/web"].map(PathBuf::from);
        foreign_mount(&spec(|_| {}), theirs, HOST, &sources)
    }

    #[test]
    fn mounts_are_new_ones_or_pieces_of_the_sources() {
        for fine in [
            "9 8 0:40 / / rw - overlay overlay rw",
            "9 8 0:77 / /proc rw - proc proc rw",
            "9 8 8:1 /srv/data/x /data rw - ext4 /dev/sda rw",
            "9 8 0:30 /hosts /etc/hosts rw - tmpfs tmpfs rw",
            "9 8 0:29 /web /sys/fs/cgroup ro - cgroup2 cgroup2 rw",
        ] {
            assert_eq!(foreign(fine), None, "{fine}");
        }
        for wrong in [
            "9 8 8:1 / /host rw - ext4 /dev/sda rw",
            "9 8 8:1 /srv /data rw - ext4 /dev/sda rw",
            "9 8 0:99 / /x rw - overlay overlay rw,lowerdir=/etc",
            "9 8 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
            "nonsense",
        ] {
            assert_eq!(foreign(wrong), Some(wrong));
        }
    }
}
