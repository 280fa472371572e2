//! System calls: the only place in the project where `unsafe` may stand.
//!
//! One file a subject. Each function is a thin, safe wrapper: it takes borrowed fds and C strings that the caller
//! prepared, allocates nothing unless it says so, and returns [`Errno`]. What may run between clone and exec says so.
//! Files of this directory reach the two checks as `super::errno::{check, check_fd}`.

pub mod bpf;
mod errno;
mod solo;

pub use errno::Errno;
pub use solo::Solo;
