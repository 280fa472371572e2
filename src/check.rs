//! `gantry check`: every kernel feature and tool that the node uses, with yes or no and what is lost without it.

use crate::config::Config;
use std::fs;
use std::path::Path;

/// Whether the node can do without a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    May,
}

/// One line of the report.
#[derive(Debug)]
struct Finding {
    what: &'static str,
    need: Need,
    have: bool,
    lost: &'static str,
}

/// What is read of the host, once; the findings are made of it alone.
#[derive(Debug, Default)]
struct Host {
    root: bool,
    kernel: (u32, u32),
    filesystems: String,
    symbols: String,
    modules: String,
    namespaces: Vec<String>,
    controllers: Vec<String>,
    seccomp: bool,
    capabilities: u64,
    tools: Vec<String>,
}

const CONTROLLERS: [(&str, &str); 4] = [
    ("memory", "memory limits and the OOM reports of pods"),
    ("cpu", "CPU requests and limits"),
    ("pids", "the limit on processes: a fork bomb in a pod reaches the host"),
    ("cpuset", "pinning pods to CPUs"),
];

const NAMESPACES: [(&str, &str); 7] = [
    ("mnt", "containers"),
    ("pid", "containers"),
    ("net", "pods with an address of their own"),
    ("ipc", "pods"),
    ("uts", "pods with a name of their own"),
    ("cgroup", "hiding the host's cgroups from containers"),
    ("user", "pods with hostUsers: false"),
];

const TOOLS: [(&str, &str); 2] = [
    ("kubectl", "the user's hand (Debian 13: kubectl; `make setup` installs it)"),
    ("crictl", "debugging the node below Kubernetes"),
];

/// The number of CAP_SYS_RESOURCE (linux/capability.h).
const SYS_RESOURCE: u32 = 24;

/// Prints the report and returns whether the node can run.
pub(crate) fn run(config: &Config) -> bool {
    let findings = judge(&look());
    print!("{}{}", report(&findings), registries(config));
    possible(&findings)
}

/// Which of the directories with registries' settings are there.
fn registries(config: &Config) -> String {
    let (there, all) = config.hosts_dirs();
    match there.is_empty() {
        true => format!("Registries' settings (hosts.toml): none in {all}.\n"),
        false => format!("Registries' settings (hosts.toml): {}.\n", there.join(", then ")),
    }
}

/// One sentence about the first thing that `gantry up` cannot do without, or nothing.
pub(crate) fn obstacle() -> Option<String> {
    let missing = judge(&look()).into_iter().find(|f| f.need == Need::Must && !f.have)?;
    Some(format!(
        "this machine has no {}: without it there are no {}; `gantry check` lists all",
        missing.what, missing.lost
    ))
}

fn possible(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.have || f.need == Need::May)
}

fn look() -> Host {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let status = read("/proc/self/status");
    let capabilities = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let dir = format!("/lib/modules/{}", release.trim());
    Host {
        root: status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0")),
        kernel,
        filesystems: read("/proc/filesystems"),
        symbols: read("/proc/kallsyms"),
        modules: read(&format!("{dir}/modules.builtin")) + &read(&format!("{dir}/modules.dep")),
        namespaces: names("/proc/self/ns"),
        controllers: controllers(&read("/proc/self/mountinfo")),
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        capabilities,
        tools: TOOLS.iter().map(|(tool, _)| *tool).filter(|tool| in_path(tool)).map(str::to_owned).collect(),
    }
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

fn in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// Controllers of all mounted hierarchies: a v1 mount names its own, a v2 mount lists them in a file.
fn controllers(mountinfo: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, fs_part)) = line.split_once(" - ") else { continue };
        if fs_part.starts_with("cgroup2 ") {
            let at = mount.split(' ').nth(4).unwrap_or("/sys/fs/cgroup");
            let list = fs::read_to_string(Path::new(at).join("cgroup.controllers")).unwrap_or_default();
            found.extend(list.split_whitespace().map(str::to_owned));
        } else if fs_part.starts_with("cgroup ") {
            let options = fs_part.rsplit(' ').next().unwrap_or("");
            found.extend(options.split(',').map(str::to_owned));
        }
    }
    found
}

