//! The built-in bridge: what is done in the kernel for each attach and detach, in an order that a crash cannot spoil.

use super::config::NetworkConfig;
use super::firewall::Family;
use super::inside::{self, within};
use super::leases::{DEVICE_PREFIX, Lease, Leases};
use super::link::{self, Link, Mac, Pair};
use super::range::Cidr;
use super::{Attachment, PortMapping, firewall, ipv6, nft};
use crate::error::{Context as _, Error, Kind, Result};
use gantry_runtime::netlink::Socket;
use nix::errno::Errno;
use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// Hosts that forward already are left alone; the file is of this thread's network namespace.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The bridge of one node.
#[derive(Debug)]
pub(super) struct Bridge {
    config: NetworkConfig,
    /// Held for the whole of an attach or detach (the kernel's own lock on links admits one at a time anyway), and
    /// taken before `leases`.
    kernel: Mutex<Kernel>,
    /// Held for moments.
    leases: Mutex<Leases>,
    /// Devices of pods that wait to be detached, for whoever has the kernel next to remove together.
    leaving: Mutex<Vec<String>>,
}

/// Sockets of the daemon's network namespace; they stay there, whichever thread uses them.
#[derive(Debug)]
struct Kernel {
    route: Socket,
    netfilter: Socket,
    /// Index of the bridge, or 0 while it has to be looked up.
    bridge: u32,
}

/// The steps of an attach, after the lease. A list, so that a test can stop after each.
pub(super) const STEPS: [Step; 3] = [Step::Pair, Step::Address, Step::Firewall];

/// One step of an attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Both ends of the pair, the host's a port of the bridge.
    Pair,
    /// In the pod: address, link up, default route.
    Address,
    /// Host ports.
    Firewall,
}

