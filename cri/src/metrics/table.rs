//! Every metric by name: what it is, which labels it has besides those that all have, whether it only ever grows.
//!
//! Names and labels are cAdvisor's, in the form in which containerd and CRI-O give them over CRI (KEP-2371): dashboards
//! made for a kubelet that reads cgroups itself go on working.

use gantry_cri_api::MetricType::{self, Counter, Gauge};

/// Labels that every metric has, in this order. `container` and `image` are empty in a pod's own.
pub(super) const BASE: [&str; 5] = ["pod", "namespace", "container", "id", "image"];

/// One metric.
#[derive(Debug)]
pub(super) struct Kind {
    pub name: &'static str,
    pub help: &'static str,
    /// Labels after [`BASE`].
    pub keys: &'static [&'static str],
    pub grows: MetricType,
}

const NONE: &[&str] = &[];
const INTERFACE: &[&str] = &["interface"];
const DEVICE: &[&str] = &["device"];

const fn kind(name: &'static str, keys: &'static [&'static str], grows: MetricType, help: &'static str) -> Kind {
    Kind { name, help, keys, grows }
}

/// All of them.
pub(super) const KINDS: &[Kind] = &[
    kind("container_cpu_user_seconds_total", NONE, Counter, "Seconds of CPU time in programs."),
    kind("container_cpu_system_seconds_total", NONE, Counter, "Seconds of CPU time in the kernel."),
    kind("container_cpu_usage_seconds_total", NONE, Counter, "Seconds of CPU time."),
    kind("container_cpu_cfs_periods_total", NONE, Counter, "Periods of the CPU quota in which there was work."),
    kind("container_cpu_cfs_throttled_periods_total", NONE, Counter, "Periods in which the CPU quota ran out."),
    kind("container_cpu_cfs_throttled_seconds_total", NONE, Counter, "Seconds spent waiting for a CPU quota."),
    kind("container_memory_cache", NONE, Gauge, "Bytes of page cache."),
    kind("container_memory_rss", NONE, Gauge, "Bytes of anonymous memory."),
    kind("container_memory_kernel_usage", NONE, Gauge, "Bytes of kernel memory."),
    kind("container_memory_mapped_file", NONE, Gauge, "Bytes of mapped files."),
    kind("container_memory_swap", NONE, Gauge, "Bytes of swap."),
    kind("container_memory_failcnt", NONE, Counter, "How often the limit on memory was hit (cgroup v1)."),
    kind("container_memory_usage_bytes", NONE, Gauge, "Bytes of all memory, used lately or not."),
    kind("container_memory_max_usage_bytes", NONE, Gauge, "The most bytes of memory that were in use."),
    kind("container_memory_working_set_bytes", NONE, Gauge, "Bytes of memory without cache that was not used lately."),
    kind("container_memory_total_active_file_bytes", NONE, Gauge, "Bytes of page cache that was used lately."),
    kind("container_memory_total_inactive_file_bytes", NONE, Gauge, "Bytes of page cache that was not used lately."),
    kind("container_memory_failures_total", &["failure_type", "scope"], Counter, "Page faults."),
    kind("container_oom_events_total", NONE, Counter, "Processes killed for want of memory."),
    kind("container_hugetlb_usage_bytes", &["pagesize"], Gauge, "Bytes of huge pages."),
    kind("container_hugetlb_max_usage_bytes", &["pagesize"], Gauge, "The most bytes of huge pages that were in use."),
    kind("container_pressure_cpu_waiting_seconds_total", NONE, Counter, "Seconds in which some task waited for a CPU."),
    kind("container_pressure_cpu_stalled_seconds_total", NONE, Counter, "Seconds in which all tasks waited for a CPU."),
    kind(
        "container_pressure_memory_waiting_seconds_total",
        NONE,
        Counter,
        "Seconds in which some task waited for memory.",
    ),
    kind(
        "container_pressure_memory_stalled_seconds_total",
        NONE,
        Counter,
        "Seconds in which all tasks waited for memory.",
    ),
    kind("container_pressure_io_waiting_seconds_total", NONE, Counter, "Seconds in which some task waited for a disk."),
    kind("container_pressure_io_stalled_seconds_total", NONE, Counter, "Seconds in which all tasks waited for a disk."),
    kind("container_network_receive_bytes_total", INTERFACE, Counter, "Bytes received."),
    kind("container_network_receive_packets_total", INTERFACE, Counter, "Packets received."),
    kind("container_network_receive_packets_dropped_total", INTERFACE, Counter, "Packets dropped on receiving."),
    kind("container_network_receive_errors_total", INTERFACE, Counter, "Errors on receiving."),
    kind("container_network_transmit_bytes_total", INTERFACE, Counter, "Bytes sent."),
    kind("container_network_transmit_packets_total", INTERFACE, Counter, "Packets sent."),
    kind("container_network_transmit_packets_dropped_total", INTERFACE, Counter, "Packets dropped on sending."),
    kind("container_network_transmit_errors_total", INTERFACE, Counter, "Errors on sending."),
    kind("container_fs_inodes_free", DEVICE, Gauge, "Inodes that are free on the file system of the writable layer."),
    kind("container_fs_inodes_total", DEVICE, Gauge, "Inodes of the file system of the writable layer."),
    kind("container_fs_limit_bytes", DEVICE, Gauge, "Bytes of the file system of the writable layer."),
    kind("container_fs_usage_bytes", DEVICE, Gauge, "Bytes that the container has written."),
    kind("container_fs_reads_bytes_total", DEVICE, Counter, "Bytes read from a device."),
    kind("container_fs_reads_total", DEVICE, Counter, "Reads from a device."),
    kind("container_fs_writes_bytes_total", DEVICE, Counter, "Bytes written to a device."),
    kind("container_fs_writes_total", DEVICE, Counter, "Writes to a device."),
    kind(
        "container_blkio_device_usage_total",
        &["device", "major", "minor", "operation"],
        Counter,
        "Bytes by device and operation.",
    ),
    kind("container_processes", NONE, Gauge, "Processes."),
    kind("container_file_descriptors", NONE, Gauge, "Open file descriptors."),
    kind("container_sockets", NONE, Gauge, "Open sockets."),
    kind("container_threads", NONE, Gauge, "Threads."),
    kind("container_threads_max", NONE, Gauge, "Threads that there may be; 0 is no limit."),
    kind("container_ulimits_soft", &["ulimit"], Gauge, "Soft limits of the main process; without the unlimited ones."),
    kind("container_last_seen", NONE, Gauge, "When these figures were read, in seconds since 1970."),
    kind("container_start_time_seconds", NONE, Gauge, "When it was started, in seconds since 1970."),
    kind("container_spec_cpu_period", NONE, Gauge, "Period of the CPU quota in microseconds."),
    kind("container_spec_cpu_quota", NONE, Gauge, "CPU quota in microseconds a period; 0 is none."),
    kind("container_spec_cpu_shares", NONE, Gauge, "CPU shares."),
    kind("container_spec_memory_limit_bytes", NONE, Gauge, "Limit on memory; 0 is none."),
    kind("container_spec_memory_reservation_limit_bytes", NONE, Gauge, "Memory that is protected; 0 is none."),
    kind("container_spec_memory_swap_limit_bytes", NONE, Gauge, "Limit on memory and swap; 0 is none."),
];
