//! The configuration of the CRI server: one struct with defaults, checked once, before anything is touched.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::network::{Ranges, Settings};

/// Everything that [`crate::run`] can be told. Several servers fit on one host when `socket`, `root`, `run`,
/// `images_root` and `bridge` differ.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The unix socket that kubelet and crictl connect to; made with mode 0600, a stale one is replaced.
    pub socket: PathBuf,
    /// Records that outlive a reboot: `<root>/pods/<id>/…`, the network's addresses.
    pub root: PathBuf,
    /// What a reboot ends: `<run>/pods/<id>/…` with monitors, namespaces, bundles.
    pub run: PathBuf,
    /// The image store.
    pub images_root: PathBuf,
    /// Registries' mirrors and settings in containerd's layout: `HOST[:PORT]/hosts.toml`, `_default/hosts.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts_dir: Option<PathBuf>,
    /// The rest about images: `root` and `hosts_dir` of it count only where the two keys above say nothing else.
    pub images: gantry_images::Config,
    /// Where vendors describe their devices (CDI), the later directory going before the earlier.
    pub cdi_dirs: Vec<PathBuf>,
    /// The `gantry-runtime` binary; `None` looks beside this executable, then in `PATH`.
    pub runtime_binary: Option<PathBuf>,
    /// Parent of the cgroups of pods whose configuration names no `cgroup_parent`.
    pub cgroup_root: String,
    /// Addresses of pods on the built-in bridge: one IPv4 and/or one IPv6 range, comma separated. With both, pods get
    /// both; the first range is that of the primary addresses.
    pub pod_cidr: String,
    /// Name of the built-in network's bridge, at most 15 bytes.
    pub bridge: String,
    /// Where exec, attach and port-forward connections are taken. Loopback only.
    pub streaming_address: SocketAddr,
    /// What a container gets that names no seccomp profile.
    pub default_seccomp: DefaultSeccomp,
    /// Aborts the process at the fault point of this name. Only for the tests of recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Which network pods are attached to.
    pub network: Settings,
}

/// The seccomp profile of containers that name none.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultSeccomp {
    /// The profile that comes with Gantry.
    #[default]
    RuntimeDefault,
    /// No filter, as containerd does it.
    Unconfined,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: "/run/gantry/cri.sock".into(),
            root: "/var/lib/gantry/cri".into(),
            run: "/run/gantry".into(),
            images_root: "/var/lib/gantry/images".into(),
            hosts_dir: None,
            images: gantry_images::Config::default(),
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            runtime_binary: None,
            cgroup_root: "/gantry".into(),
            pod_cidr: "10.88.0.0/16,fd5a:67e0:88::/64".into(),
            bridge: "gantry0".into(),
            streaming_address: SocketAddr::from(([127, 0, 0, 1], 0)),
            default_seccomp: DefaultSeccomp::default(),
            fault: None,
            network: Settings::default(),
        }
    }
}

impl Config {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// [`Kind::Invalid`], naming the field.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::new(Kind::Invalid, what));
        for (field, path) in self.paths() {
            if !path.is_absolute() {
                return invalid(format!("{field}: {} is not an absolute path", path.display()));
            }
        }
        if !self.streaming_address.ip().is_loopback() {
            // Streaming trusts whoever holds a token; over an uplink it would need TLS of its own.
            return invalid(format!("streaming_address: {} is not loopback", self.streaming_address));
        }
        if !self.cgroup_root.starts_with('/') || self.cgroup_root.split('/').any(|part| part == "..") {
            return invalid(format!("cgroup_root: {:?} must start with / and go only down", self.cgroup_root));
        }
        if self.run.as_os_str().len() > 56 {
            // Below it is /pods/, 32 digits and /monitor.sock, and a unix socket's path has 107 bytes.
            return invalid(format!("run: {} is longer than 56 bytes", self.run.display()));
        }
        if self.bridge.is_empty() || self.bridge.len() > 15 {
            return invalid(format!("bridge: {:?} is not a name of 1 to 15 bytes", self.bridge));
        }
        self.pod_cidr.parse::<Ranges>().map_err(|why| why.within("pod_cidr"))?;
        self.network.check()
    }

    fn paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        [
            ("socket", self.socket.as_path()),
            ("root", &self.root),
            ("run", &self.run),
            ("images_root", &self.images_root),
        ]
        .into_iter()
        .chain(self.cdi_dirs.iter().map(|path| ("cdi_dirs", path.as_path())))
        .chain(self.hosts_dir.as_deref().map(|path| ("hosts_dir", path)))
        .chain(self.runtime_binary.as_deref().map(|path| ("runtime_binary", path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_survives_toml() {
        Config::default().check().unwrap();
        let text = toml::to_string(&Config::default()).unwrap();
        let again: Config = toml::from_str(&text).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), text);
    }

    #[test]
    fn wrong_fields_are_named() {
        let wrong = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(wrong(|c| c.socket = "cri.sock".into()).starts_with("socket: "));
        assert!(wrong(|c| c.streaming_address = ([0, 0, 0, 0], 1).into()).starts_with("streaming_address: "));
        assert!(wrong(|c| c.cgroup_root = "/a/../..".into()).starts_with("cgroup_root: "));
        assert!(wrong(|c| c.bridge = "a-name-of-16-byte".into()).starts_with("bridge: "));
        assert!(wrong(|c| c.pod_cidr = "10.0.0.0".into()).starts_with("pod_cidr: "));
        assert!(wrong(|c| c.network.conf_dir = "net.d".into()).starts_with("network.conf_dir: "));
        assert!(toml::from_str::<Config>("sokcet = \"/x\"").unwrap_err().to_string().contains("sokcet"));
    }
}
