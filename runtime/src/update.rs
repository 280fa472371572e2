//! `update`: other limits for a container that lives with some already.
//!
//! Validated as a whole first, then written; where the kernel or systemd refuses a part, what was written gets its old
//! value back. What holds then is recorded, so that the next update (and a restore) builds on it.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use crate::cgroup::{self, systemd};
use crate::error::{Context, Error, Kind, Result};
use crate::lifecycle;
use crate::state::{Facts, Home};
use crate::status::{self, Op};

/// New limits for a container.
#[derive(Clone, Copy, Debug)]
pub struct UpdateRequest<'a> {
    /// Where state lives.
    pub root: &'a Path,
    /// The container.
    pub id: &'a str,
    /// What is to change: a field that is not given, empty or 0 stays as it is. Device rules, where any are given, take
    /// the place of all that were.
    pub resources: &'a LinuxResources,
}

/// Changes the limits of a created, running or paused container; returns what was passed over, one sentence each.
///
/// # Errors
/// `NotFound`, `WrongState`, `Invalid` or `Unsupported` with the JSON path or the file before anything has been written,
/// `System` with the file that was refused: then the old limits are back in force, or the sentence says which are not.
pub fn update(request: &UpdateRequest<'_>) -> Result<Vec<String>> {
    change(request).context(|| format!("update {}", request.id))
}

fn change(request: &UpdateRequest<'_>) -> Result<Vec<String>> {
    let home = Home::lock(request.root, request.id)?;
    let mut facts = home.facts()?.ok_or_else(|| Error::new(Kind::WrongState, "it was never finished"))?;
    let (seen, _) = home.look(|| false)?;
    status::allow(Op::Update, status::derive(seen))?;
    let old = facts.resources.take().unwrap_or_default();
    let all = cgroup::merged(&old, request.resources);
    check(&old, request.resources)?;
    apply(&facts, &cgroup::needed(request.resources, &all), &old, request.resources, &all)?;
    facts.resources = Some(all);
    home.record(&facts)?;
    Ok(cgroup::resources::ignored(request.resources))
}

/// What the kernel would refuse with a bare "invalid argument".
fn check(old: &LinuxResources, new: &LinuxResources) -> Result<()> {
    let idle = |resources: &LinuxResources| resources.cpu().as_ref().and_then(|cpu| cpu.idle());
    let shares = new.cpu().as_ref().and_then(|cpu| cpu.shares()).is_some_and(|shares| shares != 0);
    if shares && idle(new).or(idle(old)) == Some(1) {
        let what = "linux.resources.cpu.shares: an idle cgroup has none to be set; set idle to 0 with them";
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(())
}

/// Files first, as the kernel is the stricter one; then systemd, so that it does not bring old values back; then devices.
fn apply(
    facts: &Facts,
    write: &LinuxResources,
    old: &LinuxResources,
    new: &LinuxResources,
    all: &LinuxResources,
) -> Result<()> {
    let cgroup = lifecycle::cgroup(facts)?;
    let devices = new.devices().as_ref().is_some_and(|rules| !rules.is_empty());
    if devices {
        cgroup::devices::rules(Some(all))?;
    }
    let changed = match &facts.unit {
        Some(_) => cgroup.change(&systemd::whole_percents(write))?,
        None => cgroup.change(write)?,
    };
    let rest = || -> Result<()> {
        if let Some(unit) = &facts.unit {
            unit.set(&cgroup, write, devices.then_some(all))?;
        }
        if devices {
            cgroup.change_devices(Some(all)).inspect_err(|_| {
                // Rules that were in force before are taken again; the first failure is the one worth telling.
                let _ = cgroup.change_devices(Some(old));
            })?;
        }
        Ok(())
    };
    rest().map_err(|why| changed.undo(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_refused_while_idle() {
        let read = |text: &str| serde_json::from_str::<LinuxResources>(text).unwrap();
        let (idle, shares) = (read(r#"{"cpu":{"idle":1}}"#), read(r#"{"cpu":{"shares":7}}"#));
        let said = check(&idle, &shares).unwrap_err().to_string();
        assert_eq!(said, "linux.resources.cpu.shares: an idle cgroup has none to be set; set idle to 0 with them");
        check(&idle, &read(r#"{"cpu":{"shares":7,"idle":0}}"#)).unwrap();
        check(&shares, &idle).unwrap();
    }
}
