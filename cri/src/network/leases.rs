//! Who has which address: one file a lease, written before anything of the pod exists in the kernel.
//!
//! ```text
//! <state_dir>/lock                held while a daemon uses the directory
//! <state_dir>/leases/10.88.0.7    {"version":1,"pod":"3f…","device":"gv…","ports":[]}
//! <state_dir>/released/10.88.0.9  empty; its mtime says since when the address is free
//! ```
//!
//! The name of a lease's file is the pod's primary address; the one of the other family is in the file.
//! A lease appears by rename, whole or not at all. An address that was never used goes first, then the one that has
//! been free longest: a late packet to a pod that is gone should not reach its successor.

use super::PortMapping;
use super::netns::make_dir;
use super::range::Ranges;
use crate::error::{Context as _, Error, Kind, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// What is recorded of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    version: u32,
    /// Id of the pod that has the address.
    pub(super) pod: String,
    /// Name of the host's end of its pair.
    pub(super) device: String,
    /// Its ports on the host.
    pub(super) ports: Vec<PortMapping>,
    /// Its addresses beside the one that names the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) more: Vec<IpAddr>,
}

/// Every lease of one range; the files are the truth, this is their cache.
#[derive(Debug)]
pub(super) struct Leases {
    dir: PathBuf,
    ranges: Ranges,
    held: BTreeMap<IpAddr, Lease>,
    by_pod: HashMap<String, IpAddr>,
    /// Free again, longest first.
    released: VecDeque<IpAddr>,
    /// Never used; those that a file says otherwise of are skipped.
    fresh: std::ops::Range<u32>,
    _lock: Flock<File>,
}

