//! `gantry`: argv to the crates that do the work, and nothing else.
//!
//! `up` is the control plane, the kubelet and the CRI server in one process; each is also a command of its own, so that
//! it can be used under or over the upstream ones.
#![forbid(unsafe_code)]

mod check;
mod cli;
mod config;
mod daemon;
mod down;
mod private_network;
mod timings;

use cli::{Parsed, Request};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = cli::parse(std::env::args_os().skip(1)).and_then(|parsed| match parsed {
        Parsed::Print(text) => print(&text),
        Parsed::Run(request) => run(*request),
    });
    match outcome {
        Ok(code) => code,
        Err(why) => {
            eprintln!("gantry: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(request: Request) -> Result<ExitCode, String> {
    match request.command.as_str() {
        "check" => Ok(if check::run(&request.config) { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        "version" => print(&cli::version()),
        "config" => print(&toml::to_string(&request.config.effective()).map_err(|why| why.to_string())?),
        "image" => image(request),
        "timings" => timings::run(&request),
        "down" => down::run(&request.config),
        _ => daemon::run(request),
    }
}

/// Prints to standard output; a reader that went away is no failure of ours.
fn print(text: &str) -> Result<ExitCode, String> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("write to standard output: {why}")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn image(request: Request) -> Result<ExitCode, String> {
    let config = request.config.image_store();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|why| format!("start the async runtime: {why}"))?;
    match runtime.block_on(gantry_images::cli::main(request.rest, config)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(why) => {
            eprintln!("gantry: {why}");
            // A wrong command line is not a failure of what it asks for.
            Ok(ExitCode::from(if why.kind() == gantry_images::Kind::InvalidArgument { 2 } else { 1 }))
        }
    }
}