fn judge(host: &Host) -> Vec<Finding> {
    use Need::{May, Must};
    let mut findings = Vec::new();
    let mut add = |what, need, have, lost| findings.push(Finding { what, need, have, lost });
    let driver = |symbol: &str, module: &str| host.symbols.contains(symbol) || host.modules.contains(module);
    add("root", Must, host.root, "containers at all: run as root");
    let runtime = "openat2, clone3, pidfds and mounts by descriptor, which the runtime is built on";
    add("kernel 5.12 or newer", Must, host.kernel >= (5, 12), runtime);
    add(
        "kernel 5.14 (cgroup.kill)",
        May,
        host.kernel >= (5, 14),
        "killing a cgroup at once; its processes are killed one by one",
    );
    add(
        "overlayfs",
        Must,
        host.filesystems.contains("\toverlay\n") || driver(" ovl_fill_super", "/overlay.ko"),
        "root filesystems out of image layers",
    );
    for (name, lost) in NAMESPACES {
        let need = if name == "user" || name == "cgroup" { May } else { Must };
        add(namespace_title(name), need, host.namespaces.iter().any(|n| n == name), lost);
    }
    for (name, lost) in CONTROLLERS {
        let need = if name == "cpuset" { May } else { Must };
        add(controller_title(name), need, host.controllers.iter().any(|c| c == name), lost);
    }
    add("seccomp filters", Must, host.seccomp, "system call filters");
    add("network bridges", Must, driver(" br_add_bridge", "/bridge.ko"), "the built-in pod network");
    add("veth devices", Must, driver(" veth_newlink", "/veth.ko"), "the built-in pod network");
    add(
        "nf_tables",
        May,
        driver(" nft_do_chain", "/nf_tables.ko"),
        "masquerading of traffic that leaves the pods' range, and host ports",
    );
    let resource = host.capabilities >> SYS_RESOURCE & 1 == 1;
    add(
        "CAP_SYS_RESOURCE",
        May,
        resource,
        "raising rlimits and lowering OOM scores: containers keep what the node has",
    );
    for (name, lost) in TOOLS {
        add(name, May, host.tools.iter().any(|t| t == name), lost);
    }
    findings
}

fn namespace_title(name: &str) -> &'static str {
    match name {
        "mnt" => "mount namespaces",
        "pid" => "PID namespaces",
        "net" => "network namespaces",
        "ipc" => "IPC namespaces",
        "uts" => "UTS namespaces",
        "cgroup" => "cgroup namespaces",
        _ => "user namespaces",
    }
}

fn controller_title(name: &str) -> &'static str {
    match name {
        "memory" => "memory controller",
        "cpu" => "cpu controller",
        "pids" => "pids controller",
        _ => "cpuset controller",
    }
}

fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    for f in findings {
        let word = match (f.have, f.need) {
            (true, _) => "yes",
            (false, Need::Must) => "NO",
            (false, Need::May) => "no",
        };
        let lost = if f.have { String::new() } else { format!("without it: no {}", f.lost) };
        text.push_str(format!("{:<4} {:<30} {lost}", word, f.what).trim_end());
        text.push('\n');
    }
    let end = if possible(findings) {
        "This machine can run a Gantry node.\n"
    } else {
        "This machine cannot run a Gantry node: see the lines that begin with NO.\n"
    };
    text + end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Host {
        Host {
            root: true,
            kernel: (6, 1),
            filesystems: "nodev\toverlay\n".into(),
            symbols: "0 t br_add_bridge\n0 t veth_newlink\n0 t nft_do_chain\n".into(),
            namespaces: NAMESPACES.iter().map(|n| n.0.to_owned()).collect(),
            controllers: CONTROLLERS.iter().map(|n| n.0.to_owned()).collect(),
            seccomp: true,
            capabilities: u64::MAX,
            tools: vec!["kubectl".into()],
            ..Host::default()
        }
    }

    #[test]
    fn an_able_host_can_run_a_node() {
        let findings = judge(&able());
        assert!(possible(&findings));
        let text = report(&findings);
        assert!(text.contains("no   crictl"), "{text}");
        assert!(text.ends_with("can run a Gantry node.\n"));
    }

    #[test]
    fn a_host_without_overlayfs_cannot() {
        let findings = judge(&Host { filesystems: String::new(), ..able() });
        assert!(!possible(&findings));
        assert!(report(&findings).contains("NO   overlayfs"), "{}", report(&findings));
    }

    #[test]
    fn a_missing_capability_is_only_a_loss() {
        let findings = judge(&Host { capabilities: !(1 << SYS_RESOURCE), ..able() });
        assert!(possible(&findings));
        assert!(report(&findings).contains("no   CAP_SYS_RESOURCE"));
    }

    #[test]
    fn controllers_are_found_on_v1_mounts() {
        let text =
            "30 29 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n31 29 0:26 / /x rw - tmpfs tmpfs rw\n";
        assert_eq!(controllers(text), ["rw", "cpu", "cpuacct"]);
    }
}
