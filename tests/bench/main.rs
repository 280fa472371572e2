//! `make bench`: ours and a peer's command in turns, in one run, and the ratio of their medians.
//!
//! Absolute times differ by machine and hour; a ratio of interleaved runs does not. The table goes to standard output;
//! `BENCHMARKS.md` keeps the last one with its date and kernel. `bench quick` takes a short look, `bench runtime`,
//! `bench images` and `bench node` a part; `CRUN_NEWEST` (or `crun-newest` in PATH) is one peer more.
#![forbid(unsafe_code)]

mod compare;
mod footprint;
mod images;
mod node;
mod peers;
mod runtimes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--cost", words)) = wanted.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return end(images::told(words));
    }
    let quick = wanted.iter().any(|word| word == "quick");
    let parts: Vec<&String> = wanted.iter().filter(|word| *word != "quick").collect();
    let has = |part: &str| parts.is_empty() || parts.iter().any(|word| *word == part);
    if !gantry_tests::tools::is_root() {
        eprintln!("bench: containers need root; run it with sudo");
        return ExitCode::FAILURE;
    }
    if let Some(outcome) = without_unified() {
        return outcome;
    }
    println!("{}\n", compare::machine());
    let mut result = Ok(());
    if has("runtime") {
        result = runtime(quick);
    }
    if has("images") {
        result = result.and(images::measure(quick));
    }
    if has("node") && !(quick && parts.is_empty()) {
        result = result.and(node::measure());
    }
    end(result)
}

fn end(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Everything about the runtime and the monitor.
fn runtime(quick: bool) -> Result<(), String> {
    let dir = std::env::temp_dir().join(format!("gantry-bench-{}", std::process::id()));
    let all = || -> Result<(), String> {
        let field = peers::Field::new(&dir)?;
        let rounds = compare::Rounds::new(quick);
        runtimes::measure(&field, rounds)?;
        runtimes::crowd(&field, rounds, if quick { 100 } else { 1000 })?;
        footprint::measure(&field, &dir)?;
        let (monitor, rootfs) = (field.floor.with_file_name("bench-monitor"), field.plain.join("rootfs"));
        let words = [peers::text(&field.ours().program), peers::text(&rootfs)];
        print!("{}", gantry_tests::tools::output(&peers::text(&monitor), &words.each_ref().map(String::as_str))?);
        Ok(())
    };
    let outcome = all();
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

/// crun refuses a host that mounts an empty v2 tree beside v1; so on such a host everything is measured in a mount
/// namespace of its own in which that tree is hidden, for all contestants alike.
fn without_unified() -> Option<ExitCode> {
    let tree = "/sys/fs/cgroup/unified";
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|all| all.contains(tree));
    if !mounted {
        return None;
    }
    let again = format!("umount {tree} && exec \"$0\" \"$@\"");
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &again]).arg(std::env::current_exe().ok()?).args(std::env::args_os().skip(1));
    match unshare.status() {
        Ok(status) if status.success() => Some(ExitCode::SUCCESS),
        Ok(_) => Some(ExitCode::FAILURE),
        Err(why) => {
            eprintln!("bench: start unshare: {why}");
            Some(ExitCode::FAILURE)
        }
    }
}
