//! The pod's own files: `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`, and the tmpfs behind `/dev/shm`.
//!
//! They live below the pod's run directory and are bind-mounted into each container. Their text is decided by pure
//! functions that refuse what would become a second line (SECURITY_CASES 20).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gantry_cri_api::{DnsConfig, PodSandboxConfig};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Context, Error, Kind, Result};
use crate::store::private_dir;

/// Size of a pod's `/dev/shm`: what Docker and containerd give.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// Where a pod's files are, from its run directory.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// The files of the pod whose run directory this is.
    pub fn of(run_dir: &Path) -> Self {
        Self { dir: run_dir.to_owned() }
    }

    /// The pod's `/etc/hostname`.
    pub fn hostname(&self) -> PathBuf {
        self.dir.join("etc/hostname")
    }

    /// The pod's `/etc/hosts`.
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("etc/hosts")
    }

    /// The pod's `/etc/resolv.conf`.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("etc/resolv.conf")
    }

    /// The pod's `/dev/shm`, where it has one of its own.
    pub fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    /// Writes the files and, with `own_ipc`, mounts the shared memory.
    ///
    /// # Errors
    /// [`Kind::Invalid`] for a DNS configuration or hostname that is none.
    pub fn make(&self, config: &PodSandboxConfig, own_ipc: bool) -> Result<()> {
        private_dir(&self.dir.join("etc"))?;
        let name = match config.hostname.as_str() {
            "" => fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned(),
            name => name.to_owned(),
        };
        check_hostname(&name)?;
        let resolv = match &config.dns_config {
            Some(dns) => resolv_conf(dns)?,
            // No word on DNS: the pod asks whom the host asks.
            None => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        };
        for (path, text) in
            [(self.hostname(), format!("{name}\n")), (self.hosts(), hosts(&name)), (self.resolv_conf(), resolv)]
        {
            fs::write(&path, text).context(|| format!("write {}", path.display()))?;
            // Read by any user of the container through the bind mount; the way here is closed by 0700 above.
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o644));
        }
        if own_ipc { self.mount_shm() } else { Ok(()) }
    }

    fn mount_shm(&self) -> Result<()> {
        let shm = self.shm();
        private_dir(&shm)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))
            .context(|| format!("mount tmpfs on {}", shm.display()))
    }

    /// Unmounts the shared memory. Idempotent; containers that still have it keep theirs.
    pub fn unmount(&self) -> Result<()> {
        use nix::errno::Errno;
        match umount2(&self.shm(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).context(|| format!("unmount {}", self.shm().display())),
        }
    }
}

/// sethostname(2) takes 64 bytes; the rest would end up in files that others parse.
fn check_hostname(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    match name.len() <= 64 && name.chars().all(good) {
        true => Ok(()),
        false => Err(Error::new(Kind::Invalid, format!("hostname {name:?}: not up to 64 letters, digits, - and ."))),
    }
}

fn hosts(name: &str) -> String {
    let own = if name.is_empty() { String::new() } else { format!("127.0.1.1\t{name}\n") };
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}")
}

/// resolv.conf(5).
fn resolv_conf(dns: &DnsConfig) -> Result<String> {
    for word in dns.servers.iter().chain(&dns.searches).chain(&dns.options) {
        if word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::new(Kind::Invalid, format!("dns_config: {word:?} is not one word")));
        }
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_becomes_resolv_conf() {
        let dns = DnsConfig {
            servers: vec!["10.96.0.10".into(), "1.1.1.1".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns).unwrap(),
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()).unwrap(), "");
    }

    #[test]
    fn case_20_no_word_becomes_a_line() {
        for bad in ["a\nnameserver 6.6.6.6", "a b", "", "a\u{85}b"] {
            let dns = DnsConfig { searches: vec![bad.into()], ..Default::default() };
            assert!(resolv_conf(&dns).is_err(), "{bad:?}");
        }
        for bad in ["a\n", "a b", &"x".repeat(65), "ä"] {
            assert!(check_hostname(bad).is_err(), "{bad:?}");
        }
        assert!(check_hostname("web-0.example_x").is_ok());
    }
}
