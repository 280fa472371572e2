//! Latency: ours against the floor, crun and runc: the same bundle, the same order of commands.

use crate::compare::{Rounds, millis, percentile, ratio, row, timed};
use crate::peers::{Field, Runtime, text};
use std::path::Path;
use std::time::Duration;

/// What a node's runtime sees: the machine has done nothing for a moment.
const IDLE: Duration = Duration::from_millis(250);
/// Containers that are started at once.
const AT_ONCE: usize = 50;

/// Measures and prints the rows of latency.
///
/// # Errors
/// A container failed.
pub(crate) fn measure(field: &Field, rounds: Rounds) -> Result<(), String> {
    println!("| latency | gantry-runtime |{}", " against |".repeat(field.all.len()));
    println!("|---|---|{}", "---|".repeat(field.all.len()));
    let rootfs = text(&field.plain.join("rootfs"));
    let floor = ["run", &rootfs, "gantry-bench-run-floor"].map(str::to_owned);
    for (title, count, idle) in
        [("run /bin/true, hot", rounds.hot, Duration::ZERO), ("run /bin/true after 250 ms idle", rounds.cold, IDLE)]
    {
        let mut turns = field.turns(|r| r.run(&field.plain));
        turns.push(field.floor(&floor));
        row(title, count, idle, &mut turns)?;
    }
    let limited = "run, Docker's seccomp profile + memory, pids, cpu limits";
    row(limited, rounds.hot / 2, Duration::ZERO, &mut field.turns(|r| r.run(&field.limited)))?;
    let limited = "the same after 250 ms idle";
    row(limited, rounds.cold, IDLE, &mut field.turns(|r| r.run(&field.limited)))?;
    let life = "create + start + exit + delete";
    row(life, rounds.hot / 2, Duration::ZERO, &mut field.turns(|r| lifecycle(r, &field.plain)))?;
    inside(field, rounds)?;
    row("50 runs at once", 1 + rounds.hot / 12, Duration::ZERO, &mut field.turns(|r| at_once(r, &field.plain)))?;
    println!();
    Ok(())
}

/// Rows that need a container that stays.
fn inside(field: &Field, rounds: Rounds) -> Result<(), String> {
    for runtime in &field.all {
        runtime.stay(&field.sleeper, &runtime.id("sleeper"))?;
    }
    let mut state = field.ours().command(&["state", &field.ours().id("sleeper")]);
    let state = state.stdout(std::process::Stdio::piped()).output().map_err(|why| format!("state: {why}"))?;
    let state: serde_json::Value = serde_json::from_slice(&state.stdout).map_err(|why| format!("state: {why}"))?;
    let name = format!("gantry-{}", field.ours().id("sleeper"));
    let floor = ["exec".to_owned(), state["pid"].to_string(), name];
    for (title, count, idle) in
        [("exec /bin/true, hot", rounds.hot, Duration::ZERO), ("exec /bin/true after 250 ms idle", rounds.cold, IDLE)]
    {
        let mut turns = field.turns(|r| r.call(&["exec", &r.id("sleeper"), "/bin/true"]));
        turns.push(field.floor(&floor));
        row(title, count, idle, &mut turns)?;
    }
    row("state", rounds.hot, Duration::ZERO, &mut field.turns(|r| r.call(&["state", &r.id("sleeper")])))?;
    row("--version: the start of the process alone", rounds.hot, Duration::ZERO, &mut field.turns(version))?;
    for runtime in &field.all {
        runtime.call(&["delete", "--force", &runtime.id("sleeper")])?;
    }
    Ok(())
}

fn version(runtime: &Runtime) -> Result<(), String> {
    runtime.call(&["--version"])
}

fn lifecycle(runtime: &Runtime, bundle: &Path) -> Result<(), String> {
    runtime.call(&["create", "--bundle", &text(bundle), &runtime.id("life")])?;
    runtime.call(&["start", &runtime.id("life")])?;
    // Deleting needs the end of `/bin/true`: forced, so that no contestant waits for it in a loop of its own.
    runtime.call(&["delete", "--force", &runtime.id("life")])
}

fn at_once(runtime: &Runtime, bundle: &Path) -> Result<(), String> {
    let mut running = Vec::with_capacity(AT_ONCE);
    for number in 0..AT_ONCE {
        let id = runtime.id(&format!("many{number}"));
        let child = runtime.command(&["run", "--bundle", &text(bundle), &id]).spawn();
        running.push(child.map_err(|why| format!("start {}: {why}", runtime.name))?);
    }
    let mut failed = 0;
    for mut child in running {
        failed += usize::from(!child.wait().map_err(|why| format!("wait: {why}"))?.success());
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {AT_ONCE} containers failed")) }
}

/// Starts with one and with many containers alive, ours and the floor in turns: one, many, and one again after the crowd
/// has gone, so that an hour of the machine does not count as the crowd's. What the floor loses, the kernel takes: for each
/// memory cgroup that ends, and each cpuset that is filled, it looks at all others.
///
/// # Errors
/// A container failed.
pub(crate) fn crowd(field: &Field, rounds: Rounds, many: usize) -> Result<(), String> {
    let mut alive = 0;
    let mut times = Vec::new();
    let mut result = Ok(());
    for wanted in [1, many, 1] {
        result = result.and_then(|()| grow_or_shrink(field, &mut alive, wanted));
        result = result.and_then(|()| {
            times.push(both(field, rounds.hot / 2).map_err(|why| format!("with {wanted} alive: {why}"))?);
            Ok(())
        });
    }
    // All of them are to go, whatever happened.
    result = result.and(grow_or_shrink(field, &mut alive, 0));
    result?;
    let [before, crowded, after] = times.as_mut_slice() else { return Err("three phases were to be measured".into()) };
    println!("| run /bin/true, hot, with containers alive | 1 | {many} | |\n|---|---|---|---|");
    for (at, name) in ["gantry-runtime", "floor"].into_iter().enumerate() {
        before[at].append(&mut after[at]);
        let (few, crowd) = (percentile(&mut before[at], 50), percentile(&mut crowded[at], 50));
        let times = ratio(crowd.as_secs_f64(), few.as_secs_f64());
        println!("| {name} | {} | {} | {times} |", millis(few), millis(crowd));
    }
    println!();
    Ok(())
}

/// Starts or deletes containers that stay until as many as wanted are there. To none it deletes all that it can.
fn grow_or_shrink(field: &Field, alive: &mut usize, wanted: usize) -> Result<(), String> {
    let ours = field.ours();
    let name = |number: usize| ours.id(&format!("crowd{number}"));
    let mut result = Ok(());
    while *alive > wanted {
        *alive -= 1;
        result = result.and(ours.call(&["delete", "--force", &name(*alive)]));
    }
    while *alive < wanted {
        // Counted before it is there: a start that fails half way is deleted, too.
        *alive += 1;
        ours.stay(&field.sleeper, &name(*alive - 1))?;
    }
    result
}

/// Runs of ours and of the floor in turns, after one that does not count.
fn both(field: &Field, rounds: usize) -> Result<[Vec<Duration>; 2], String> {
    let rootfs = text(&field.plain.join("rootfs"));
    let floor = ["run", &rootfs, "gantry-bench-run-floor"].map(str::to_owned);
    let mut floor = field.floor(&floor);
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let took = [timed(|| field.ours().run(&field.plain))?, (floor.once)()?];
        if round > 0 {
            times.iter_mut().zip(took).for_each(|(times, took)| times.push(took));
        }
    }
    Ok(times)
}