impl Leases {
    /// Reads the directory, making it where needed, and keeps it locked until dropped.
    pub(super) fn open(dir: &Path, ranges: Ranges) -> Result<Self> {
        make_dir(&dir.join("leases"))?;
        make_dir(&dir.join("released"))?;
        let lock = File::create(dir.join("lock")).context(|| format!("open {}/lock", dir.display()))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| {
            let why = format!("{}: another daemon uses it", dir.display());
            Error::new(Kind::Exists, why)
        })?;
        let mut leases = Self {
            dir: dir.to_owned(),
            ranges,
            held: BTreeMap::new(),
            by_pod: HashMap::new(),
            released: VecDeque::new(),
            fresh: ranges.pods(),
            _lock: lock,
        };
        leases.read_held()?;
        leases.read_released()?;
        Ok(leases)
    }

    fn read_held(&mut self) -> Result<()> {
        for entry in list(&self.dir.join("leases"))? {
            let Some(ip) = address_of(&entry) else {
                // A temporary file of a write that was cut short.
                let _ = fs::remove_file(&entry);
                continue;
            };
            let text = fs::read(&entry).context(|| format!("read {}", entry.display()))?;
            match serde_json::from_slice::<Lease>(&text) {
                Ok(lease) if lease.version == VERSION => {
                    self.by_pod.insert(lease.pod.clone(), ip);
                    self.held.insert(ip, lease);
                }
                _ => {
                    // Renames leave no half-written lease, so a person made this one. Starting without it is better
                    // than not starting: its device belongs to no lease, and goes with the next reconcile.
                    tracing::warn!(file = %entry.display(), "not a lease of version {VERSION}, dropped");
                    let _ = fs::remove_file(&entry);
                }
            }
        }
        Ok(())
    }

    fn read_released(&mut self) -> Result<()> {
        let mut free = Vec::new();
        for entry in list(&self.dir.join("released"))? {
            let since = fs::metadata(&entry)
                .and_then(|data| data.modified())
                .context(|| format!("stat {}", entry.display()))?;
            match address_of(&entry) {
                Some(ip) if !self.held.contains_key(&ip) && self.is_for_pods(ip) => {
                    free.push((since, ip));
                }
                // The crash came between taking the address and forgetting its release.
                _ => drop(fs::remove_file(&entry)),
            }
        }
        free.sort();
        self.released = free.into_iter().map(|(_, ip)| ip).collect();
        Ok(())
    }

    fn is_for_pods(&self, ip: IpAddr) -> bool {
        self.ranges.pod_number(ip).is_some()
    }

    /// The address of a pod.
    pub(super) fn of(&self, pod: &str) -> Option<(IpAddr, &Lease)> {
        let ip = *self.by_pod.get(pod)?;
        Some((ip, self.held.get(&ip)?))
    }

    /// Every lease, by address.
    pub(super) fn all(&self) -> impl Iterator<Item = (IpAddr, &Lease)> {
        self.held.iter().map(|(ip, lease)| (*ip, lease))
    }

    /// How many addresses are handed out.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Records an address for the pod: the one that it has, or a free one.
    pub(super) fn take(&mut self, pod: &str, ports: &[PortMapping]) -> Result<(IpAddr, Lease)> {
        self.check_ports(pod, ports)?;
        let known = self.of(pod).map(|(ip, lease)| (ip, lease.device.clone(), lease.more.clone()));
        let (ip, device, more) = match known {
            Some(known) => known,
            None => {
                let ip = self.free()?;
                (ip, self.name_for(pod), self.beside(ip))
            }
        };
        let lease = Lease {
            version: VERSION,
            pod: pod.into(),
            device,
            ports: ports.iter().filter(|port| port.host_port != 0).cloned().collect(),
            more,
        };
        if let Err(why) = self.write(ip, &lease) {
            if !self.held.contains_key(&ip) {
                self.released.push_front(ip);
            }
            return Err(why);
        }
        // Only the order of reuse hangs on this file.
        let _ = fs::remove_file(self.dir.join("released").join(ip.to_string()));
        self.by_pod.insert(pod.into(), ip);
        self.held.insert(ip, lease.clone());
        Ok((ip, lease))
    }

    fn free(&mut self) -> Result<IpAddr> {
        let used: HashSet<IpAddr> = self.released.iter().copied().collect();
        for candidate in self.fresh.by_ref() {
            let ip = self.ranges.first().host(candidate);
            if !used.contains(&ip) && !self.held.contains_key(&ip) {
                return Ok(ip);
            }
        }
        self.released.pop_front().ok_or_else(|| {
            let size = self.ranges.pods().len();
            let why = format!(
                "no address left in {}: all {size} are in use; remove pods or configure a larger range",
                self.ranges
            );
            Error::new(Kind::Exhausted, why)
        })
    }

    /// The addresses that go with a primary one.
    fn beside(&self, primary: IpAddr) -> Vec<IpAddr> {
        let number = self.ranges.pod_number(primary);
        number.map(|number| self.ranges.hosts(number).into_iter().skip(1).collect()).unwrap_or_default()
    }

    fn name_for(&self, pod: &str) -> String {
        let taken: HashSet<&str> = self.held.values().map(|lease| &*lease.device).collect();
        device_name(pod, |name| taken.contains(name))
    }

    fn check_ports(&self, pod: &str, ports: &[PortMapping]) -> Result<()> {
        for port in ports.iter().filter(|port| port.host_port != 0) {
            let other = self
                .held
                .values()
                .find(|lease| lease.pod != pod && lease.ports.iter().any(|theirs| theirs.clashes(port)));
            if let Some(other) = other {
                let (number, pod) = (port.host_port, &other.pod);
                let why = format!("host port {number} is taken by pod {pod}");
                return Err(Error::new(Kind::Exists, why));
            }
        }
        Ok(())
    }

    fn write(&self, ip: IpAddr, lease: &Lease) -> Result<()> {
        let dir = self.dir.join("leases");
        let (part, whole) = (dir.join(format!("{ip}.part")), dir.join(ip.to_string()));
        let what = || format!("write lease {}", whole.display());
        let text = serde_json::to_vec(lease).context(what)?;
        let mut file = File::create(&part).context(what)?;
        file.write_all(&text).context(what)?;
        file.sync_data().context(what)?;
        fs::rename(&part, &whole).context(what)
    }

    /// Gives the address of a pod back. To be called once nothing of the pod is left in the kernel.
    pub(super) fn release(&mut self, pod: &str) -> Result<()> {
        let Some(ip) = self.by_pod.get(pod).copied() else {
            return Ok(());
        };
        let (lease, free) =
            (self.dir.join("leases").join(ip.to_string()), self.dir.join("released").join(ip.to_string()));
        if self.is_for_pods(ip) {
            // Without this file the address is free all the same, only its turn is lost.
            let _ = File::create(&free);
        }
        fs::remove_file(&lease).context(|| format!("remove lease {}", lease.display()))?;
        self.by_pod.remove(pod);
        self.held.remove(&ip);
        if self.is_for_pods(ip) {
            self.released.push_back(ip);
        }
        Ok(())
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("list {}", dir.display());
    fs::read_dir(dir).context(what)?.map(|entry| entry.map(|entry| entry.path()).context(what)).collect()
}

fn address_of(file: &Path) -> Option<IpAddr> {
    file.file_name()?.to_str()?.parse().ok()
}

/// Start of the name of every host's end.
pub(super) const DEVICE_PREFIX: &str = "gv";

/// The name of the host's end for a pod, 15 bytes: the same at each try, another one where two pods' would be equal.
fn device_name(pod: &str, taken: impl Fn(&str) -> bool) -> String {
    (0u32..)
        .map(|turn| {
            let bytes = pod.bytes().chain(turn.to_le_bytes());
            // FNV-1a: stable over versions, which std's hashers are not.
            let hash = bytes
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            format!("{DEVICE_PREFIX}{:013x}", hash >> 12)
        })
        .find(|name| !taken(name))
        .expect("fewer pods than names")
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
