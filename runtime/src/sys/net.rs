//! Network devices by the old ioctls: enough to bring one up; for more there is netlink.

use std::ffi::CStr;
use std::os::fd::AsRawFd;

use super::errno::{Errno, check, check_fd};

/// `struct ifreq` as `SIOCSIFFLAGS` reads it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// netdevice(7), `SIOCSIFFLAGS`: the device of this network namespace is up.
pub fn bring_up(device: &CStr) -> Result<(), Errno> {
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags: libc::IFF_UP as libc::c_short, rest: [0; 22] };
    let bytes = device.to_bytes();
    request.name.get_mut(..bytes.len()).filter(|_| bytes.len() < libc::IFNAMSIZ).map_or_else(
        || Err(Errno::from_raw(libc::ENAMETOOLONG)),
        |room| {
            room.copy_from_slice(bytes);
            Ok(())
        },
    )?;
    // SAFETY: socket reads three integers and opens a new descriptor.
    let socket = check_fd(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: `request` has the size and layout of an ifreq and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into()).map(drop)
}
