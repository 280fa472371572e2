//! bpf(2): load the device program of a cgroup v2 and attach it, in place of the one before.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::errno::{Errno, check, check_fd};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// How often a load that the verifier gave up is tried again.
const VERIFIER_TRIES: u32 = 30;

const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// `union bpf_attr` for BPF_PROG_LOAD, up to what kernel 4.15 knows.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// `union bpf_attr` for BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// `union bpf_attr` for BPF_PROG_QUERY, whole: kernels 6.17 to 7.1 write `revision` whatever size they are told.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// `union bpf_attr` for BPF_PROG_GET_FD_BY_ID.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> libc::c_long {
    // SAFETY: each caller in this file passes the repr(C) attributes of its own command, all zero where unused, with
    // their true size; every pointer in them refers to a buffer that outlives the call and is as long as is said.
    unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) }
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`; each number is a `struct bpf_insn` as it is in memory.
pub fn load_device_program(instructions: &[u64]) -> Result<OwnedFd, Errno> {
    let mut attributes = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // The verifier gives up with EAGAIN when a signal comes; it will not for ever.
    for _ in 0..VERIFIER_TRIES {
        match check_fd(bpf(PROG_LOAD, &mut attributes)) {
            Err(errno) if errno.raw() == libc::EAGAIN => {}
            loaded => return loaded,
        }
    }
    check_fd(bpf(PROG_LOAD, &mut attributes))
}

/// The ids of the device programs on this cgroup directory itself, at most 64 of them.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = [0u32; 64];
    let mut attributes = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    check(bpf(PROG_QUERY, &mut attributes))?;
    let count = (attributes.prog_cnt as usize).min(ids.len());
    Ok(ids[..count].to_vec())
}

/// Opens a loaded program by its id.
pub fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    check_fd(bpf(PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() }))
}

/// Attaches a device program; `instead_of` is replaced in the same step, so that there is no moment without one.
///
/// Replacing needs kernel 5.6.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    instead_of: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut attributes = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI | if instead_of.is_some() { REPLACE } else { 0 },
        replace_bpf_fd: instead_of.map_or(0, |old| old.as_raw_fd() as u32),
    };
    check(bpf(PROG_ATTACH, &mut attributes)).map(drop)
}

/// Takes a device program off a cgroup.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Attach::default()
    };
    check(bpf(PROG_DETACH, &mut attributes)).map(drop)
}
