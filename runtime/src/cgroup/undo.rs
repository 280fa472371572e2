//! DECIDE: what to write into an interface file to bring back what it said before.
//!
//! An update is all or nothing as far as the kernel lets it be: each file is read before it is written, and where a later
//! one is refused the earlier ones get their old values back. Most files say what they take; those with a line for each
//! device do not. Kernel: cgroup-v1/{blkio-controller,memory}.rst, cgroup-v2.rst.

/// Files with a line for each device (its key is the first word of what is written), and what a device without a line
/// stands for.
const BY_DEVICE: &[(&str, &str)] = &[
    ("io.max", "rbps=max wbps=max riops=max wiops=max"),
    ("io.weight", "default"),
    ("io.bfq.weight", "default"),
    ("blkio.weight_device", "0"),
    ("blkio.leaf_weight_device", "0"),
    ("blkio.bfq.weight_device", "default"),
    ("blkio.throttle.read_bps_device", "0"),
    ("blkio.throttle.write_bps_device", "0"),
    ("blkio.throttle.read_iops_device", "0"),
    ("blkio.throttle.write_iops_device", "0"),
    ("rdma.max", "hca_handle=max hca_object=max"),
    ("net_prio.ifpriomap", "0"),
];

/// The lines that undo writing `value` to `file`, which said `before`; each is one write.
pub(super) fn undo(file: &str, value: &str, before: &str) -> Vec<String> {
    if file == "memory.oom_control" {
        let old = before.lines().find_map(|line| line.strip_prefix("oom_kill_disable "));
        return old.map(|old| old.trim().to_owned()).into_iter().collect();
    }
    if let Some((_, unset)) = BY_DEVICE.iter().find(|(name, _)| *name == file) {
        return value.lines().map(|line| line_before(line, before, unset)).collect();
    }
    // An empty cpuset is written as an empty line: nothing at all would be no write.
    let lines: Vec<String> = before.lines().map(str::trim).map(str::to_owned).collect();
    if lines.is_empty() { vec![String::from("\n")] } else { lines }
}

/// The line that stood for the device or the default that `written` concerns.
fn line_before(written: &str, before: &str, unset: &str) -> String {
    let key = match written.split_once(' ') {
        Some((key, _)) => key,
        None => "default",
    };
    let same = |line: &&str| line.split_whitespace().next() == Some(key);
    match before.lines().find(same) {
        Some(line) => line.trim().to_owned(),
        // An old `io.bfq.weight` has the default alone, without its name.
        None if key == "default" => before.trim().to_owned(),
        None => format!("{key} {unset}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_what_it_takes_back() {
        let table = [
            ("memory.limit_in_bytes", "4096", "9223372036854771712\n", "9223372036854771712"),
            ("memory.max", "4096", "max\n", "max"),
            ("cpu.max", "1000 2000", "max 100000\n", "max 100000"),
            ("cpuset.cpus", "0", "\n", ""),
            ("cpuset.cpus", "0", "", "\n"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "0"),
            (
                "io.max",
                "8:0 rbps=1",
                "8:0 rbps=7 wbps=max riops=max wiops=max\n",
                "8:0 rbps=7 wbps=max riops=max wiops=max",
            ),
            ("io.max", "8:0 rbps=1", "", "8:0 rbps=max wbps=max riops=max wiops=max"),
            ("io.weight", "200", "default 100\n8:0 50\n", "default 100"),
            ("io.weight", "8:16 200", "default 100\n8:0 50\n", "8:16 default"),
            ("io.bfq.weight", "200", "100\n", "100"),
            ("blkio.throttle.read_bps_device", "8:0 9", "8:16 5\n", "8:0 0"),
            ("blkio.throttle.read_bps_device", "8:16 9", "8:16 5\n", "8:16 5"),
            ("rdma.max", "mlx hca_handle=3", "mlx hca_handle=max hca_object=9\n", "mlx hca_handle=max hca_object=9"),
            ("net_prio.ifpriomap", "eth0 5", "lo 0\neth0 3\n", "eth0 3"),
        ];
        for (file, value, before, expected) in table {
            assert_eq!(undo(file, value, before), [expected], "{file} {value} {before:?}");
        }
    }

    #[test]
    fn several_devices_in_one_value_come_back_one_by_one() {
        let before = "8:0 rbps=7 wbps=max riops=max wiops=max\n";
        assert_eq!(
            undo("io.max", "8:0 rbps=1\n8:16 rbps=1", before),
            ["8:0 rbps=7 wbps=max riops=max wiops=max", "8:16 rbps=max wbps=max riops=max wiops=max"]
        );
    }
}
