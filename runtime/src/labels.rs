//! Which Linux security modules the kernel of this host has; looked at only when a label is asked for.

use oci_spec::runtime::{Linux, Process};

use crate::plan::Labels;
use crate::sys::fs;
use std::os::fd::AsFd as _;

const SELINUX_MAGIC: i64 = 0xf97c_ff8c;

/// What is enabled, of what these ask for.
pub(crate) fn seen(process: Option<&Process>, linux: Option<&Linux>) -> Labels {
    let given = |text: Option<&String>| text.is_some_and(|text| !text.is_empty());
    let selinux = given(process.and_then(|process| process.selinux_label().as_ref()))
        || given(linux.and_then(|linux| linux.mount_label().as_ref()));
    Labels {
        apparmor: given(process.and_then(|process| process.apparmor_profile().as_ref())) && has_apparmor(),
        selinux: selinux && has_selinux(),
    }
}

/// AppArmor's own module parameter says `Y`.
pub(crate) fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|said| said.first() == Some(&b'Y'))
}

/// Its file system is mounted where every distribution mounts it.
pub(crate) fn has_selinux() -> bool {
    let opened = fs::open(c"/sys/fs/selinux", libc::O_PATH | libc::O_DIRECTORY);
    opened.and_then(|dir| fs::magic(dir.as_fd())).is_ok_and(|magic| magic == SELINUX_MAGIC)
}
