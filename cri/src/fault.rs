//! Fault points: places where the process dies on request, so that the tests of recovery can walk through all of them.
//!
//! The configuration key `fault` names one; reaching it aborts, as SIGKILL would, without unwinding. Unset in any real
//! use. [`POINTS`] is the complete list: a test enumerates it, and a point that is not in it does not compile away
//! silently but panics in debug builds.

/// Every fault point, in the order in which a pod's life passes them.
pub const POINTS: &[&str] = &[
    "run-after-record",
    "run-after-netns",
    "attach-after-lease",
    "attach-after-pair",
    "attach-after-address",
    "attach-after-firewall",
    "run-after-network",
    "run-after-files",
    "run-after-monitor",
    "create-after-record",
    "create-after-rootfs",
    "create-after-bundle",
    "create-after-create",
    "start-before-start",
    "start-after-start",
    "stop-after-signal",
    "stop-pod-after-kill",
    "detach-after-pair",
    "detach-after-firewall",
    "stop-pod-after-network",
    "remove-after-delete",
    "remove-after-rootfs",
    "remove-pod-after-monitor",
    "remove-pod-after-netns",
    "remove-pod-after-run-dir",
];

/// Those of an attachment by CNI, which take the place of the bridge's (`attach-…`, `detach-…`).
pub const CNI_POINTS: &[&str] = &[
    "cni-after-record",
    "cni-after-plugin",
    "cni-after-add",
    "cni-after-cache",
    "cni-after-plugin-del",
    "cni-after-del",
];

/// Dies here if `wanted` says so.
pub fn point(wanted: Option<&str>, here: &str) {
    debug_assert!(POINTS.contains(&here) || CNI_POINTS.contains(&here), "{here} is not in the list of fault points");
    if wanted == Some(here) {
        tracing::error!(here, "aborting at the fault point that the configuration names");
        std::process::abort();
    }
}
