//! Figures of containers and pods: cgroups read, rates from the reading before, space from the image store.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_cri_api as api;
use gantry_images::Usage as Space;
use gantry_runtime::cgroup::{Cgroup, Usage};
use nix::sched::{CloneFlags, setns};

use crate::error::{Context, Error, Result};
use crate::node::{Container, Node, Pod, blocking, now};

/// How old a figure of space may be: it costs a walk over all that the container has written.
const SPACE_AGE: Duration = Duration::from_secs(10);

/// The last readings, for rates and for figures that are dear.
#[derive(Debug, Default)]
pub struct Samples(Mutex<HashMap<String, Sample>>);

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at: i64,
    cpu: u64,
    rate: Option<u64>,
    space: Option<(Instant, Space)>,
}

impl Samples {
    /// Forgets a container or pod.
    pub fn forget(&self, id: &str) {
        self.with(|all| all.remove(id));
    }

    /// Nanoseconds of CPU a second since the reading before; readings less than 100 ms apart give the rate before.
    fn rate(&self, id: &str, at: i64, cpu: u64) -> Option<u64> {
        self.with(|all| {
            let last = all.entry(id.to_owned()).or_default();
            let elapsed = at - last.at;
            if last.at == 0 || elapsed >= 100_000_000 {
                last.rate = (last.at != 0).then(|| per_second(cpu.saturating_sub(last.cpu), elapsed));
                (last.at, last.cpu) = (at, cpu);
            }
            last.rate
        })
    }

    fn space(&self, id: &str) -> Option<Space> {
        self.with(|all| all.get(id)?.space.filter(|(at, _)| at.elapsed() < SPACE_AGE).map(|(_, space)| space))
    }

