//! Contestants that take turns, and the table of their medians and ratios.

use std::time::{Duration, Instant};

/// Something that can be done once and timed.
pub(crate) struct Contestant<'a> {
    /// Its column in the table.
    pub(crate) name: String,
    /// Done once: what is not timed before, what is timed, what is not timed after.
    pub(crate) once: Box<dyn FnMut() -> Result<Duration, String> + 'a>,
}

/// Lets the contestants take turns `rounds` times, with `idle` before each turn, and prints one row.
///
/// The first contestant is ours; the ratios are ours over each peer's. One round before the first counts is for the
/// caches.
///
/// # Errors
/// A contestant's own error.
pub(crate) fn row(
    title: &str,
    rounds: usize,
    idle: Duration,
    contestants: &mut [Contestant<'_>],
) -> Result<(), String> {
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
    let ours = percentile(&mut times[0], 50);
    let mut line = format!("| {title} | {} (p90 {}) |", millis(ours), millis(percentile(&mut times[0], 90)));
    for (contestant, times) in contestants.iter().zip(&mut times).skip(1) {
        let theirs = percentile(times, 50);
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        line.push_str(&format!(" {} {}: **{ratio:.2}x** |", contestant.name, millis(theirs)));
    }
    println!("{line}");
    Ok(())
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
    format!("Kernel {}, {cpus} CPUs, cgroup {layout}; medians, interleaved.", read("/proc/sys/kernel/osrelease"))
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
