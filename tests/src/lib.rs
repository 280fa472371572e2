//! Fixtures for whole-system tests: a scratch host that fails on leaks, OCI bundles, a node of its own, and
//! the virtual machine for what this host's kernel or cgroup layout cannot show.
//!
//! Nothing here fakes a part of Gantry: the fixtures start the real binaries and look at the real kernel.
#![forbid(unsafe_code)]

pub mod bundle;
pub mod enclosure;
pub mod house;
pub mod image;
pub mod node;
pub mod tools;

/// Ends the test early, loudly, where the machine lacks something that the test needs.
///
/// A skip is printed on stderr with its reason, so that a run that skipped everything does not look green and quiet.
#[macro_export]
macro_rules! need {
    ($have:expr, $why:expr) => {
        if !$have {
            eprintln!("SKIPPED {}: {}", module_path!(), $why);
            return;
        }
    };
}