    fn keep_space(&self, id: &str, space: Space) {
        self.with(|all| all.entry(id.to_owned()).or_default().space = Some((Instant::now(), space)));
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, Sample>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn per_second(nanoseconds: u64, elapsed: i64) -> u64 {
    (u128::from(nanoseconds) * 1_000_000_000 / u128::from(elapsed.max(1).unsigned_abs())) as u64
}

/// The figures of one container.
pub async fn container(node: &Arc<Node>, container: &Arc<Container>) -> Result<api::ContainerStats> {
    let record = container.record.get();
    let usage = usage(node, &record.cgroup).await?;
    let at = now();
    let space = space(node, &container.id).await;
    Ok(api::ContainerStats {
        attributes: Some(api::ContainerAttributes {
            id: container.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: cpu(node, &container.id, at, &usage),
        memory: memory(at, &usage),
        writable_layer: space.map(|space| filesystem(&node.config.images_root, at, space)),
        swap: swap(at, &usage),
        io: None,
    })
}

/// What a container has written, measured within the last [`SPACE_AGE`].
pub async fn space(node: &Arc<Node>, container: &str) -> Option<Space> {
    match node.samples.space(container) {
        Some(space) => Some(space),
        None => node.images.rootfs_usage(container).await.ok().inspect(|s| node.samples.keep_space(container, *s)),
    }
}

/// The figures of one pod: its containers' one by one, and their sums.
pub async fn pod(node: &Arc<Node>, pod: &Arc<Pod>) -> Result<api::PodSandboxStats> {
    let record = pod.record.get();
    let mut containers = Vec::new();
    let mut sum = Usage::default();
    for member in node.containers_of(&pod.id) {
        if member.record.get().exit.is_none() {
            add(&mut sum, &usage(node, &member.record.get().cgroup).await?);
            containers.push(container(node, &member).await?);
        }
    }
    let at = now();
    let network = match record.host_network() || record.stopped {
        true => None,
        false => interfaces(&pod.netns.join("net")).await.ok().map(|text| network_usage(at, &text)),
    };
    Ok(api::PodSandboxStats {
        attributes: Some(api::PodSandboxAttributes {
            id: pod.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        linux: Some(api::LinuxPodSandboxStats {
            cpu: cpu(node, &pod.id, at, &sum),
            memory: memory(at, &sum),
            network,
            process: sum.pids.map(|count| api::ProcessUsage { timestamp: at, process_count: value(count) }),
            containers,
            io: None,
        }),
    })
}

async fn usage(node: &Arc<Node>, path: &str) -> Result<Usage> {
    let (layout, path) = (node.cgroups.clone(), path.to_owned());
    blocking(move || Ok(Cgroup::at(&layout, Path::new(&path))?.usage()?)).await
}

fn add(sum: &mut Usage, more: &Usage) {
    let plus = |a: Option<u64>, b: Option<u64>| {
        if a.is_some() || b.is_some() { Some(a.unwrap_or(0) + b.unwrap_or(0)) } else { None }
    };
    sum.cpu_ns = plus(sum.cpu_ns, more.cpu_ns);
    sum.pids = plus(sum.pids, more.pids);
    let Some(memory) = &more.memory else { return };
    let all = sum.memory.get_or_insert_default();
    all.usage += memory.usage;
    all.working_set += memory.working_set;
    all.rss += memory.rss;
    all.cache += memory.cache;
    all.swap += memory.swap;
    all.page_faults += memory.page_faults;
    all.major_page_faults += memory.major_page_faults;
}

fn value(value: u64) -> Option<api::UInt64Value> {
    Some(api::UInt64Value { value })
}

fn cpu(node: &Node, id: &str, at: i64, usage: &Usage) -> Option<api::CpuUsage> {
    let total = usage.cpu_ns?;
    let rate = node.samples.rate(id, at, total).and_then(value);
    Some(api::CpuUsage { timestamp: at, usage_core_nano_seconds: value(total), usage_nano_cores: rate, psi: None })
}

fn memory(at: i64, usage: &Usage) -> Option<api::MemoryUsage> {
    let memory = usage.memory.as_ref()?;
    Some(api::MemoryUsage {
        timestamp: at,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.limit.map(|limit| limit.saturating_sub(memory.working_set)).and_then(value),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: None,
    })
}

fn swap(at: i64, usage: &Usage) -> Option<api::SwapUsage> {
    let memory = usage.memory.as_ref()?;
    Some(api::SwapUsage { timestamp: at, swap_available_bytes: None, swap_usage_bytes: value(memory.swap) })
}

/// Space taken below a directory, as CRI says it.
pub fn filesystem(mountpoint: &Path, at: i64, space: Space) -> api::FilesystemUsage {
    api::FilesystemUsage {
        timestamp: at,
        fs_id: Some(api::FilesystemIdentifier { mountpoint: mountpoint.to_string_lossy().into_owned() }),
        used_bytes: value(space.bytes),
        inodes_used: value(space.inodes),
    }
}

/// `/proc/net/dev` as seen from inside a network namespace.
pub async fn interfaces(netns: &Path) -> Result<String> {
    let netns = netns.to_owned();
    blocking(move || {
        let file = File::open(&netns).context(|| format!("open {}", netns.display()))?;
        // A thread that ends afterwards: one of a pool would go on in the wrong namespace.
        let inside = std::thread::Builder::new().name("figures".into()).spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).context(|| "enter the network namespace")?;
            std::fs::read_to_string("/proc/thread-self/net/dev").context(|| "read /proc/net/dev")
        });
        let thread = inside.context(|| "start a thread")?;
        thread.join().unwrap_or_else(|_| Err(Error::internal("the thread that reads figures panicked")))
    })
    .await
}

/// proc_net(5): after two lines of heads `name: bytes packets errs drop fifo frame compressed multicast`, then the same
/// of what was sent.
fn network_usage(at: i64, text: &str) -> api::NetworkUsage {
    let line = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().map_while(|figure| figure.parse().ok()).collect();
        let figure = |at: usize| figures.get(at).copied().and_then(value);
        Some(api::NetworkInterfaceUsage {
            name: name.trim().to_owned(),
            rx_bytes: figure(0),
            rx_errors: figure(2),
            tx_bytes: figure(8),
            tx_errors: figure(10),
        })
    };
    let all: Vec<_> = text.lines().skip(2).filter_map(line).filter(|interface| interface.name != "lo").collect();
    let default =
        all.iter().position(|interface| interface.name == "eth0").or(if all.is_empty() { None } else { Some(0) });
    let (default_interface, interfaces) = match default {
        Some(first) => {
            let mut rest = all;
            (Some(rest.remove(first)), rest)
        }
        None => (None, all),
    };
    api::NetworkUsage { timestamp: at, default_interface, interfaces }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings() {
        let samples = Samples::default();
        assert_eq!(samples.rate("a", 1_000_000_000, 500), None);
        assert_eq!(samples.rate("a", 3_000_000_000, 1_000_000_500), Some(500_000_000));
        // Too soon for a rate of its own: that before.
        assert_eq!(samples.rate("a", 3_000_000_001, 2_000_000_000), Some(500_000_000));
        samples.forget("a");
        assert_eq!(samples.rate("a", 9_000_000_000, 1), None);
    }

    #[test]
    fn the_default_interface_stands_apart() {
        let text = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  eth0:    2048      20    3    0    0     0          0         0     4096      40    5    0    0     0       0          0\n";
        let usage = network_usage(7, text);
        let eth0 = usage.default_interface.unwrap();
        let figures = [eth0.rx_bytes, eth0.rx_errors, eth0.tx_bytes, eth0.tx_errors].map(|v| v.unwrap().value);
        assert_eq!((eth0.name.as_str(), figures), ("eth0", [2048, 3, 4096, 5]));
        assert!(usage.interfaces.is_empty());
    }

    #[test]
    fn sums_leave_out_what_nobody_told() {
        let mut sum = Usage::default();
        add(&mut sum, &Usage { cpu_ns: Some(5), ..Usage::default() });
        add(&mut sum, &Usage { cpu_ns: Some(6), pids: Some(1), ..Usage::default() });
        assert_eq!((sum.cpu_ns, sum.pids, sum.memory), (Some(11), Some(1), None));
    }
}
