//! DECIDE: what limits a container has after an update, and which of them have to be written for it.
//!
//! A field that is not given, empty or 0 stays as it was, as with runc. Some files hold two fields, or are worked out of
//! two (`cpu.max`, v2's swap): giving one of them brings the other along.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxInterfacePriority, LinuxMemory, LinuxResources,
    LinuxThrottleDevice, LinuxWeightDevice,
};

/// The resources that hold after `new` has been applied on top of `old`.
pub fn merged(old: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut all = old.clone();
    if let Some(given) = new.memory() {
        all.set_memory(Some(memory(old.memory().unwrap_or_default(), given)));
    }
    if let Some(given) = new.cpu() {
        all.set_cpu(Some(cpu(old.cpu().clone().unwrap_or_default(), given)));
    }
    if new.pids().is_some() {
        all.set_pids(*new.pids());
    }
    if let Some(given) = new.block_io() {
        all.set_block_io(Some(block_io(old.block_io().clone().unwrap_or_default(), given)));
    }
    let sizes = |one: &LinuxHugepageLimit| one.page_size().clone();
    all.set_hugepage_limits(list(old.hugepage_limits(), new.hugepage_limits(), sizes));
    if let Some(given) = new.rdma() {
        let mut limits = old.rdma().clone().unwrap_or_default();
        for (name, limit) in given {
            let entry = limits.entry(name.clone()).or_default();
            *entry.hca_handles_mut() = limit.hca_handles().or(entry.hca_handles());
            *entry.hca_objects_mut() = limit.hca_objects().or(entry.hca_objects());
        }
        all.set_rdma(Some(limits));
    }
    if let Some(given) = new.network() {
        let mut network = old.network().clone().unwrap_or_default();
        network.set_class_id(number(network.class_id(), given.class_id()));
        let names = |one: &LinuxInterfacePriority| one.name().clone();
        network.set_priorities(list(network.priorities(), given.priorities(), names));
        all.set_network(Some(network));
    }
    if let Some(given) = new.unified() {
        let mut files = old.unified().clone().unwrap_or_default();
        files.extend(given.iter().map(|(file, value)| (file.clone(), value.clone())));
        all.set_unified(Some(files));
    }
    // Rules mean something in their order only, so they are replaced as a whole.
    if new.devices().as_ref().is_some_and(|rules| !rules.is_empty()) {
        all.set_devices(new.devices().clone());
    }
    all
}

/// What has to be written: `new`, with those fields of `all` that share a file with one that it gives.
pub fn needed(new: &LinuxResources, all: &LinuxResources) -> LinuxResources {
    let mut write = new.clone();
    write.set_devices(None);
    if let (Some(mut given), Some(all)) = (*new.memory(), all.memory()) {
        if is_given(given.limit()) || is_given(given.swap()) {
            given.set_limit(all.limit()).set_swap(all.swap());
        }
        write.set_memory(Some(given));
    }
    if let (Some(mut given), Some(all)) = (new.cpu().clone(), all.cpu()) {
        if is_given(given.quota()) || is_given(given.period()) {
            given.set_quota(all.quota()).set_period(all.period());
        }
        // The kernel forgets the shares of a cgroup that was idle.
        if given.idle() == Some(0) {
            given.set_shares(all.shares());
        }
        write.set_cpu(Some(given));
    }
    write
}

fn is_given<N: PartialEq + Default>(value: Option<N>) -> bool {
    value.is_some_and(|value| value != N::default())
}

/// The new number, unless it is none or 0.
fn number<N: PartialEq + Default>(old: Option<N>, new: Option<N>) -> Option<N> {
    new.filter(|new| *new != N::default()).or(old)
}

