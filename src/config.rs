//! The node's configuration: one file, `/etc/gantry/gantry.toml`, read by every subcommand.
//!
//! Every path, address and name can be moved, by the file or by a flag of the same name, so that several nodes fit on
//! one host. Unknown keys are refused: a misspelt key that is silently ignored is worse than a node that does not start.

use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the configuration is read from when no `--config` is given.
pub(crate) const DEFAULT_FILE: &str = "/etc/gantry/gantry.toml";

/// The whole configuration, with the defaults of a node of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// State that outlives a reboot: images, the store, certificates, volumes.
    pub data_dir: PathBuf,
    /// State of this boot: sockets, pods, namespaces.
    pub run_dir: PathBuf,
    /// Where the admin's kubeconfig is written.
    pub config_dir: PathBuf,
    /// Where pod logs are written, in the layout that log collectors know.
    pub log_dir: PathBuf,
    /// The node's name in the cluster; the host's name by default.
    pub node_name: String,
    /// The node's address as others reach it; found from the routing table by default.
    pub node_ip: Option<IpAddr>,
    /// Where the API server listens.
    pub api_address: SocketAddr,
    /// A file of static bearer tokens for the API, `token,user,uid[,"groups"]` a line; none by default.
    pub token_file: Option<PathBuf>,
    /// Where the kubelet's HTTPS API listens.
    pub kubelet_address: SocketAddr,
    /// The ranges of the pods' addresses on the built-in bridge: one of IPv4, one of IPv6, or both, comma separated.
    pub pod_cidr: String,
    /// The bridge that joins the pods.
    pub bridge: String,
    /// The cgroup, below every hierarchy's root, that `kubepods` is made in.
    pub cgroup_root: String,
    /// The runtime's static binary; beside this program, then in `PATH`, by default.
    pub runtime: Option<PathBuf>,
    /// Whether the node lives in a network namespace of its own, out of which no pod reaches any network.
    pub private_network: bool,
    /// Most processes in one pod; -1: no limit.
    pub pod_pids_limit: i64,
    /// Most pods that the node takes.
    pub max_pods: u32,
    /// Percent of the images' filesystem from which on the kubelet removes unused images; 100: never.
    pub image_gc_high_threshold_percent: u8,
    /// Percent down to which it does.
    pub image_gc_low_threshold_percent: u8,
    /// Seconds that an image is spared after it came.
    pub image_minimum_gc_age_seconds: u64,
    /// Seconds after whose last use an image goes in any case; 0: never.
    pub image_maximum_gc_age_seconds: u64,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log: String,
    /// The image store: registries, limits, garbage; its `root` is `images` below `data_dir` if it is not set.
    pub images: gantry_images::Config,
    /// Which network pods are attached to: CNI's, if one is configured, or the built-in bridge.
    pub network: gantry_cri::network::Settings,
}

/// Where registries' settings are looked for, so that a node that ran containerd needs no change.
pub(crate) const HOSTS_DIRS: &str = "/etc/gantry/hosts.d:/etc/containerd/certs.d";

/// The defaults of the image store in a node. An empty root stands for the one below `data_dir`.
fn images() -> gantry_images::Config {
    gantry_images::Config { hosts_dir: Some(HOSTS_DIRS.into()), ..gantry_images::Config::at("") }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/gantry".into(),
            run_dir: "/run/gantry".into(),
            config_dir: "/etc/gantry".into(),
            log_dir: "/var/log/pods".into(),
            node_name: host_name(),
            node_ip: None,
            api_address: (Ipv4Addr::LOCALHOST, 6443).into(),
            token_file: None,
            kubelet_address: (Ipv4Addr::UNSPECIFIED, 10250).into(),
            pod_cidr: "10.244.0.0/24,fd5a:67e0:244::/120".into(),
            bridge: "gantry0".into(),
            cgroup_root: "/".into(),
            runtime: None,
            private_network: false,
            pod_pids_limit: 4096,
            max_pods: 110,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age_seconds: 120,
            image_maximum_gc_age_seconds: 0,
            log: "info".into(),
            images: images(),
            network: gantry_cri::network::Settings::default(),
        }
    }
}

/// An error that quotes the file, with the users and passwords in addresses left out.
fn without_users(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out = out + before + "://";
        let end = after.find(|c: char| c.is_whitespace() || "\"'`/".contains(c)).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                out += "[redacted]";
                &after[at..]
            }
            None => after,
        };
    }
    out + rest
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() { "node".into() } else { name }
}

