//! Any bytes from the child's end of the conversation: words or errors at the parent's, never a panic or a wait.
//!
//! The first byte of each piece says how long it is (0 to 15), the rest are its bytes; odd first bytes send a
//! descriptor along. After the last piece the child's end closes, so that a reader who waits for more is a hang.

#![no_main]

use std::io::IoSlice;
use std::os::fd::{AsFd as _, AsRawFd as _};

use gantry_runtime::talk;
use libfuzzer_sys::fuzz_target;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

fuzz_target!(|data: &[u8]| {
    let (parent, child) = talk::pair().expect("a socket pair");
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let raw = [null.as_raw_fd()];
    let (mut rest, mut sent) = (data, 0);
    // A socket holds some dozen messages; nobody reads before all are written.
    while let (Some((head, tail)), true) = (rest.split_first(), sent < 32) {
        let length = usize::from(head & 15).min(tail.len());
        let rights = [ControlMessage::ScmRights(&raw)];
        let with = if head & 16 != 0 { &rights[..] } else { &[] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let piece = [IoSlice::new(&tail[..length])];
        // A message of no bytes is the end for who reads.
        if length > 0 && sendmsg::<()>(child.as_fd().as_raw_fd(), &piece, with, flags, None).is_ok() {
            sent += 1;
        }
        rest = &tail[length..];
    }
    drop(child);
    let mut heard = 0;
    while !matches!(parent.hear(), Ok(None)) {
        heard += 1;
        assert!(heard <= sent, "more was heard than said");
    }
    assert_eq!(heard, sent);
});
