//! `make bench`: ours and a peer's command in turns, in one run, and the ratio of their medians.
//!
//! Absolute times differ by machine and hour; a ratio of interleaved runs does not. The table goes to standard output;
//! `BENCHMARKS.md` keeps the last one with its date and kernel.
#![forbid(unsafe_code)]

mod compare;
mod node;
mod runtimes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let has = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
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
        result = result.and(runtimes::measure());
    }
    if has("node") {
        result = result.and(node::measure());
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
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
