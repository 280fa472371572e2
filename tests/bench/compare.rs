//! Contestants that take turns, and the table of their medians and ratios.

use std::time::{Duration, Instant};

/// Something that can be done once and timed.
pub(crate) struct Contestant<'a> {
    /// Its column in the table.
    pub(crate) name: String,
    /// Done once: what is not timed before, what is timed, what is not timed after.
    pub(crate) once: Box<dyn FnMut() -> Result<Duration, String> + 'a>,
}

/// How often a row is repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// Turns of each contestant in a hot row.
    pub(crate) hot: usize,
    /// And in one that waits before each turn.
    pub(crate) cold: usize,
}

impl Rounds {
    /// For a table that is kept, or for a quick look.
    pub(crate) fn new(quick: bool) -> Rounds {
        if quick { Rounds { hot: 10, cold: 4 } } else { Rounds { hot: 60, cold: 20 } }
    }
}

/// Lets the contestants take turns `rounds` times, with `idle` before each turn, and prints one row; returns the medians.
///
/// The first contestant is ours; the ratios are ours over each other's. One round before the first counts is for the
/// caches.
///
/// # Errors
/// A contestant's own error.
pub(crate) fn row(
    title: &str,
    rounds: usize,
    idle: Duration,
    contestants: &mut [Contestant<'_>],
) -> Result<Vec<Duration>, String> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::with_capacity(rounds); contestants.len()];
    for round in 0..=rounds {
        for (at, contestant) in contestants.iter_mut().enumerate() {
            std::thread::sleep(idle);
            let took = (contestant.once)().map_err(|why| format!("{title}, {}: {why}", contestant.name))?;
            if round > 0 {
                times[at].push(took);
            }
        }
    }
    let medians: Vec<Duration> = times.iter_mut().map(|times| percentile(times, 50)).collect();
    let mut line = format!("| {title} | {} (p90 {}) |", millis(medians[0]), millis(percentile(&mut times[0], 90)));
    for (contestant, theirs) in contestants.iter().zip(&medians).skip(1) {
        let ratio = ratio(medians[0].as_secs_f64(), theirs.as_secs_f64());
        line.push_str(&format!(" {} {}: {ratio} |", contestant.name, millis(*theirs)));
    }
    println!("{line}");
    Ok(medians)
}

/// A row of counts or sizes, ours first: the ratios are ours over each other's.
pub(crate) fn figures(title: &str, unit: &str, figures: &[(String, u64)]) {
    let Some(((_, ours), others)) = figures.split_first() else { return };
    let mut line = format!("| {title} | {ours} {unit} |");
    for (name, theirs) in others {
        line.push_str(&format!(" {name} {theirs} {unit}: {} |", ratio(*ours as f64, *theirs as f64)));
    }
    println!("{line}");
}

/// Ours over another's.
pub(crate) fn ratio(ours: f64, theirs: f64) -> String {
    format!("**{:.2}x**", ours / theirs)
}

/// Times one call.
///
/// # Errors
/// The call's own.
pub(crate) fn timed(call: impl FnOnce() -> Result<(), String>) -> Result<Duration, String> {
    let start = Instant::now();
    call()?;
    Ok(start.elapsed())
}

/// The `percent`th percentile by nearest rank.
pub(crate) fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

/// Milliseconds with two digits.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// One line that says what was measured on.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let layout = if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1 or hybrid" };
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("Kernel {kernel}, {cpus} CPUs, cgroup {layout}, load {load} at the start; medians, interleaved.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let mut times: Vec<Duration> = (1..=10).map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times, 50), Duration::from_millis(5));
        assert_eq!(percentile(&mut times, 90), Duration::from_millis(9));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }
}