impl Bridge {
    pub(super) fn open(mut config: NetworkConfig) -> Result<Self> {
        let name = &config.bridge_name;
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', ' ', '\0']) {
            let why = format!("bridge name {name:?}: not 1 to 15 bytes of a device name");
            return Err(Error::new(Kind::Invalid, why));
        }
        if !ipv6::there() && config.ranges.has_ipv6() {
            tracing::warn!(ranges = %config.ranges, "this kernel has no IPv6: pods get addresses of IPv4 alone");
            config.ranges = config.ranges.without_ipv6();
        }
        let leases = Leases::open(&config.state_dir, config.ranges)?;
        let mut kernel = Kernel {
            route: Socket::route().context(|| "open rtnetlink")?,
            netfilter: Socket::netfilter().context(|| "open nfnetlink")?,
            bridge: 0,
        };
        kernel.make_bridge(&config)?;
        forward()?;
        if config.ranges.has_ipv6() {
            ipv6::forward()?;
        }
        let bridge = Self { config, kernel: Mutex::new(kernel), leases: Mutex::new(leases), leaving: Mutex::default() };
        bridge.apply_firewall(&mut bridge.kernel())?;
        Ok(bridge)
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<String>> {
        self.leaving.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(super) fn attach(&self, pod: &str, netns: &Path, ports: &[PortMapping]) -> Result<Attachment> {
        self.attach_until(pod, netns, ports, &STEPS)
    }

    /// The lease, then `steps`.
    pub(super) fn attach_until(
        &self,
        pod: &str,
        netns: &Path,
        ports: &[PortMapping],
        steps: &[Step],
    ) -> Result<Attachment> {
        if !self.config.host_ports && ports.iter().any(|port| port.host_port != 0) {
            let why = format!("pod {pod}: host ports are switched off in the configuration");
            return Err(Error::new(Kind::Invalid, why));
        }
        let mut kernel = self.kernel();
        let (ip, lease) = self.leases().take(pod, ports)?;
        self.fault("attach-after-lease");
        let done = steps.iter().try_for_each(|step| self.perform(*step, &mut kernel, netns, ip, &lease));
        match done {
            Ok(()) => Ok(self.describe(ip, &lease)),
            Err(why) => {
                // The first error says why; what cannot be undone now stays on record for the next try.
                let _ = self.withdraw(&mut kernel, pod);
                Err(why.within(format!("attach pod {pod} to {}", self.config.bridge_name)))
            }
        }
    }

    fn perform(&self, step: Step, kernel: &mut Kernel, netns: &Path, ip: IpAddr, lease: &Lease) -> Result<()> {
        match step {
            Step::Pair => kernel.make_pair(&self.config, netns, ip, lease)?,
            Step::Address => self.set_up_pod(netns, ip, lease)?,
            Step::Firewall if lease.ports.is_empty() => {}
            Step::Firewall => self.apply_firewall(kernel)?,
        }
        self.fault(match step {
            Step::Pair => "attach-after-pair",
            Step::Address => "attach-after-address",
            Step::Firewall => "attach-after-firewall",
        });
        Ok(())
    }

    fn fault(&self, here: &str) {
        crate::fault::point(self.config.fault.as_deref(), here);
    }

    fn set_up_pod(&self, netns: &Path, ip: IpAddr, lease: &Lease) -> Result<()> {
        let all: Vec<IpAddr> = std::iter::once(ip).chain(lease.more.iter().copied()).collect();
        within(inside::open(netns)?, || {
            let mut socket = Socket::route().context(|| "open netlink in the pod")?;
            let device = link::find(&mut socket, link::POD_DEVICE)
                .context(|| "find eth0")?
                .ok_or_else(|| Error::internal("eth0 is not in the pod's namespace"))?;
            if ipv6::there() {
                ipv6::settle(link::POD_DEVICE, all.iter().any(IpAddr::is_ipv6))?;
            }
            // Of an earlier configuration's range, where a pod is attached again: then without a way out of it.
            let ranges = all.iter().filter_map(|ip| Some((*ip, self.config.ranges.of(*ip)?)));
            let (mut requests, mut routes) = (vec![link::up(device.index)], Vec::new());
            for (ip, range) in ranges {
                requests.push(link::address(device.index, ip, range));
                routes.push(link::default_route(device.index, range.gateway()));
            }
            requests.extend(routes);
            socket.request(requests).context(|| format!("set {all:?} on eth0"))
        })
    }

    fn apply_firewall(&self, kernel: &mut Kernel) -> Result<()> {
        self.apply_firewall_without(kernel, None)
    }

    fn apply_firewall_without(&self, kernel: &mut Kernel, leaving: Option<&str>) -> Result<()> {
        let leases = self.leases();
        let staying = leases.all().filter(|(_, lease)| Some(&*lease.pod) != leaving);
        let rules = firewall::decide(&self.config, staying);
        drop(leases);
        let table = self.table();
        match nft::replace(&mut kernel.netfilter, &table, &self.families(), &rules) {
            Err(errno) if self.config.masquerade || self.config.host_ports => Err(errno).context(|| {
                format!(
                    "write nf_tables table {table} (masquerade and host ports need nf_tables with NAT in the kernel)"
                )
            }),
            // Only behind the guard, which keeps the pods from the node's loopback.
            Ok(()) if self.config.host_ports => open_loopback(&self.config.bridge_name),
            // The guard alone is a second wall; kernels without nf_tables do without it.
            _ => Ok(()),
        }
    }

    fn families(&self) -> Vec<Family> {
        let family = |range: Cidr| if range.address().is_ipv4() { Family::V4 } else { Family::V6 };
        self.config.ranges.all().map(family).collect()
    }

    fn table(&self) -> String {
        format!("gantry-{}", self.config.bridge_name)
    }

    pub(super) fn detach(&self, pod: &str) -> Result<()> {
        if let Some((_, lease)) = self.leases().of(pod) {
            self.leaving().push(lease.device.clone());
        }
        self.withdraw(&mut self.kernel(), pod)
    }

    fn withdraw(&self, kernel: &mut Kernel, pod: &str) -> Result<()> {
        let Some(lease) = self.leases().of(pod).map(|(_, lease)| lease.clone()) else {
            return Ok(());
        };
        // Those that wait for the kernel behind this one go along; they find their own device absent then.
        let mut devices = std::mem::take(&mut *self.leaving());
        devices.push(lease.device);
        devices.sort();
        devices.dedup();
        kernel.delete(&devices).context(|| format!("detach pod {pod}: remove {devices:?}"))?;
        self.fault("detach-after-pair");
        if !lease.ports.is_empty() {
            self.apply_firewall_without(kernel, Some(pod))?;
        }
        self.fault("detach-after-firewall");
        self.leases().release(pod)
    }

    pub(super) fn attachment(&self, pod: &str) -> Option<Attachment> {
        let leases = self.leases();
        let (ip, lease) = leases.of(pod)?;
        Some(self.describe(ip, lease))
    }

    fn describe(&self, ip: IpAddr, lease: &Lease) -> Attachment {
        Attachment {
            ips: std::iter::once(ip).chain(lease.more.iter().copied()).collect(),
            gateway: self.config.ranges.of(ip).unwrap_or(self.config.ranges.first()).gateway(),
            mac: print(link::mac(ip)),
        }
    }

    pub(super) fn reconcile(&self, living: &HashSet<String>) -> Result<()> {
        let mut kernel = self.kernel();
        let pods: Vec<String> = self.leases().all().map(|(_, lease)| lease.pod.clone()).collect();
        let mut outcome = Ok(());
        let dead: Vec<&String> = pods.iter().filter(|pod| !living.contains(*pod)).collect();
        let devices = dead.iter().filter_map(|pod| self.leases().of(pod).map(|(_, lease)| lease.device.clone()));
        let devices: Vec<String> = devices.collect();
        self.leaving().extend(devices);
        for pod in dead {
            outcome = outcome.and(self.withdraw(&mut kernel, pod));
        }
        outcome = outcome.and(self.delete_strays(&mut kernel));
        outcome.and(self.apply_firewall(&mut kernel))
    }

    /// Removes ports of the bridge that are ours by name and in no lease.
    fn delete_strays(&self, kernel: &mut Kernel) -> Result<()> {
        let known: HashSet<String> = self.leases().all().map(|(_, lease)| lease.device.clone()).collect();
        let bridge = kernel.bridge(&self.config)?;
        let links = link::list(&mut kernel.route).context(|| "list links")?;
        let ours = |link: &Link| link.master == bridge && link.kind == "veth" && link.name.starts_with(DEVICE_PREFIX);
        let strays = links.into_iter().filter(ours).map(|link| link.name).filter(|name| !known.contains(name));
        let strays: Vec<String> = strays.collect();
        kernel.delete(&strays).context(|| format!("remove {strays:?}"))
    }

    /// Addresses handed out, and all that there are.
    pub(super) fn fill(&self) -> (usize, usize) {
        (self.leases().len(), self.config.ranges.pods().len())
    }

    pub(super) fn check(&self) -> Result<()> {
        let name = &self.config.bridge_name;
        match link::find(&mut self.kernel().route, name).context(|| format!("look for {name}"))? {
            Some(_) => Ok(()),
            // Somebody removed it; the next attach makes it anew.
            None => Err(Error::internal(format!("bridge {name} is not there"))),
        }
    }

    pub(super) fn dismantle(&self) -> Result<()> {
        let mut outcome = self.reconcile(&HashSet::new());
        let mut kernel = self.kernel();
        let (name, table) = (&self.config.bridge_name, self.table());
        for family in self.families() {
            let gone = nft::remove(&mut kernel.netfilter, &table, family);
            if self.config.masquerade || self.config.host_ports {
                outcome = outcome.and(gone.context(|| format!("remove nf_tables table {table}")));
            }
        }
        kernel.bridge = 0;
        outcome.and(kernel.delete(std::slice::from_ref(name)).context(|| format!("remove bridge {name}")))
    }
}

impl Kernel {
    /// Index of the bridge, which is made where it is missing.
    fn bridge(&mut self, config: &NetworkConfig) -> Result<u32> {
        if self.bridge == 0 {
            self.make_bridge(config)?;
        }
        Ok(self.bridge)
    }

