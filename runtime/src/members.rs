//! The processes of a container that has no cgroup of its own (an ordinary user's): those of its PID namespace.

use std::fs;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::state::{Init, started};
use crate::sys::clone;

/// Pids, in no order. `init` is the container's first process; its namespace has to be another than this process'.
///
/// # Errors
/// `Unsupported` where the container shares this process' PID namespace: nothing tells its processes from others then.
pub(crate) fn pids(init: Init) -> Result<Vec<i32>> {
    let namespace = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/pid"));
    let own = namespace("self").context(|| "look at the own pid namespace")?;
    let wanted = match namespace(&init.pid.to_string()) {
        Ok(found) if started(init.pid) == Some(init.start) => found,
        _ => return Ok(Vec::new()),
    };
    if wanted == own {
        let what = "it has neither a cgroup nor a PID namespace of its own: its processes cannot be told from others";
        return Err(Error::new(Kind::Unsupported, what));
    }
    let entries = fs::read_dir("/proc").context(|| "read /proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter(|pid| namespace(&pid.to_string()).is_ok_and(|found| found == wanted)).collect())
}

/// Sends a signal to each.
///
/// # Errors
/// As [`pids`], or `System` for anything but a process that has gone meanwhile.
pub(crate) fn signal(init: Init, signal: i32) -> Result<()> {
    use std::os::fd::AsFd as _;

    for pid in pids(init)? {
        let sent = clone::pidfd_open(pid).and_then(|pidfd| clone::pidfd_send_signal(pidfd.as_fd(), signal));
        match sent {
            Err(errno) if errno.raw() == libc::ESRCH => {}
            sent => sent.context(|| format!("signal process {pid}"))?,
        }
    }
    Ok(())
}
