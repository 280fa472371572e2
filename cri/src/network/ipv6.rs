//! What the kernel is told about IPv6 beside addresses and routes: the files below `/proc/sys/net/ipv6`
//! (ip-sysctl.rst), which are those of the calling thread's network namespace.

use crate::error::{Context as _, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const DEVICES: &str = "/proc/sys/net/ipv6/conf";

/// Whether this kernel has IPv6.
pub(super) fn there() -> bool {
    Path::new(DEVICES).is_dir()
}

/// Makes the host a router. A router no longer listens to other routers, so a device that got its own default route
/// from one is told to go on doing so (accept_ra 2): else the host would lose its uplink.
pub(super) fn forward() -> Result<()> {
    let switch = format!("{DEVICES}/all/forwarding");
    if read(Path::new(&switch))? != "0" {
        return Ok(());
    }
    for device in fs::read_dir(DEVICES).context(|| format!("list {DEVICES}"))? {
        let device = device.context(|| format!("list {DEVICES}"))?;
        let real = !["all", "default", "lo"].iter().any(|name| device.file_name() == *name);
        let listens = device.path().join("accept_ra");
        if real && read(&listens)? == "1" {
            write(&listens, "2")?;
        }
    }
    write(Path::new(&switch), "1")
}

/// A device of ours believes no router that a pod pretends to be (CVE-2020-10749), and has IPv6 where it is wanted.
pub(super) fn settle(device: &str, wanted: bool) -> Result<()> {
    let of_device = |key: &str| PathBuf::from(format!("{DEVICES}/{device}/{key}"));
    write(&of_device("accept_ra"), "0")?;
    if wanted && read(&of_device("disable_ipv6"))? != "0" {
        write(&of_device("disable_ipv6"), "0")?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        // The device went away meanwhile.
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => Ok(read.context(|| format!("read {}", path.display()))?.trim().to_owned()),
    }
}

fn write(path: &Path, value: &str) -> Result<()> {
    match fs::write(path, value) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        written => written.context(|| format!("write {value} to {}", path.display())),
    }
}