    fn make_bridge(&mut self, config: &NetworkConfig) -> Result<()> {
        let name = &config.bridge_name;
        let make = link::new_bridge(name, link::mac(config.ranges.first().gateway()), config.mtu);
        match self.route.request(vec![make]) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).context(|| format!("make bridge {name}")),
        }
        let found = link::find(&mut self.route, name).context(|| format!("look for {name}"))?;
        let bridge = found.ok_or_else(|| Error::internal(format!("bridge {name} went away")))?;
        if bridge.kind != "bridge" {
            let why = format!("{name} exists and is no bridge: configure another name");
            return Err(Error::new(Kind::Invalid, why));
        }
        if ipv6::there() {
            ipv6::settle(name, config.ranges.has_ipv6())?;
        }
        for range in config.ranges.all() {
            let gateway = range.gateway();
            match self.route.request(vec![link::address(bridge.index, gateway, range)]) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno).context(|| format!("set {gateway} on {name}")),
            }
        }
        let up = self.route.request(vec![link::up(bridge.index)]);
        up.context(|| format!("bring {name} up"))?;
        self.bridge = bridge.index;
        Ok(())
    }

    fn make_pair(&mut self, config: &NetworkConfig, netns: &Path, ip: IpAddr, lease: &Lease) -> Result<()> {
        let netns = inside::open(netns)?;
        let what = || format!("make {} and eth0", lease.device);
        for last in [false, true] {
            let pair = Pair {
                host: &lease.device,
                bridge: self.bridge(config)?,
                mac: link::mac(ip),
                mtu: config.mtu,
                netns: netns.as_fd(),
            };
            match self.route.request(vec![link::new_pair(&pair)]) {
                Ok(()) => break,
                // Left over from an attach that was cut short, or from before a change of the records.
                Err(Errno::EEXIST) if !last => {
                    self.delete(std::slice::from_ref(&lease.device)).context(what)?;
                }
                // The bridge is another one by now.
                Err(Errno::ENODEV | Errno::EINVAL) if !last => self.bridge = 0,
                Err(errno) => return Err(errno).context(what),
            }
        }
        let port = link::find(&mut self.route, &lease.device)
            .context(what)?
            .ok_or_else(|| Error::internal(format!("{} went away", lease.device)))?;
        let hairpin = self.route.request(vec![link::hairpin(port.index)]);
        hairpin.context(|| format!("set hairpin on {}", lease.device))
    }

    /// Removes links; those that are absent are no error.
    fn delete(&mut self, names: &[String]) -> Result<(), Errno> {
        link::delete_all(&mut self.route, names)
    }
}

fn forward() -> Result<()> {
    let now = fs::read_to_string(FORWARDING).context(|| format!("read {FORWARDING}"))?;
    match now.trim() {
        "0" => fs::write(FORWARDING, "1").context(|| format!("write {FORWARDING}")),
        _ => Ok(()),
    }
}

/// Lets packets of 127.0.0.0/8 cross the bridge (ip-sysctl.rst, route_localnet): host ports answer on it, too. A bridge
/// that is being removed by somebody else has none.
fn open_loopback(bridge: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet");
    match fs::write(&path, "1") {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why).context(|| format!("write {path}")),
        _ => Ok(()),
    }
}

fn print(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
