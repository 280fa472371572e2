//! Limits and devices of a container. In CRI a zero is "not set"; nothing here ever writes a zero limit.

use gantry_cri_api::LinuxContainerResources;
use serde_json::{Value, json};

use super::{HostDevice, Input, security_context};
use crate::error::{Error, Kind, Result};

pub(super) fn decide(input: &Input<'_>) -> Result<Value> {
    let wanted = input.config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let mut resources = update(&wanted)?;
    resources["devices"] = access(input);
    Ok(resources)
}

/// `linux.resources` for limits that change: the same mapping for a new and for a running container.
///
/// # Errors
/// [`Kind::Invalid`] for a negative figure where the kernel knows none, or a malformed cpuset.
pub fn update(wanted: &LinuxContainerResources) -> Result<Value> {
    let mut resources = json!({});
    for (value, part, field) in [
        (wanted.cpu_period, "cpu", "period"),
        (wanted.cpu_shares, "cpu", "shares"),
        (wanted.memory_limit_in_bytes, "memory", "limit"),
    ] {
        match value {
            0 => {}
            ..0 => return Err(Error::new(Kind::Invalid, format!("resources: {part} {field} {value} is negative"))),
            1.. => resources[part][field] = json!(value),
        }
    }
    if wanted.cpu_quota != 0 {
        // -1 takes a quota away (sched-bwc.rst).
        resources["cpu"]["quota"] = json!(wanted.cpu_quota.max(-1));
    }
    for (value, field) in [(&wanted.cpuset_cpus, "cpus"), (&wanted.cpuset_mems, "mems")] {
        if !value.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '-') {
            return Err(Error::new(Kind::Invalid, format!("resources: {value:?} is not a list of {field}")));
        }
        if !value.is_empty() {
            resources["cpu"][field] = json!(value);
        }
    }
    if wanted.memory_swap_limit_in_bytes != 0 {
        resources["memory"]["swap"] = json!(wanted.memory_swap_limit_in_bytes);
    } else if wanted.memory_limit_in_bytes > 0 {
        // Without a word on swap a limit on memory is one on both, as with every CRI runtime.
        resources["memory"]["swap"] = json!(wanted.memory_limit_in_bytes);
    }
    if !wanted.hugepage_limits.is_empty() {
        let limits = wanted.hugepage_limits.iter().map(|l| json!({"pageSize": l.page_size, "limit": l.limit}));
        resources["hugepageLimits"] = limits.collect();
    }
    if !wanted.unified.is_empty() {
        let mut unified: Vec<_> = wanted.unified.iter().collect();
        unified.sort();
        resources["unified"] = unified.into_iter().map(|(file, value)| (file.clone(), json!(value))).collect();
    }
    Ok(resources)
}

/// Which device numbers may be opened; the runtime adds the standard ones (null, zero, tty, …) itself.
fn access(input: &Input<'_>) -> Value {
    if security_context(input.config).privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    for device in input.devices {
        rules.push(json!({"allow": true, "type": device.kind.to_string(), "major": device.major,
            "minor": device.minor, "access": device.access}));
    }
    Value::Array(rules)
}

/// Device nodes to be made: those asked for, and for a privileged container all of the host's.
pub(super) fn devices(input: &Input<'_>) -> Value {
    let host: &[HostDevice] = if security_context(input.config).privileged { &input.host.devices } else { &[] };
    let more = host.iter().filter(|device| !input.devices.iter().any(|asked| asked.path == device.path));
    input.devices.iter().chain(more).map(node).collect()
}

fn node(device: &HostDevice) -> Value {
    json!({"path": device.path, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": device.uid, "gid": device.gid})
}

#[cfg(test)]
mod tests {
    use gantry_cri_api::HugepageLimit;

    use super::*;

    #[test]
    fn zero_is_not_set() {
        assert_eq!(update(&LinuxContainerResources::default()).unwrap(), json!({}));
    }

    #[test]
    fn each_figure_has_its_place() {
        let wanted = LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 5,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 4 }],
            unified: [("pids.max".to_owned(), "7".to_owned())].into(),
            memory_swap_limit_in_bytes: 0,
        };
        let expected = json!({
            "cpu": {"period": 100_000, "shares": 512, "quota": 50_000, "cpus": "0-1", "mems": "0"},
            "memory": {"limit": 64 << 20, "swap": 64 << 20},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
            "unified": {"pids.max": "7"},
        });
        assert_eq!(update(&wanted).unwrap(), expected);
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong = |change: fn(&mut LinuxContainerResources)| {
            let mut wanted = LinuxContainerResources::default();
            change(&mut wanted);
            update(&wanted).is_err()
        };
        assert!(wrong(|r| r.memory_limit_in_bytes = -1));
        assert!(wrong(|r| r.cpu_shares = -2));
        assert!(wrong(|r| r.cpuset_cpus = "0\n1".into()));
    }
}
