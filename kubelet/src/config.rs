//! What an operator can decide about one kubelet, as one serde struct with defaults; unknown fields
//! are refused, and `Config::check` says once, at start, what does not fit together. Every path can be
//! moved, because several nodes may share one host. Meanings follow KubeletConfiguration v1beta1 where
//! a field of that name exists there.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{Error, Result};

/// A node taint to register with, `key=value:effect` taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaintConfig {
    /// The taint's key.
    pub key: String,
    /// Its value; may be empty.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Everything `run` needs. Deserialize it from TOML, or start from `Config::default()`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Kubeconfig file: server, CA, and a client certificate and key or a token. `None` runs static
    /// pods only. `http://` servers are accepted on loopback addresses alone.
    pub kubeconfig: Option<PathBuf>,
    /// Unix socket of the CRI server.
    pub cri_socket: PathBuf,
    /// The node's name in the cluster; default: the host name in lower case.
    pub node_name: String,
    /// The node's InternalIP; default: the source address of the default route, else 127.0.0.1.
    pub node_ip: Option<IpAddr>,
    /// Where pod volumes and termination logs live, mode 0700.
    pub root_dir: PathBuf,
    /// Where container logs live: `<ns>_<pod>_<uid>/<container>/<attempt>.log`.
    pub pod_logs_dir: PathBuf,
    /// Address of the HTTPS endpoint.
    pub listen: SocketAddr,
    /// An already bound listener, used instead of `listen`.
    #[serde(skip)]
    pub listener: Option<TcpListener>,
    /// PEM certificate chain to serve with; default: self-signed, kept under `root_dir`/pki.
    pub serving_cert: Option<PathBuf>,
    /// PEM key of `serving_cert`.
    pub serving_key: Option<PathBuf>,
    /// PEM bundle of CAs whose client certificates are believed.
    pub client_ca: Option<PathBuf>,
    /// Create /kubepods, its QoS groups and the pods' own groups, with their limits.
    pub create_cgroups: bool,
    /// Cgroup under which `kubepods` is made, for example `/gantry-test`; empty: the root.
    pub cgroup_root: String,
    /// Where the cgroup filesystems are mounted.
    pub cgroup_mount: PathBuf,
    /// Addresses of the cluster's DNS servers.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The host's resolv.conf, for dnsPolicy Default; empty: none.
    pub resolv_conf: PathBuf,
    /// Directory of static pod manifests.
    pub static_pod_dir: Option<PathBuf>,
    /// Labels to register the node with.
    pub node_labels: BTreeMap<String, String>,
    /// Taints to register the node with.
    pub node_taints: Vec<TaintConfig>,
    /// `spec.providerID` of the node.
    pub provider_id: String,
    /// Pods that fit on this node.
    pub max_pods: u32,
    /// pids.max of a pod's cgroup; -1: no limit.
    pub pod_pids_limit: i64,
    /// Seconds between looks at the node's state; it is sent when it changed, else every
    /// `status_report_seconds`.
    pub status_interval_seconds: u64,
    /// Seconds after which an unchanged node status is sent all the same.
    pub status_report_seconds: u64,
    /// `spec.leaseDurationSeconds`; renewed every quarter of it.
    pub lease_seconds: u32,
    /// Quantities kept from pods, by resource name: capacity minus these is allocatable.
    pub reserved: BTreeMap<String, String>,
    /// Seconds between looks for garbage: dead containers, orphaned directories, log rotation.
    pub garbage_interval_seconds: u64,
    /// Seconds between looks for images that nothing uses.
    pub image_gc_interval_seconds: u64,
    /// Percent of the images' filesystem from which on unused images go; 100: never.
    pub image_gc_high_threshold_percent: u8,
    /// Percent down to which they go.
    pub image_gc_low_threshold_percent: u8,
    /// Seconds that an image is spared after it was first seen.
    pub image_minimum_gc_age_seconds: u64,
    /// Seconds after whose last use an image goes; 0: never.
    pub image_maximum_gc_age_seconds: u64,
    /// Bytes after which a container's log is rotated.
    pub container_log_max_bytes: u64,
    /// Log files kept for one container, the current one included.
    pub container_log_max_files: u32,
    /// Images pulled at once.
    pub max_parallel_pulls: usize,
    /// Sysctls allowed beside the safe set; `prefix*` patterns.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Whether containers without a seccomp profile get RuntimeDefault instead of none.
    pub seccomp_default: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            cri_socket: "/run/gantry/cri.sock".into(),
            node_name: String::new(),
            node_ip: None,
            root_dir: "/var/lib/gantry/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            listen: SocketAddr::from(([0, 0, 0, 0], 10250)),
            listener: None,
            serving_cert: None,
            serving_key: None,
            client_ca: None,
            create_cgroups: true,
            cgroup_root: String::new(),
            cgroup_mount: "/sys/fs/cgroup".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            static_pod_dir: None,
            node_labels: BTreeMap::new(),
            node_taints: Vec::new(),
            provider_id: String::new(),
            max_pods: 110,
            pod_pids_limit: 4096,
            status_interval_seconds: 10,
            status_report_seconds: 300,
            lease_seconds: 40,
            reserved: BTreeMap::new(),
            garbage_interval_seconds: 60,
            image_gc_interval_seconds: 300,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age_seconds: 120,
            image_maximum_gc_age_seconds: 0,
            container_log_max_bytes: 10 * 1024 * 1024,
            container_log_max_files: 5,
            max_parallel_pulls: 4,
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: false,
        }
    }
}

