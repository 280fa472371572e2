//! DECIDE: kernel parameters that belong to a namespace of the container, and refusal of all others.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::c_string;
use super::step::Step;
use crate::error::{Error, Kind, Result};
use crate::spec::lists;

/// Parameters of an ipc namespace.
const IPC: &[&str] = &[
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// One step a parameter, sorted by name. Also whether any of them is the network's.
pub(super) fn decide(linux: &Linux) -> Result<(Vec<Step>, bool)> {
    let mut asked: Vec<(&String, &String)> = linux.sysctl().iter().flatten().collect();
    asked.sort();
    let mut steps = Vec::new();
    let mut network = false;
    for (name, value) in asked {
        let path = path_of(name);
        check(linux, name, &path)?;
        network |= path.starts_with("net/");
        steps.push(Step::Sysctl(c_string(&format!("sys/{path}"))?, c_string(value)?));
    }
    Ok((steps, network))
}

/// `net.ipv4.conf.eth0/100.forwarding` is `net/ipv4/conf/eth0.100/forwarding`; a name whose first separator is a slash
/// is a path already (sysctl(8)).
fn path_of(name: &str) -> String {
    let first = name.find(['.', '/']).map(|at| &name[at..=at]);
    if first == Some("/") {
        return name.to_owned();
    }
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

fn check(linux: &Linux, name: &str, path: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("linux.sysctl.{name}: {why}")));
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse("is not a parameter's name");
    }
    let needed = if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        (LinuxNamespaceType::Ipc, "needs an ipc namespace")
    } else if path.starts_with("net/") {
        (LinuxNamespaceType::Network, "needs a network namespace")
    } else if path.starts_with("user/") {
        (LinuxNamespaceType::User, "needs a user namespace")
    } else if path == "kernel/domainname" {
        (LinuxNamespaceType::Uts, "needs a uts namespace")
    } else if path == "kernel/hostname" {
        return refuse("use hostname instead");
    } else {
        return refuse("does not belong to a namespace of the container");
    };
    if lists(linux, needed.0) { Ok(()) } else { refuse(needed.1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    fn linux(namespaces: &str, sysctl: &str) -> Linux {
        parse(&format!(r#"{{"namespaces":[{namespaces}],"sysctl":{sysctl}}}"#)).unwrap()
    }

    fn said(namespaces: &str, sysctl: &str) -> String {
        match decide(&linux(namespaces, sysctl)) {
            Ok((steps, _)) => steps.iter().map(|step| format!("{step}\n")).collect(),
            Err(why) => why.to_string(),
        }
    }

    #[test]
    fn namespaced_ones_are_set() {
        assert_eq!(
            said(
                r#"{"type":"network"},{"type":"ipc"}"#,
                r#"{"net.ipv4.conf.eth0/100.forwarding":"1","kernel.shm_rmid_forced":"0","net/core/somaxconn":"9"}"#
            ),
            "set sys/kernel/shm_rmid_forced to 0\n\
             set sys/net/ipv4/conf/eth0.100/forwarding to 1\n\
             set sys/net/core/somaxconn to 9\n"
        );
    }

    /// The lists of runc's validator, namespace by namespace.
    #[test]
    fn each_belongs_to_its_kind_of_namespace() {
        let ipc = "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split(' ');
        let mut cases: Vec<(&str, String)> = ipc.map(|name| ("ipc", format!("kernel.{name}"))).collect();
        cases.extend([
            ("ipc", "fs.mqueue.msg_max".to_owned()),
            ("network", "net.core.somaxconn".to_owned()),
            ("user", "user.max_user_namespaces".to_owned()),
            ("uts", "kernel.domainname".to_owned()),
        ]);
        for (kind, name) in cases {
            let sysctl = format!(r#"{{"{name}":"1"}}"#);
            let path = name.replace('.', "/");
            for space in ["ipc", "network", "user", "uts", "pid", "mount", "cgroup", "time"] {
                let said = said(&format!(r#"{{"type":"{space}"}}"#), &sysctl);
                match space == kind {
                    true => assert_eq!(said, format!("set sys/{path} to 1\n")),
                    false => assert!(said.starts_with(&format!("linux.sysctl.{name}: needs a")), "{space}: {said}"),
                }
            }
        }
    }

    #[test]
    fn the_hosts_are_refused() {
        let cases = [
            (r#"{"kernel.core_pattern":"|/x"}"#, "does not belong to a namespace of the container"),
            (
                r#"{"kernel.shm_rmid_forced=1+kernel.core_pattern":"x"}"#,
                "does not belong to a namespace of the container",
            ),
            (r#"{"net.ipv4.ip_forward":"1"}"#, "needs a network namespace"),
            (r#"{"net/../kernel/core_pattern":"x"}"#, "is not a parameter's name"),
            (r#"{"net..x":"x"}"#, "is not a parameter's name"),
            (r#"{"kernel.hostname":"x"}"#, "use hostname instead"),
        ];
        for (sysctl, why) in cases {
            let said = said(r#"{"type":"ipc"}"#, sysctl);
            assert!(said.starts_with("linux.sysctl.") && said.ends_with(why), "{said}");
        }
    }
}
