//! The process of a shared PID namespace: it is its first, reaps what is left to it, and ends on request.
//!
//! It says [`Word::Ready`] once it stands in its cgroup. Before that nothing may be born into its namespace: were it to
//! fail, the kernel would kill its whole namespace with it (pid_namespaces(7)), and nobody could say why.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cgroup::Doors;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::clone::{self, Side, clone3, flags, pidfd_send_signal};
use crate::sys::{Solo, process};
use crate::talk::{self, End, Word};

/// A running pause process; it outlives its monitor, as the containers in its namespace do.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) pid: i32,
    pidfd: OwnedFd,
}

impl Pause {
    /// Clones one into a new PID namespace; it enters the cgroup by itself, and has done so when this returns.
    pub(super) fn start(doors: &Doors) -> Result<Self> {
        let alone = Solo::prove()?;
        let (ours, theirs) = talk::pair()?;
        let unified = doors.unified.as_ref().map(AsFd::as_fd);
        let (pid, pidfd) =
            match clone3(&alone, flags::PID, unified).context(|| "clone the pause process into its cgroup")? {
                Side::Parent(pid, pidfd) => (pid, pidfd),
                Side::Child => hold(doors, &theirs),
            };
        drop(theirs);
        match listen(&ours) {
            Ok(()) => Ok(Self { pid, pidfd }),
            Err(why) => {
                clone::kill_and_reap(pidfd.as_fd());
                Err(why)
            }
        }
    }

    /// Ends it, and with it every process in the namespace.
    pub(super) fn kill(&self) {
        // It is gone already, or it goes: SIGKILL from outside is never refused.
        let _ = pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }
}

/// Waits until the pause process is in its place.
fn listen(talk: &End) -> Result<()> {
    match talk.hear().context(|| "hear from the pause process")? {
        Some((Word::Ready, _)) => Ok(()),
        Some((Word::Failed(_, errno), _)) => Err(Error::system("put the pause process into its cgroup", errno)),
        other => Err(Error::new(Kind::System, format!("the pause process ended before it was ready ({other:?})"))),
    }
}

/// The life of the pause process. It keeps nothing of its monitor's open, or a client would wait for ends that never
/// come.
fn hold(doors: &Doors, talk: &End) -> ! {
    for (at, door) in (0..).zip(&doors.tasks) {
        if let Err(errno) = crate::sys::fs::write_once(door.as_fd(), b"0") {
            // The monitor may be gone; then nobody is left to be told.
            let _ = talk.say(Word::Failed(at, errno));
            process::leave(1);
        }
    }
    process::reset_signals();
    // Containers share its namespace; its memory is the monitor's.
    let _ = process::set_dumpable(false);
    if talk.say(Word::Ready).is_err() || process::close_from(0).is_err() {
        process::leave(1);
    }
    let _ = nix::sys::prctl::set_name(c"pause");
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        awaited.add(signal);
    }
    if awaited.thread_block().is_err() {
        process::leave(1);
    }
    loop {
        match awaited.wait() {
            Ok(Signal::SIGCHLD) => reap(),
            Ok(_) => process::leave(0),
            Err(_) => {}
        }
    }
}

fn reap() {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
            Ok(_) | Err(_) => {}
        }
    }
}
