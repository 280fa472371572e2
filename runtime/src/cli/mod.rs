//! The command line: one table of commands and flags (`table.rs`, `flags.rs`) that feeds the parser, the
//! help, the man pages and the completions.
//!
//! Names, meanings and exit codes are runc's, so that containerd, podman and CRI-O can call this binary in its place.

mod checkpoint;
mod complete;
mod documents;
mod events;
mod exec;
mod features;
mod flags;
mod help;
mod inspect;
mod lifecycle;
mod log;
mod man;
mod output;
mod parse;
mod relay;
mod root;
mod table;
mod update;
mod values;

use std::ffi::OsString;

/// Runs the command line; returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    let call = match parse::parse(args) {
        Ok(parse::Parsed::Call(call)) => call,
        Ok(parse::Parsed::Print(text)) => {
            let Err(why) = output::print(&text) else { return 0 };
            log::error(&parse::Given::default(), &why.to_string());
            return 1;
        }
        Err(refusal) => {
            log::error(&refusal.given, &refusal.sentence);
            return refusal.code;
        }
    };
    log::steps(&call);
    match (call.command.run)(&call) {
        Ok(code) => code,
        Err(error) => {
            log::error(&call.given, &error.to_string());
            // runc's exec ends with 255 on every failure of its own, so that they differ from the program's.
            if call.command.name == "exec" { 255 } else { 1 }
        }
    }
}
