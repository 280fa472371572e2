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
