//! What the kernel says of this machine: /proc, /etc and statvfs. Parsing is pure and tested on text.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::quantity::{self, Resources};

/// The version that this kubelet speaks for.
pub(crate) const KUBELET_VERSION: &str = concat!("v1.33.0-gantry.", env!("CARGO_PKG_VERSION"));

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A line of /proc/meminfo in bytes.
pub(crate) fn meminfo(text: &str, key: &str) -> Option<i64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<i64>().ok().map(|kib| kib * 1024)
}

/// Bytes and inodes of a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub total: i64,
    pub available: i64,
    pub inodes: i64,
    pub inodes_free: i64,
}

pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let block = i64::try_from(stat.fragment_size()).ok()?;
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Some(Disk {
        total: count(stat.blocks()).saturating_mul(block),
        available: count(stat.blocks_available()).saturating_mul(block),
        inodes: count(stat.files()),
        inodes_free: count(stat.files_free()),
    })
}

/// Available memory in bytes.
pub(crate) fn memory_available() -> Option<i64> {
    meminfo(&read("/proc/meminfo"), "MemAvailable")
}

/// (tasks now, the kernel's limit).
pub(crate) fn tasks() -> Option<(i64, i64)> {
    let now = read("/proc/loadavg").split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let limit = |path: &str| read(path).trim().parse::<i64>().unwrap_or(i64::MAX);
    Some((now, limit("/proc/sys/kernel/pid_max").min(limit("/proc/sys/kernel/threads-max"))))
}

/// The machine's capacity as the Node object has it.
pub(crate) fn capacity(config: &Config) -> Resources {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let memory = meminfo(&read("/proc/meminfo"), "MemTotal").unwrap_or(0);
    let mut out = Resources::new();
    let mut put = |name: &str, value: String| out.insert(name.to_string(), Quantity(value));
    put("cpu", cpus.to_string());
    put("memory", format!("{}Ki", memory / 1024));
    put("pods", config.max_pods.to_string());
    if let Some(disk) = disk(&config.root_dir) {
        put("ephemeral-storage", format!("{}Ki", disk.total / 1024));
    }
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kib) = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")?.parse::<u64>().ok()) else {
            continue;
        };
        let count: u64 =
            fs::read_to_string(entry.path().join("nr_hugepages")).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        let size = if kib % (1 << 20) == 0 { format!("{}Gi", kib >> 20) } else { format!("{}Mi", kib >> 10) };
        put(&format!("hugepages-{size}"), (count * kib * 1024).to_string());
    }
    out
}

/// Capacity minus what is reserved.
///
/// # Errors
/// `Kind::Config` where a reserved quantity cannot be read.
pub(crate) fn allocatable(
    capacity: &Resources,
    reserved: &std::collections::BTreeMap<String, String>,
) -> Result<Resources> {
    let mut out = capacity.clone();
    for (name, amount) in reserved {
        let bad = || Error::config(format!("reserved.{name}: {amount:?} is not a quantity"));
        let minus = quantity::milli(amount).ok_or_else(bad)?;
        let Some(have) = out.get_mut(name) else { continue };
        let left = (quantity::milli(&have.0).unwrap_or(0) - minus).max(0);
        have.0 = if name == "cpu" { format!("{left}m") } else { (left / 1000).to_string() };
    }
    Ok(out)
}

/// The address by which others reach this node: the source of the default route, without sending anything.
pub(crate) fn own_address() -> IpAddr {
    let find = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // Connecting a UDP socket only looks the route up; 192.0.2.0/24 is for documentation.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    find().ok().filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn os_release(text: &str) -> String {
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_string(), |name| name.trim_matches('"').to_string())
}

/// status.nodeInfo; `runtime` is "name://version".
pub(crate) fn system_info(runtime: String) -> NodeSystemInfo {
    let trimmed = |path: &str| read(path).trim().to_string();
    let machine_id = trimmed("/etc/machine-id");
    let product = trimmed("/sys/class/dmi/id/product_uuid");
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: trimmed("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime,
        kernel_version: trimmed("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        system_uuid: if product.is_empty() { machine_id.clone() } else { product },
        machine_id,
        operating_system: "linux".into(),
        os_image: os_release(&read("/etc/os-release")),
        swap: None,
    }
}

/// Go's name of this architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let text = "MemTotal:       16 kB\nMemAvailable:    8 kB\n";
        assert_eq!(
            (meminfo(text, "MemTotal"), meminfo(text, "MemAvailable"), meminfo(text, "Mem")),
            (Some(16384), Some(8192), None)
        );
        assert_eq!(os_release("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert!(memory_available().is_some_and(|m| m > 0));
        assert!(tasks().is_some_and(|(now, most)| now > 0 && now < most));
    }

    #[test]
    fn what_is_reserved_is_not_allocatable() {
        let capacity: Resources =
            serde_json::from_str(r#"{"cpu":"2","memory":"1024Ki","pods":"110"}"#).expect("resources");
        let reserved = |cpu: &str| {
            std::collections::BTreeMap::from([
                ("cpu".to_string(), cpu.to_string()),
                ("memory".to_string(), "1Ki".to_string()),
            ])
        };
        let left = allocatable(&capacity, &reserved("250m")).expect("allocatable");
        assert_eq!(serde_json::to_string(&left).expect("json"), r#"{"cpu":"1750m","memory":"1047552","pods":"110"}"#);
        assert!(allocatable(&capacity, &reserved("x")).is_err());
    }
}
