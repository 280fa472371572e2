//! What the network is told: which kind it is, and what the built-in bridge and CNI need.

use super::range::{Cidr, Ranges};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What makes the pods' network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// CNI while there is a valid configuration for it, else the built-in bridge.
    #[default]
    Auto,
    /// CNI; without a valid configuration no pod is attached, and the node says that it is not ready.
    Cni,
    /// The built-in bridge, whatever else is configured.
    Bridge,
}

/// The `network` section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `auto`, `cni` or `bridge`.
    pub mode: Mode,
    /// Where CNI's network configurations are: `.conflist`, `.conf` and `.json`, in the order of their names.
    pub conf_dir: PathBuf,
    /// Where CNI plugins are looked for, in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Results are kept in `results` below it, in the form that libcni and its tools read.
    pub cache_dir: PathBuf,
    /// How many configurations, the first valid ones, a pod is attached to: `eth0`, `eth1`, …; 0 for all there are.
    pub networks: usize,
    /// How long one plugin may take, in seconds; then it is killed.
    pub timeout_seconds: u64,
    /// Ranges for plugins with the capability `ipRanges`, as `address/prefix`.
    pub ip_ranges: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: "/var/lib/cni".into(),
            networks: 1,
            timeout_seconds: 60,
            ip_ranges: Vec::new(),
        }
    }
}

impl Settings {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// `Invalid`, naming the key.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::new(Kind::Invalid, what));
        let dirs = [("conf_dir", &self.conf_dir), ("cache_dir", &self.cache_dir)];
        for (key, dir) in dirs.into_iter().chain(self.bin_dirs.iter().map(|dir| ("bin_dirs", dir))) {
            if !dir.is_absolute() {
                return invalid(format!("network.{key}: {} is not an absolute path", dir.display()));
            }
            if dir.as_os_str().to_string_lossy().contains(':') {
                return invalid(format!("network.{key}: {} has a colon, which CNI_PATH cannot carry", dir.display()));
            }
        }
        if self.bin_dirs.is_empty() {
            return invalid("network.bin_dirs: is empty".into());
        }
        if !(1..=600).contains(&self.timeout_seconds) {
            return invalid(format!("network.timeout_seconds: {} is not 1 to 600", self.timeout_seconds));
        }
        for range in &self.ip_ranges {
            range.parse::<Cidr>().map_err(|why| why.within("network.ip_ranges"))?;
        }
        Ok(())
    }
}

/// The network of one node; checked by [`Network::open`](super::Network::open).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Which kind, and what CNI needs.
    pub settings: Settings,
    /// Directory of the records of attachments by CNI, 0700: on a file system that outlives a reboot, as the plugins'
    /// own records do.
    pub records_dir: PathBuf,
    /// Name of the bridge device, at most 15 bytes. Made on demand, and removed by
    /// [`Network::dismantle`](super::Network::dismantle) alone.
    pub bridge_name: String,
    /// Addresses of the pods; the first host address of each range is the bridge's own (the gateway).
    pub ranges: Ranges,
    /// Directory of the leases, 0700. Leases describe kernel objects that end with the boot, so this belongs on a
    /// file system that does too (below `/run`).
    pub state_dir: PathBuf,
    /// Offer `hostPort` (DNAT by nf_tables). Without it a port mapping with a host port is refused.
    pub host_ports: bool,
    /// Rewrite the source of traffic that leaves the range (masquerade by nf_tables). Needless without an uplink.
    pub masquerade: bool,
    /// MTU of the bridge and of both ends of each pair, in bytes.
    pub mtu: u32,
    /// The fault point to die at, for the tests of recovery.
    pub fault: Option<String>,
}

impl NetworkConfig {
    /// The default of everything but the directories and the ranges.
    pub fn new(records_dir: PathBuf, state_dir: PathBuf, ranges: Ranges) -> Self {
        Self {
            settings: Settings::default(),
            records_dir,
            bridge_name: "gantry0".into(),
            ranges,
            state_dir,
            host_ports: true,
            masquerade: true,
            mtu: 1500,
            fault: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_checked_and_its_keys_are_named() {
        Settings::default().check().unwrap();
        let parse = |text: &str| toml::from_str::<Settings>(text).map_err(|why| why.to_string());
        assert_eq!(parse("mode = \"cni\"\nnetworks = 2").unwrap().mode, Mode::Cni);
        assert!(parse("mode = \"calico\"").unwrap_err().contains("calico"));
        assert!(parse("confdir = \"/x\"").unwrap_err().contains("confdir"));
        for (text, key) in [
            ("conf_dir = \"net.d\"", "network.conf_dir"),
            ("bin_dirs = []", "network.bin_dirs"),
            ("bin_dirs = [\"/a:b\"]", "network.bin_dirs"),
            ("timeout_seconds = 0", "network.timeout_seconds"),
            ("ip_ranges = [\"10.0.0.1/24\"]", "network.ip_ranges"),
        ] {
            let said = parse(text).unwrap().check().unwrap_err().to_string();
            assert!(said.starts_with(key), "{said}");
        }
    }
}
