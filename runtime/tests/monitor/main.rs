//! The monitor with real containers: exits, logs, exec, attach, and what is left when something is killed.
//!
//! As root on any cgroup layout; without it every test says loudly that it was skipped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod full_disk;
mod life;
mod logs;
mod mangled;
mod meanwhile;
mod pod;
mod streams;
