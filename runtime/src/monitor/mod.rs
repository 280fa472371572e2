//! The monitor: one small process a pod that makes its containers, writes their logs and records their exits.
//!
//! It is the parent of every container, so an exit code is never lost or invented; it lives on when the daemon that
//! started it is killed, and is found again by its socket. It takes the place of containerd's shim and, since
//! namespaces are held by bind mounts, of the pause container.
//!
//! It is one thread, and one request is served at a time. While a deletion waits for processes to be gone, for at most
//! four seconds, the other containers' output is read and their ends are recorded (meanwhile.rs). Creation and start wait
//! for nobody but hooks and the kernel, as do `poststop` hooks; until they are through, others' output stays in their pipes
//! (256 KiB each, then the writer waits): late, never lost. Only a hook's own timeout bounds that.
//!
//! ```text
//! DIR/monitor.sock                 requests (protocol.rs), 0600
//! DIR/monitor.pid                  "<pid> <start time>\n", the latter as in /proc/<pid>/stat field 22
//! DIR/containers/<id>/bundle/      config.json, written by the client
//! DIR/containers/<id>/exit.json    how it ended, written and renamed before the child is reaped
//! DIR/runtime/                     the runtime's state root (or --root)
//! ```

mod attach;
mod children;
pub mod client;
mod clock;
mod command;
mod connection;
mod daemon;
mod event_loop;
mod exits;
mod journal;
mod log_file;
mod meanwhile;
mod output;
mod pause;
pub mod protocol;
mod reap;
mod requests;
mod spawn;

pub use client::{Client, Streams, exit_record};
pub use command::{USAGE, command};
pub use daemon::{Config, start};
pub use journal::Level;
pub use spawn::{SealedBinary, spawn};

use std::path::{Path, PathBuf};

/// Name of the socket in a pod's directory.
pub const SOCKET: &str = "monitor.sock";

/// Name of the file with the monitor's pid and start time.
const PID: &str = "monitor.pid";

/// Where the exit of a container is recorded.
pub fn exit_path(dir: &Path, id: &str) -> PathBuf {
    dir.join("containers").join(id).join("exit.json")
}