impl Config {
    /// When images go.
    pub(crate) fn image_garbage(&self) -> crate::image_garbage::Policy {
        crate::image_garbage::Policy {
            high: self.image_gc_high_threshold_percent,
            low: self.image_gc_low_threshold_percent,
            min_age: std::time::Duration::from_secs(self.image_minimum_gc_age_seconds),
            max_age: std::time::Duration::from_secs(self.image_maximum_gc_age_seconds),
        }
    }

    /// Checks what serde cannot, and fills in the node name.
    ///
    /// # Errors
    /// `Kind::Config` naming the field that does not fit.
    pub fn check(mut self) -> Result<Self> {
        let (high, low) = (self.image_gc_high_threshold_percent, self.image_gc_low_threshold_percent);
        if high > 100 || low > high {
            let why = format!(
                "image_gc_low_threshold_percent {low} and image_gc_high_threshold_percent {high}: the low one must not be above the high one, and neither above 100"
            );
            return Err(Error::config(why));
        }
        if self.node_name.is_empty() {
            let name = nix::unistd::gethostname().map_err(|e| Error::config("read the host name").because(e))?;
            self.node_name = name.to_string_lossy().to_lowercase();
        }
        if self.serving_cert.is_some() != self.serving_key.is_some() {
            return Err(Error::config("serving_cert and serving_key: give both or neither"));
        }
        if self.kubeconfig.is_none() && self.static_pod_dir.is_none() {
            return Err(Error::config("neither kubeconfig nor static_pod_dir: nowhere to get pods from"));
        }
        let root = self.cgroup_root.trim_end_matches('/').to_string();
        if !root.is_empty() && (!root.starts_with('/') || root.contains("..")) {
            return Err(Error::config(format!("cgroup_root {root:?}: not an absolute plain path")));
        }
        self.cgroup_root = root;
        if self.lease_seconds < 4 || self.status_interval_seconds == 0 || self.max_parallel_pulls == 0 {
            return Err(Error::config("lease_seconds under 4, or a zero interval or pull limit"));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_refused() {
        let text = r#"{"node_name":"n1","max_podz":3}"#;
        assert!(serde_json::from_str::<Config>(text).unwrap_err().to_string().contains("max_podz"));
    }

    #[test]
    fn a_certificate_without_a_key_is_refused() {
        let config = Config { serving_cert: Some("/x".into()), static_pod_dir: Some("/y".into()), ..Config::default() };
        assert!(config.check().unwrap_err().to_string().contains("serving_key"));
    }

    #[test]
    fn cgroup_roots_cannot_climb() {
        for root in ["a/b", "/a/../b"] {
            let config = Config { cgroup_root: root.into(), static_pod_dir: Some("/y".into()), ..Config::default() };
            assert!(config.check().is_err(), "{root}");
        }
    }
}
