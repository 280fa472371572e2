//! What a process's attributes must not say: variables, ids, terminal, scheduler. Pure.

use oci_spec::runtime::{LinuxSchedulerPolicy, Process, Scheduler, User};

use super::{cpu_list, wrong};
use crate::error::Result;

/// To the kernel this id means: leave it as it is. The process would stay root (CVE-2024-40635, CVE-2026-30892).
const NO_CHANGE: u32 = u32::MAX;

pub(super) fn check(process: &Process, at: &str) -> Result<()> {
    for (index, variable) in process.env().iter().flatten().enumerate() {
        match variable.split_once('=') {
            None => return wrong(format!("{at}env[{index}]: {variable:?} is not NAME=VALUE")),
            Some(("", _)) => return wrong(format!("{at}env[{index}]: {variable:?} has no name")),
            Some(_) => {}
        }
    }
    user(process.user(), at)?;
    if let Some(size) = process.console_size() {
        for (field, cells) in [("height", size.height()), ("width", size.width())] {
            if cells > u64::from(u16::MAX) {
                return wrong(format!("{at}consoleSize.{field}: {cells} is above 65535"));
            }
        }
    }
    if let Some(wanted) = process.scheduler() {
        scheduler(wanted, &format!("{at}scheduler"))?;
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        let lists = [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())];
        for (field, list) in lists.iter().filter_map(|(field, list)| Some((field, list.as_deref()?))) {
            cpu_list(list, &format!("{at}execCPUAffinity.{field}"))?;
        }
    }
    Ok(())
}

fn user(user: &User, at: &str) -> Result<()> {
    for (field, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id == NO_CHANGE {
            return wrong(format!("{at}user.{field}: {id} is no id: the kernel takes it for \"no change\""));
        }
    }
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if let Some(index) = groups.iter().position(|gid| *gid == NO_CHANGE) {
        return wrong(format!("{at}user.additionalGids[{index}]: {NO_CHANGE} is no id"));
    }
    match user.umask() {
        Some(umask @ 0o1000..) => wrong(format!("{at}user.umask: {umask} (0o{umask:o}) is above 0o777")),
        _ => Ok(()),
    }
}

/// sched(7); the same pairs of policy and field as runc's.
fn scheduler(wanted: &Scheduler, at: &str) -> Result<()> {
    use LinuxSchedulerPolicy::{SchedBatch, SchedDeadline, SchedFifo, SchedOther, SchedRr};

    let policy = wanted.policy();
    let nice = wanted.nice().unwrap_or(0);
    if matches!(policy, SchedOther | SchedBatch) && !(-20..=19).contains(&nice) {
        return wrong(format!("{at}.nice: {nice} is not between -20 and 19"));
    }
    match (wanted.priority().unwrap_or(0), matches!(policy, SchedFifo | SchedRr)) {
        (0, _) | (1..=99, true) => {}
        (priority, true) => return wrong(format!("{at}.priority: {priority} is not between 1 and 99")),
        (_, false) => return wrong(format!("{at}.priority: only for SCHED_FIFO and SCHED_RR")),
    }
    let times = [("runtime", wanted.runtime()), ("deadline", wanted.deadline()), ("period", wanted.period())];
    let given = times.map(|(field, time)| (field, time.unwrap_or(0)));
    if let Some((field, _)) = given.iter().find(|(_, time)| *time != 0 && *policy != SchedDeadline) {
        return wrong(format!("{at}.{field}: only for SCHED_DEADLINE"));
    }
    let [(_, runtime), (_, deadline), (_, period)] = given;
    if *policy == SchedDeadline && (runtime > deadline || period != 0 && deadline > period) {
        return wrong(format!("{at}.deadline: {deadline} is not between runtime {runtime} and period {period}"));
    }
    Ok(())
}
