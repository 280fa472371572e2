//! Seccomp: an OCI profile as the classic BPF program that the kernel runs on every system call.
//!
//! Pure: [`compile`] turns a profile into instructions, nothing here touches the process; `sys::process::install_filter`
//! does. A compiler of our own because libseccomp is a C library that takes 10 ms for Docker's profile.
//!
//! | file | what it holds |
//! |---|---|
//! | `table.rs` | numbers of the system calls on each architecture |
//! | `rules.rs` | profile -> for each architecture, ranges of numbers and what is decided on them |
//! | `assemble.rs` | ranges -> instructions: a balanced tree over the numbers, argument tests at its leaves |
//! | `profile.rs` | the default profile of containerd and Docker, for CRI's `RuntimeDefault` |
//!
//! OCI runtime-spec, config-linux.md, "Seccomp"; seccomp(2); libseccomp where the spec is silent.

mod assemble;
#[cfg(test)]
mod closed;
#[cfg(test)]
mod peer;
mod profile;
mod rules;
mod table;
#[cfg(test)]
mod tests;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

pub use profile::default_profile;

use crate::error::{Error, Kind, Result};
use crate::sys::process::NEW_LISTENER;

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Filter {
    /// What the kernel runs; at most 4096 instructions.
    pub program: Vec<libc::sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*` that the profile asks for.
    pub flags: u32,
    /// Whether a call can end in `SCMP_ACT_NOTIFY`: then it has to be installed with `SECCOMP_FILTER_FLAG_NEW_LISTENER`
    /// and the listener given to the profile's `listenerPath`.
    pub notify: bool,
}

/// The kernel's `BPF_MAXINSNS`.
const MOST_INSTRUCTIONS: usize = 4096;

/// `SECCOMP_FILTER_FLAG_*` of linux/seccomp.h.
const FLAGS: &[(LinuxSeccompFilterFlag, u32)] = &[
    (LinuxSeccompFilterFlag::SeccompFilterFlagTsync, 1),
    (LinuxSeccompFilterFlag::SeccompFilterFlagLog, 2),
    (LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow, 4),
    (LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv, 32),
];

/// The kernel's bit for a flag of a profile.
pub fn flag_bit(flag: LinuxSeccompFilterFlag) -> Option<u32> {
    FLAGS.iter().find(|(known, _)| *known == flag).map(|(_, bit)| *bit)
}
const TSYNC: u32 = 1;
const WAIT_KILLABLE_RECV: u32 = 32;

/// Compiles a profile for the machine that this runs on.
///
/// As libseccomp and runc do it: names that no architecture knows are passed over; the native architecture is always
/// there, and calls by one that the profile does not list kill the process; a rule whose action is the default does
/// nothing; where several rules name one call, one without arguments decides over those with, else the first that
/// matches. Calls newer than every one that the profile names answer `ENOSYS`, where the default is to refuse, so that C
/// libraries fall back to older ones.
///
/// # Errors
/// `Invalid` for an argument index above 5, an error number above 4095, `SCMP_ACT_NOTIFY` as default or on `write`
/// (which would hang the runtime itself); `Unsupported` for a profile that takes more than 4096 instructions.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let plan = rules::plan(profile, rules::NATIVE).map_err(|why| why.below("linux.seccomp"))?;
    let program = assemble::program(&plan);
    if program.len() > MOST_INSTRUCTIONS {
        let what = format!("linux.seccomp: the profile takes {} instructions of {MOST_INSTRUCTIONS}", program.len());
        return Err(Error::new(Kind::Unsupported, what));
    }
    let asked = profile.flags().iter().flatten();
    let flags =
        asked.filter_map(|asked| FLAGS.iter().find(|(flag, _)| flag == asked)).fold(0, |all, (_, bit)| all | bit);
    let path = profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    if plan.notify && !path {
        return Err(Error::new(Kind::Invalid, "linux.seccomp.listenerPath: is needed for SCMP_ACT_NOTIFY"));
    }
    if profile.listener_metadata().as_ref().is_some_and(|text| !text.is_empty()) && !path {
        return Err(Error::new(Kind::Invalid, "linux.seccomp.listenerMetadata: needs listenerPath"));
    }
    // What the kernel takes: a listener cannot come with TSYNC, which is nothing to a process of one thread, and
    // WAIT_KILLABLE_RECV is only about listeners.
    let flags = if plan.notify { flags & !TSYNC | NEW_LISTENER } else { flags & !WAIT_KILLABLE_RECV };
    Ok(Filter { program, flags, notify: plan.notify })
}
