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

/// Starts with few and with many containers alive.
///
/// # Errors
/// A container failed.
pub(crate) fn crowd(field: &Field, rounds: Rounds, many: usize) -> Result<(), String> {
    let ours = field.ours();
    let name = |number: usize| ours.id(&format!("crowd{number}"));
    let median = |more: usize| -> Result<Duration, String> {
        let mut times = Vec::new();
        for round in 0..=rounds.hot {
            let took = timed(|| ours.run(&field.plain)).map_err(|why| format!("with {more} alive: {why}"))?;
            if round > 0 {
                times.push(took);
            }
        }
        Ok(percentile(&mut times, 50))
    };
    let mut alive = 0;
    let mut result = Ok(());
    let mut times = Vec::new();
    for wanted in [1, many] {
        while result.is_ok() && alive < wanted {
            result = ours.stay(&field.sleeper, &name(alive));
            alive += 1;
        }
        match result.clone().and_then(|()| median(wanted)) {
            Ok(time) => times.push(time),
            Err(why) => result = Err(why),
        }
    }
    for number in 0..alive {
        // Every one is to go, whatever happened to the others.
        if let Err(why) = ours.call(&["delete", "--force", &name(number)]) {
            result = result.and(Err(why));
        }
    }
    result?;
    let [few, crowd] = times.as_slice() else { return Err("two medians were to be measured".into()) };
    println!("| with containers alive | 1 | {many} | |\n|---|---|---|---|");
    let times = ratio(crowd.as_secs_f64(), few.as_secs_f64());
    println!("| run /bin/true, hot | {} | {} | {times} |\n", millis(*few), millis(*crowd));
    Ok(())
}
