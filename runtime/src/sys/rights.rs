//! SCM_RIGHTS: bytes and a few descriptors over a unix stream, as the monitor's protocol sends them.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::errno::{Errno, check};

/// The most descriptors that one call carries.
pub const MOST: usize = 4;

/// `CMSG_SPACE(MOST * 4)`: a header of 16 bytes and the numbers, aligned as cmsghdr wants it.
#[repr(C, align(8))]
struct Ancillary([u8; 16 + MOST * 4]);

/// sendmsg(2) of as many of `bytes` as fit, with `fds` (at most [`MOST`]) at the first of them. Never raises SIGPIPE.
///
/// Returns how many bytes went; the descriptors have gone with them, if that is at least one.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    if fds.len() > MOST {
        return Err(Errno::from_raw(libc::EINVAL));
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut ancillary = Ancillary([0; 16 + MOST * 4]);
    // SAFETY: an all-zero msghdr is valid: it is a C struct of integers and null pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let length = (fds.len() * 4) as u32;
        message.msg_control = ancillary.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN are arithmetic; msg_control points to aligned room for a header and MOST
        // numbers, of which at most MOST are written.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(length) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            for (at, fd) in fds.iter().enumerate() {
                libc::CMSG_DATA(header).cast::<i32>().add(at).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: `message` points to buffers that outlive the call.
        let ret = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match check(ret as libc::c_long) {
            Err(errno) if errno.raw() == libc::EINTR => {}
            done => return done.map(|length| length as usize),
        }
    }
}

/// recvmsg(2) into `into`; descriptors that came along are added to `fds`, close-on-exec. 0 bytes is the end.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize, Errno> {
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut ancillary = Ancillary([0; 16 + MOST * 4]);
    // SAFETY: an all-zero msghdr is valid: it is a C struct of integers and null pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = ancillary.0.as_mut_ptr().cast();
    message.msg_controllen = ancillary.0.len() as _;
    let length = loop {
        // SAFETY: `message` points to writable buffers that outlive the call.
        let ret = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match check(ret as libc::c_long) {
            Err(errno) if errno.raw() == libc::EINTR => {}
            done => break done? as usize,
        }
    };
    // SAFETY: the kernel set msg_controllen to what it filled in; each SCM_RIGHTS header says by its length how many
    // numbers follow, all of them new descriptors that nothing else owns.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / 4;
                for at in 0..count {
                    let raw = libc::CMSG_DATA(header).cast::<i32>().add(at).read_unaligned();
                    fds.push(OwnedFd::from_raw_fd(raw));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_bytes_and_work() {
        let (here, there) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(send(here.as_fd(), b"hello", &[reader.as_fd(), writer.as_fd()]), Ok(5));
        let (mut bytes, mut fds) = ([0; 16], Vec::new());
        assert_eq!(receive(there.as_fd(), &mut bytes, &mut fds), Ok(5));
        assert_eq!((&bytes[..5], fds.len()), (&b"hello"[..], 2));
        drop((reader, writer));
        let (mut reader, mut writer) = (std::fs::File::from(fds.remove(0)), std::fs::File::from(fds.remove(0)));
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn no_descriptor_and_the_end_are_plain() {
        let (here, there) = UnixStream::pair().unwrap();
        assert_eq!(send(here.as_fd(), b"x", &[]), Ok(1));
        drop(here);
        let (mut bytes, mut fds) = ([0; 16], Vec::new());
        assert_eq!(receive(there.as_fd(), &mut bytes, &mut fds), Ok(1));
        assert_eq!(receive(there.as_fd(), &mut bytes, &mut fds), Ok(0));
        assert!(fds.is_empty());
        let five = vec![there.as_fd(); 5];
        assert_eq!(send(there.as_fd(), b"x", &five), Err(Errno::from_raw(libc::EINVAL)));
    }
}