fn memory(mut all: LinuxMemory, new: &LinuxMemory) -> LinuxMemory {
    // Unlimited memory takes the limit on memory and swap along, unless one is given with it.
    let swap = match (new.limit(), new.swap()) {
        (Some(-1), None | Some(0)) => None,
        (_, swap) => number(all.swap(), swap),
    };
    all.set_limit(number(all.limit(), new.limit()));
    all.set_swap(swap);
    all.set_reservation(number(all.reservation(), new.reservation()));
    all.set_swappiness(new.swappiness().or(all.swappiness()));
    all.set_disable_oom_killer(new.disable_oom_killer().or(all.disable_oom_killer()));
    all.set_check_before_update(new.check_before_update().or(all.check_before_update()));
    all
}

fn cpu(mut all: LinuxCpu, new: &LinuxCpu) -> LinuxCpu {
    let text = |old: &Option<String>, new: &Option<String>| {
        new.clone().filter(|list| !list.is_empty()).or_else(|| old.clone())
    };
    all.set_shares(number(all.shares(), new.shares()));
    all.set_quota(number(all.quota(), new.quota()));
    all.set_period(number(all.period(), new.period()));
    all.set_burst(new.burst().or(all.burst()));
    all.set_idle(new.idle().or(all.idle()));
    all.set_realtime_runtime(number(all.realtime_runtime(), new.realtime_runtime()));
    all.set_realtime_period(number(all.realtime_period(), new.realtime_period()));
    let (cpus, mems) = (text(all.cpus(), new.cpus()), text(all.mems(), new.mems()));
    all.set_cpus(cpus).set_mems(mems);
    all
}

fn block_io(mut all: LinuxBlockIo, new: &LinuxBlockIo) -> LinuxBlockIo {
    all.set_weight(number(all.weight(), new.weight()));
    all.set_leaf_weight(number(all.leaf_weight(), new.leaf_weight()));
    // What a later element says of a device counts, so one that says less than the old one may stand behind it.
    let of = |one: &LinuxWeightDevice| (one.major(), one.minor(), one.weight().is_some(), one.leaf_weight().is_some());
    let weights = list(all.weight_device(), new.weight_device(), of);
    all.set_weight_device(weights);
    let at = |one: &LinuxThrottleDevice| (one.major(), one.minor());
    let read_bps = list(all.throttle_read_bps_device(), new.throttle_read_bps_device(), at);
    let write_bps = list(all.throttle_write_bps_device(), new.throttle_write_bps_device(), at);
    let read_iops = list(all.throttle_read_iops_device(), new.throttle_read_iops_device(), at);
    let write_iops = list(all.throttle_write_iops_device(), new.throttle_write_iops_device(), at);
    all.set_throttle_read_bps_device(read_bps).set_throttle_write_bps_device(write_bps);
    all.set_throttle_read_iops_device(read_iops).set_throttle_write_iops_device(write_iops);
    all
}

