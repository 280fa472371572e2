//! Moments at which a test has the store fail, one after the other: before every step that changes the disk.
//!
//! `GANTRY_IMAGE_FAULT=7` kills the process with SIGKILL at the seventh point that it passes, `7:EIO` and `7:ENOSPC` let
//! the step fail there as the disk would. `GANTRY_IMAGE_NOSYNC=1` leaves out every sync, so that the test of power cuts
//! can show that it would find what is not synced. Only a build with debug assertions reads them: in a release nothing
//! of this is left.

/// A moment at which everything done so far has its effect, and nothing that comes later has.
///
/// # Errors
/// What the test asked for; never without a test.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) -> std::io::Result<()> {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static PASSED: AtomicU32 = AtomicU32::new(0);
    static WANTED: LazyLock<Option<(u32, Effect)>> =
        LazyLock::new(|| std::env::var("GANTRY_IMAGE_FAULT").ok().and_then(|text| parse(&text)));

    let Some((at, effect)) = *WANTED else { return Ok(()) };
    if PASSED.fetch_add(1, Ordering::Relaxed) + 1 != at {
        return Ok(());
    }
    eprintln!("fault: {name}");
    match effect {
        Effect::Errno(errno) => Err(errno.into()),
        Effect::Kill => {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            // SIGKILL to oneself is delivered before the call returns, to this thread; others may run a moment longer.
            loop {
                std::thread::park();
            }
        }
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn point(_: &str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Effect {
    Kill,
    Errno(rustix::io::Errno),
}

/// `7`, `7:EIO` or `7:ENOSPC`.
#[cfg(debug_assertions)]
fn parse(text: &str) -> Option<(u32, Effect)> {
    let (number, effect) = match text.split_once(':') {
        None => (text, Effect::Kill),
        Some((number, "EIO")) => (number, Effect::Errno(rustix::io::Errno::IO)),
        Some((number, "ENOSPC")) => (number, Effect::Errno(rustix::io::Errno::NOSPC)),
        Some(_) => return None,
    };
    Some((number.parse().ok()?, effect))
}

/// Whether data is to be synced: always, but in the test that shows why.
#[cfg(debug_assertions)]
pub(crate) fn syncs() -> bool {
    static OFF: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("GANTRY_IMAGE_NOSYNC").is_some());
    !*OFF
}

/// Always.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn syncs() -> bool {
    true
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_may_ask_for() {
        assert_eq!(parse("7"), Some((7, Effect::Kill)));
        assert_eq!(parse("8:EIO"), Some((8, Effect::Errno(rustix::io::Errno::IO))));
        assert_eq!(parse("9:ENOSPC"), Some((9, Effect::Errno(rustix::io::Errno::NOSPC))));
        for bad in ["", "x", "7:", "7:ENOENT", ":EIO"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
