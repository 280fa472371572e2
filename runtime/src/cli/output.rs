//! Standard output and standard error, written to without a panic: whoever reads may have gone, or the disk is full.

use std::io::Write as _;

use serde::Serialize;

use crate::error::{Context, Error, Kind, Result};

/// Prints a command's answer. A reader that has heard enough (`| head`) is no failure.
///
/// # Errors
/// `System`, if it cannot be written: a caller that reads half of it must not take it for the whole.
pub(super) fn print(text: &str) -> Result<()> {
    print_on(text).map(drop)
}

/// As [`print`], for one who has more to say; `false` once nobody reads any more.
pub(super) fn print_on(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context(|| "write to standard output"),
    }
}

/// A line of JSON.
pub(super) fn json(value: &impl Serialize) -> Result<String> {
    line(serde_json::to_string(value))
}

/// JSON for people, over several lines.
pub(super) fn pretty(value: &impl Serialize) -> Result<String> {
    line(serde_json::to_string_pretty(value))
}

fn line(written: serde_json::Result<String>) -> Result<String> {
    written.map(|text| text + "\n").map_err(|why| Error::new(Kind::System, format!("write JSON: {why}")))
}

/// Tells people. There is nobody to be told that this failed.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
