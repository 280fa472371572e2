//! System calls: the only place in the project where `unsafe` may stand.
//!
//! One file a subject. Each function is a thin, safe wrapper: it takes borrowed fds and C strings that the caller
//! prepared, allocates nothing unless it says so, and returns [`Errno`]; so all of them may run between clone and
//! exec. Files of this directory reach the two checks as `super::errno::{check, check_fd}`.

mod errno;
mod solo;

pub mod bpf;
pub mod clone;
pub mod copy;
pub mod fs;
pub mod heap;
pub mod keep;
pub mod mount;
pub mod net;
pub mod process;
pub mod rights;
pub mod socket;
pub mod tty;

pub use errno::Errno;
pub use solo::Solo;