impl Config {
    /// Reads `file`; the default file may be missing, a named one may not.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self, String> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|why| format!("{}: {why}", path.display())),
            Err(why) if file.is_none() && why.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(why) => Err(format!("read {}: {why}", path.display())),
        }
    }

    /// Reads the text of a configuration file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: toml::de::Error| without_users(why.to_string().trim_end());
        let mut config: Self = toml::from_str(text).map_err(wrong)?;
        let table: toml::Table = toml::from_str(text).map_err(wrong)?;
        // A section that is there has its own crate's defaults for what it does not say.
        let says = |key: &str| table.get("images").and_then(toml::Value::as_table).is_some_and(|t| t.contains_key(key));
        if !says("root") {
            config.images.root = PathBuf::new();
        }
        if !says("hosts_dir") {
            config.images.hosts_dir = images().hosts_dir;
        }
        Ok(config)
    }

    /// The directories with registries' settings that exist, in the order in which they are asked, and all of them.
    pub(crate) fn hosts_dirs(&self) -> (Vec<String>, String) {
        let path = self.image_store().hosts_dir.unwrap_or_default();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let there = dirs.iter().filter(|dir| dir.is_dir()).map(|dir| dir.display().to_string()).collect();
        let all: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        (there, all.join(" or "))
    }

    /// With everything filled in that follows from other keys.
    pub(crate) fn effective(&self) -> Self {
        Self { images: self.image_store(), ..self.clone() }
    }

    /// The image store's configuration, as the CRI server and `gantry image` use it.
    pub(crate) fn image_store(&self) -> gantry_images::Config {
        let root = match self.images.root.as_os_str().is_empty() {
            true => self.data_dir.join("images"),
            false => self.images.root.clone(),
        };
        gantry_images::Config { root, ..self.images.clone() }
    }

    /// Sets one key from a flag, as if the file said `key = value`.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let mut table = toml::Table::try_from(&*self).map_err(|why| why.to_string())?;
        let key = key.replace('-', "_");
        let parsed = match (value.parse::<i64>(), value.parse::<bool>()) {
            (Ok(number), _) => toml::Value::Integer(number),
            (_, Ok(truth)) => toml::Value::Boolean(truth),
            _ => toml::Value::String(value.to_owned()),
        };
        table.insert(key, parsed);
        // Secrets are not written out, so they would not come back.
        let proxies = self.images.network.proxies.take();
        *self = table.try_into().map_err(|why: toml::de::Error| without_users(why.message()))?;
        self.images.network.proxies = proxies;
        Ok(())
    }

    /// Checks what the types cannot.
    pub(crate) fn check(&self) -> Result<(), String> {
        let dirs = [("data_dir", &self.data_dir), ("run_dir", &self.run_dir), ("config_dir", &self.config_dir)];
        for (key, dir) in dirs {
            if !dir.is_absolute() {
                return Err(format!("{key}: {} is not an absolute path", dir.display()));
            }
        }
        let name = &self.node_name;
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if name.is_empty() || name.len() > 253 || !name.chars().all(legal) {
            return Err(format!("node_name: {name:?} is not a DNS name (a-z, 0-9, '-' and '.')"));
        }
        let (high, low) = (self.image_gc_high_threshold_percent, self.image_gc_low_threshold_percent);
        if high > 100 || low > high {
            return Err(format!(
                "image_gc_low_threshold_percent: {low} is above image_gc_high_threshold_percent or 100"
            ));
        }
        self.image_store().check().map_err(|why| format!("images: {why}"))?;
        if !self.cgroup_root.starts_with('/') || self.cgroup_root.contains("..") {
            return Err(format!("cgroup_root: {:?} must start with '/' and stay below it", self.cgroup_root));
        }
        Ok(())
    }

    /// The address that others reach the node at.
    pub(crate) fn address(&self) -> IpAddr {
        match self.node_ip {
            Some(ip) => ip,
            None if self.private_network => IpAddr::V4(Ipv4Addr::LOCALHOST),
            None => outward_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }

    /// The CRI server's socket.
    pub(crate) fn cri_socket(&self) -> PathBuf {
        self.run_dir.join("cri.sock")
    }

    /// The admin's kubeconfig.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.config_dir.join("admin.kubeconfig")
    }
}