/// Both lists as one; of two elements with the same key the new one.
fn list<T: Clone, K: PartialEq>(old: &Option<Vec<T>>, new: &Option<Vec<T>>, key: impl Fn(&T) -> K) -> Option<Vec<T>> {
    let Some(new) = new else { return old.clone() };
    let mut all = old.clone().unwrap_or_default();
    for one in new {
        match all.iter_mut().rev().find(|known| key(known) == key(one)) {
            Some(known) => *known = one.clone(),
            None => all.push(one.clone()),
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> LinuxResources {
        serde_json::from_value(value.clone()).unwrap()
    }

    /// What holds after the update, and what is written for it.
    fn check(old: Value, new: Value, all: Value, write: Value) {
        let found = merged(&read(&old), &read(&new));
        assert_eq!(found, read(&all), "{old} + {new}");
        assert_eq!(needed(&read(&new), &found), read(&write), "{old} + {new}");
    }

    #[test]
    fn what_is_not_given_stays() {
        check(
            json!({"cpu": {"shares": 512, "cpus": "0"}, "pids": {"limit": 5}}),
            json!({"cpu": {"cpus": "", "mems": "0", "shares": 0}, "memory": {"reservation": 7, "limit": 0}}),
            json!({"cpu": {"shares": 512, "cpus": "0", "mems": "0"}, "pids": {"limit": 5}, "memory": {"reservation": 7}}),
            json!({"cpu": {"cpus": "", "mems": "0", "shares": 0}, "memory": {"reservation": 7, "limit": 0}}),
        );
    }

    #[test]
    fn memory_and_swap_are_written_together() {
        let old = json!({"memory": {"limit": 100, "swap": 200, "swappiness": 3}});
        check(
            old.clone(),
            json!({"memory": {"limit": 150}}),
            json!({"memory": {"limit": 150, "swap": 200, "swappiness": 3}}),
            json!({"memory": {"limit": 150, "swap": 200}}),
        );
        check(
            old.clone(),
            json!({"memory": {"limit": -1}}),
            json!({"memory": {"limit": -1, "swappiness": 3}}),
            json!({"memory": {"limit": -1}}),
        );
        check(
            old,
            json!({"memory": {"reservation": 9}}),
            json!({"memory": {"limit": 100, "swap": 200, "reservation": 9, "swappiness": 3}}),
            json!({"memory": {"reservation": 9}}),
        );
    }

    #[test]
    fn quota_and_period_are_written_together() {
        check(
            json!({"cpu": {"quota": 1000, "period": 50000, "shares": 7}}),
            json!({"cpu": {"quota": 2000}}),
            json!({"cpu": {"quota": 2000, "period": 50000, "shares": 7}}),
            json!({"cpu": {"quota": 2000, "period": 50000}}),
        );
    }

    #[test]
    fn who_is_no_longer_idle_gets_the_shares_back() {
        check(
            json!({"cpu": {"shares": 7, "idle": 1}}),
            json!({"cpu": {"idle": 0}}),
            json!({"cpu": {"shares": 7, "idle": 0}}),
            json!({"cpu": {"shares": 7, "idle": 0}}),
        );
    }

    #[test]
    fn lists_are_merged_by_what_they_limit() {
        let at = |minor: u32, rate: u32| json!({"major": 8, "minor": minor, "rate": rate});
        check(
            json!({"blockIO": {"throttleReadBpsDevice": [at(0, 1), at(16, 2)],
                     "weightDevice": [{"major": 8, "minor": 0, "weight": 10}]},
                   "hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "unified": {"memory.high": "1"},
                   "rdma": {"mlx": {"hcaHandles": 1}}}),
            json!({"blockIO": {"throttleReadBpsDevice": [at(16, 3), at(32, 4)],
                     "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 20}]},
                   "hugepageLimits": [{"pageSize": "1GB", "limit": 2}], "unified": {"memory.high": "2", "x.y": "z"},
                   "rdma": {"mlx": {"hcaObjects": 5}}}),
            json!({"blockIO": {"throttleReadBpsDevice": [at(0, 1), at(16, 3), at(32, 4)],
                     "weightDevice": [{"major": 8, "minor": 0, "weight": 10}, {"major": 8, "minor": 0, "leafWeight": 20}]},
                   "hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 2}],
                   "unified": {"memory.high": "2", "x.y": "z"}, "rdma": {"mlx": {"hcaHandles": 1, "hcaObjects": 5}}}),
            json!({"blockIO": {"throttleReadBpsDevice": [at(16, 3), at(32, 4)],
                     "weightDevice": [{"major": 8, "minor": 0, "leafWeight": 20}]},
                   "hugepageLimits": [{"pageSize": "1GB", "limit": 2}], "unified": {"memory.high": "2", "x.y": "z"},
                   "rdma": {"mlx": {"hcaObjects": 5}}}),
        );
    }

    #[test]
    fn device_rules_are_replaced_as_a_whole() {
        let rule = |minor: u32| json!([{"allow": true, "type": "c", "major": 1, "minor": minor, "access": "r"}]);
        check(json!({"devices": rule(1)}), json!({"devices": []}), json!({"devices": rule(1)}), json!({}));
        check(json!({"devices": rule(1)}), json!({"devices": rule(2)}), json!({"devices": rule(2)}), json!({}));
    }
}
