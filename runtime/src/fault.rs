//! Moments at which a test has the runtime killed, one after the other: between any two effects on files, cgroups and
//! processes.
//!
//! `GANTRY_FAULT=7` kills the process with SIGKILL at the seventh point that it passes, after writing the point's name to
//! standard error. Only a build with debug assertions reads it: in a release nothing of this is left.

use std::fmt;

/// A moment at which everything done so far has its effect, and nothing that comes later has.
#[cfg(debug_assertions)]
pub(crate) fn point(name: fmt::Arguments<'_>) {
    use std::sync::atomic::{AtomicU32, Ordering};

    static PASSED: AtomicU32 = AtomicU32::new(0);

    let wanted = std::env::var("GANTRY_FAULT").ok().and_then(|number| number.parse::<u32>().ok());
    if wanted.is_some_and(|wanted| PASSED.fetch_add(1, Ordering::Relaxed) + 1 == wanted) {
        eprintln!("killed: {name}");
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn point(_: fmt::Arguments<'_>) {}
