//! Standard output and standard error, written to without a panic: whoever reads may have gone, or the disk is full.

use std::io::Write as _;

use crate::error::{Context, Result};

/// Prints a command's answer. A reader that has heard enough (`| head`) is no failure.
///
/// # Errors
/// `System`, if it cannot be written: a caller that reads half of it must not take it for the whole.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(|| "write to standard output"),
    }
}

/// Tells people. There is nobody to be told that this failed.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
