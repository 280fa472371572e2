//! What limits must not say, whichever version of cgroups keeps them. Pure.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxResources};

use super::spaces::is_interface;
use super::{cpu_list, wrong};
use crate::error::Result;

const AT: &str = "linux.resources";

/// Checks limits by themselves.
///
/// # Errors
/// `Invalid` with the JSON path of what is wrong.
pub(crate) fn check(resources: &LinuxResources) -> Result<()> {
    if let Some(memory) = resources.memory() {
        let sizes = [("limit", memory.limit()), ("reservation", memory.reservation()), ("swap", memory.swap())];
        if let Some((field, size)) = sizes.iter().find(|(_, size)| size.is_some_and(|size| size < -1)) {
            let size = size.unwrap_or_default();
            return wrong(format!("{AT}.memory.{field}: {size} is neither a size nor -1, which means no limit"));
        }
    }
    if let Some(cpu) = resources.cpu() {
        check_cpu(cpu)?;
    }
    if let Some(io) = resources.block_io() {
        check_io(io)?;
    }
    let priorities = resources.network().as_ref().and_then(|network| network.priorities().as_ref());
    for (at, priority) in priorities.into_iter().flatten().enumerate() {
        if !is_interface(priority.name()) {
            let name = priority.name();
            return wrong(format!("{AT}.network.priorities[{at}].name: {name:?} is not the name of a network device"));
        }
    }
    for name in resources.rdma().iter().flat_map(|devices| devices.keys()) {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return wrong(format!("{AT}.rdma: {name:?} is not the name of a device"));
        }
    }
    Ok(())
}

fn check_cpu(cpu: &LinuxCpu) -> Result<()> {
    for (field, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        cpu_list(list.as_deref().unwrap_or_default(), &format!("{AT}.cpu.{field}"))?;
    }
    match cpu.idle() {
        Some(idle) if !matches!(idle, 0 | 1) => wrong(format!("{AT}.cpu.idle: {idle} is neither 0 nor 1")),
        _ => Ok(()),
    }
}

/// Zero leaves a weight as it is, as with runc.
fn check_io(io: &LinuxBlockIo) -> Result<()> {
    let fits = |weight: Option<u16>| weight.is_none_or(|weight| weight == 0 || (10..=1000).contains(&weight));
    let own = [("weight", io.weight(), String::new()), ("leafWeight", io.leaf_weight(), String::new())];
    let devices = io.weight_device().iter().flatten().enumerate();
    let of_devices = devices.flat_map(|(at, device)| {
        let place = format!("weightDevice[{at}].");
        [("weight", device.weight(), place.clone()), ("leafWeight", device.leaf_weight(), place)]
    });
    match own.into_iter().chain(of_devices).find(|(_, weight, _)| !fits(*weight)) {
        Some((field, weight, place)) => {
            let weight = weight.unwrap_or_default();
            wrong(format!("{AT}.blockIO.{place}{field}: {weight} is not between 10 and 1000"))
        }
        None => Ok(()),
    }
}
