//! Which sysctls a pod may set, decided as text: names to paths below `/proc/sys`, by an allow-list.
//!
//! A value is written as it is, with one write to one file; it is never split into further assignments (CVE-2022-0811).
//! Names: sysctl.d(5) and the Kubernetes page on sysctls; what is namespaced: sysctl(7), ipc_namespaces(7).

use crate::error::{Error, Kind, Result};
use std::path::PathBuf;

/// A namespace that makes a sysctl the pod's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Net,
    Ipc,
}

/// The allow-list: first components of the name (the last one may end in `*`), and the namespace it lives in.
const ALLOWED: [(&[&str], Owner); 5] = [
    (&["net", "*"], Owner::Net),
    (&["kernel", "shm*"], Owner::Ipc),
    (&["kernel", "msg*"], Owner::Ipc),
    (&["kernel", "sem"], Owner::Ipc),
    (&["fs", "mqueue", "*"], Owner::Ipc),
];

/// The file that `name` stands for, when the pod has the namespace that it lives in.
///
/// # Errors
/// `Invalid` for a name outside the allow-list, one of the host's, or a value with control characters.
pub(super) fn decide(name: &str, value: &str, net: bool, ipc: bool) -> Result<PathBuf> {
    let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("sysctl {name:?}: {why}")));
    let parts = split(name);
    let plain = |part: &String| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && !part.contains('/')
            && !part.chars().any(|c| c.is_control() || c.is_whitespace())
    };
    if !parts.iter().all(plain) {
        return refuse("not a name of a sysctl");
    }
    let Some((_, owner)) = ALLOWED.iter().find(|(pattern, _)| matches(pattern, &parts)) else {
        return refuse("not one that a pod may set");
    };
    match owner {
        Owner::Net if !net => return refuse("the pod uses the host's network"),
        Owner::Ipc if !ipc => return refuse("the pod uses the host's IPC namespace"),
        Owner::Net | Owner::Ipc => {}
    }
    if value.is_empty() || value.chars().any(|c| c.is_control() && c != '\t') {
        return refuse("the value is empty or has control characters");
    }
    Ok(["/proc", "sys"].into_iter().chain(parts.iter().map(String::as_str)).collect())
}

/// Splits at dots; or, where the first separator is a slash, at slashes. Within a part the other one is a dot, so that
/// `net.ipv4.conf.eth0/100.forwarding` names the device `eth0.100`.
fn split(name: &str) -> Vec<String> {
    let (separator, dot) = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => ('/', '.'),
        _ => ('.', '/'),
    };
    name.split(separator).map(|part| part.replace(dot, ".")).collect()
}

fn matches(pattern: &[&str], parts: &[String]) -> bool {
    let Some((last, exact)) = pattern.split_last() else {
        return false;
    };
    let open_ended = *last == "*";
    (parts.len() == pattern.len() || (open_ended && parts.len() >= pattern.len()))
        && exact.iter().zip(parts).all(|(want, have)| want == have)
        && match last.strip_suffix('*') {
            Some(start) => parts[exact.len()].starts_with(start),
            None => parts[exact.len()] == *last,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> String {
        match decide(name, "1", true, true) {
            Ok(path) => path.display().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_become_paths() {
        assert_eq!(path("kernel.shm_rmid_forced"), "/proc/sys/kernel/shm_rmid_forced");
        assert_eq!(path("net.ipv4.ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/ip_forward"), "/proc/sys/net/ipv4/ip_forward");
        assert_eq!(path("net.ipv4.conf.eth0/100.forwarding"), "/proc/sys/net/ipv4/conf/eth0.100/forwarding");
        assert_eq!(path("net/ipv4/conf/eth0.100/forwarding"), "/proc/sys/net/ipv4/conf/eth0.100/forwarding");
        assert_eq!(path("fs.mqueue.msg_max"), "/proc/sys/fs/mqueue/msg_max");
        assert_eq!(path("kernel.sem"), "/proc/sys/kernel/sem");
    }

    #[test]
    fn case_19_everything_else_is_refused() {
        for name in [
            "kernel.core_pattern",
            "kernel.semaphores",
            "kernel.sem.x",
            "kernel.shm_rmid_forced=1+kernel.core_pattern",
            "kernel.shmmax.x",
            "kernel.domainname",
            "vm.swappiness",
            "fs.file-max",
            "fs.mqueue",
            "net",
            "net.",
            "net..ipv4",
            "net/../kernel/core_pattern",
            "net///kernel",
            "net.//.//.kernel.core_pattern",
            "net.ipv4 kernel",
            "net.ipv4\n",
            "",
            "/",
        ] {
            let said = path(name);
            assert!(said.starts_with("sysctl "), "{name:?} gave {said}");
        }
    }

    #[test]
    fn a_namespace_of_the_host_keeps_its_sysctls() {
        let said = |name, net, ipc| decide(name, "1", net, ipc).unwrap_err().to_string();
        assert!(said("net.core.somaxconn", false, true).contains("host's network"));
        assert!(said("kernel.shmmax", true, false).contains("host's IPC"));
    }

    #[test]
    fn values_keep_to_one_line() {
        assert!(decide("kernel.sem", "250\t32000 100 128", true, true).is_ok());
        for value in ["", "1\n2", "1\0", "\u{1b}"] {
            assert!(decide("kernel.sem", value, true, true).is_err(), "{value:?}");
        }
    }
}
