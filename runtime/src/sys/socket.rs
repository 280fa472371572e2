//! Unix sockets that carry messages and descriptors.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::errno::{Errno, check};

/// socketpair(2), `SOCK_SEQPACKET`: two ends that keep message borders.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for the two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) }.into())?;
    // SAFETY: the call succeeded, so both are new descriptors that nothing else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Room for one descriptor as ancillary data, aligned as cmsghdr wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 24]);

/// sendmsg(2) of one message, with a descriptor where one is given. Never raises SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 24]);
    // SAFETY: an all-zero msghdr is valid: it is a C struct of integers and null pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(fd) = fd {
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        message.msg_controllen = 24;
        // SAFETY: msg_control points to 24 aligned bytes, room for one header (16) and one descriptor (4, padded).
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd.as_raw_fd());
        }
    }
    loop {
        // SAFETY: `message` points to buffers that outlive the call.
        let ret = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match check(ret as libc::c_long) {
            Err(errno) if errno.raw() == libc::EINTR => {}
            done => return done.map(drop),
        }
    }
}

/// recvmsg(2) of one message: its length (0 when the other end is gone) and the descriptor that came with it.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut ancillary = Ancillary([0; 24]);
    // SAFETY: an all-zero msghdr is valid: it is a C struct of integers and null pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.0.as_mut_ptr().cast();
    // CMSG_LEN rather than CMSG_SPACE: the padding behind one descriptor would have room for a second, owned by nobody.
    message.msg_controllen = 20;
    let length = loop {
        // SAFETY: `message` points to writable buffers that outlive the call.
        let ret = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match check(ret as libc::c_long) {
            Err(errno) if errno.raw() == libc::EINTR => {}
            done => break done? as usize,
        }
    };
    // SAFETY: the kernel set msg_controllen to what it filled in; a SCM_RIGHTS header of this size holds exactly one
    // descriptor, which is new and ours.
    let fd = unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let raw = libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
            Some(OwnedFd::from_raw_fd(raw))
        } else {
            None
        }
    };
    Ok((length, fd))
}