/// The source address of the default route. Connecting a UDP socket sends no packet; it only asks the routing table.
fn outward_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_password_is_kept_and_never_shown() {
        let proxies = "[images.network.proxies]\nhttps = \"http://me:canary@proxy:3128\"\n";
        let mut config = Config::parse(proxies).unwrap();
        config.set("node-name", "other").unwrap();
        let https = config.images.network.proxies.as_ref().and_then(|proxies| proxies.https.clone()).unwrap();
        assert_eq!(https.reveal(), "http://me:canary@proxy:3128");
        assert!(!format!("{config:?} {}", toml::to_string(&config).unwrap()).contains("canary"));
        for wrong in ["htps", "https = 1 #", "https = [", "no_proxy = 3 #"] {
            let why = Config::parse(&proxies.replace("https", wrong)).unwrap_err();
            assert!(!why.contains("canary"), "{why}");
        }
        assert_eq!(without_users("a://u:p@h/x 'b://h' c://u@d"), "a://[redacted]@h/x 'b://h' c://[redacted]@d");
    }

    #[test]
    fn an_empty_file_is_the_default_node() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.cri_socket(), Path::new("/run/gantry/cri.sock"));
        config.check().unwrap();
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let why = Config::parse("pod_cdir = \"10.0.0.0/24\"").unwrap_err();
        assert!(why.contains("pod_cdir"), "{why}");
    }

    #[test]
    fn the_image_store_follows_the_data_directory() {
        let config = Config::parse("data_dir = \"/d\"\n[images]\nparallel_downloads = 5").unwrap();
        let images = config.image_store();
        assert_eq!((images.root.as_path(), images.parallel_downloads), (Path::new("/d/images"), 5));
        assert_eq!(images.hosts_dir.as_deref(), Some(Path::new(HOSTS_DIRS)));
        let mut config = Config::parse("[images]\nroot = \"/i\"\nhosts_dir = \"/h\"").unwrap();
        config.set("data-dir", "/d").unwrap();
        assert_eq!(config.image_store().root, Path::new("/i"));
        assert_eq!(config.image_store().hosts_dir.as_deref(), Some(Path::new("/h")));
        let mut config = Config::default();
        config.set("data-dir", "/d").unwrap();
        assert_eq!(config.image_store().root, Path::new("/d/images"));
        let why = Config::parse("[images]\npararell_downloads = 5").unwrap_err();
        assert!(why.contains("pararell_downloads"), "{why}");
        let wrong = Config::parse("[images.garbage]\nhigh = \"85%\"").unwrap();
        assert_eq!(wrong.check().unwrap_err(), "images: garbage: high and low go together");
    }

    /// What the README shows is read, and says what it says.
    #[test]
    fn the_example_in_the_readme() {
        let readme = include_str!("../README.md");
        let start = readme.find("```toml\n[images]").unwrap() + "```toml\n".len();
        let text = &readme[start..start + readme[start..].find("```").unwrap()];
        let config = Config::parse(&text.replace("\n#", "\n")).unwrap();
        config.check().unwrap();
        assert_eq!(config.image_store().hosts_dir.as_deref(), Some(Path::new(HOSTS_DIRS)));
        let defaults = Config::default().image_store();
        assert_eq!(config.images.parallel_downloads, defaults.parallel_downloads);
        assert_eq!(config.images.garbage.interval, defaults.garbage.interval);
        assert_eq!(config.images.garbage.min_age, defaults.garbage.min_age);
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let config = Config::parse("[images.garbage]\nhigh = \"85%\"\nlow = \"80%\"").unwrap();
        let again = Config::parse(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), toml::to_string(&config).unwrap());
        assert_eq!(again.image_store().root, Path::new("/var/lib/gantry/images"));
    }

    #[test]
    fn a_flag_sets_a_key_of_any_type() {
        let mut config = Config::default();
        config.set("api-address", "127.0.0.1:7443").unwrap();
        config.set("max-pods", "7").unwrap();
        config.set("private-network", "true").unwrap();
        assert_eq!((config.api_address.port(), config.max_pods, config.private_network), (7443, 7, true));
        assert!(config.set("max-pods", "many").is_err());
        assert!(config.set("no-such", "1").is_err());
    }

    #[test]
    fn names_and_paths_are_checked() {
        let bad = |key: &str, value: &str| {
            let mut config = Config::default();
            config.set(key, value).unwrap();
            config.check().unwrap_err()
        };
        assert!(bad("node_name", "Web_1").contains("node_name"));
        assert!(bad("run_dir", "run").contains("run_dir"));
        assert!(bad("cgroup_root", "/a/../..").contains("cgroup_root"));
    }
}
