//! What goes on while a container is deleted: the others' output is read, and their ends are written down.
//!
//! A deletion waits, for processes to be gone and for whoever else is at work on the container. That takes no thread and
//! no second process: it is tried again and again, each time for a moment, and between two tries the rest of the pod has
//! its turn. Clients wait for as long, but for no longer than twice [`DYING`].

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::event_loop::{Monitor, Token};
use crate::cgroup::Cgroup;
use crate::error::{Error, Kind, Result};
use crate::lifecycle;

/// How long a container that is deleted may take to die, and then as long again what is left of it. Only what hangs in
/// the kernel takes longer, and whoever asks again finds it dead or dying.
const DYING: Duration = Duration::from_secs(2);

/// How long one try may wait, and how long the others have their turn after it.
const MOMENT: Duration = Duration::from_millis(20);

impl Monitor {
    /// Waits until a process that was killed has ended, and reaps it.
    ///
    /// # Errors
    /// `System`, if it does not.
    pub(super) fn await_death(&mut self, id: &str, process: &OwnedFd) -> Result<()> {
        match self.look_after_others(DYING, Some(process))? {
            true => {
                self.reap();
                Ok(())
            }
            false => Err(Error::new(Kind::System, format!("{id} does not die of SIGKILL within {DYING:?}"))),
        }
    }

    /// Removes what is left of a container whose first process has ended, or that is not ours.
    ///
    /// # Errors
    /// The last try's.
    pub(super) fn delete_in_turns(&mut self, id: &str) -> Result<()> {
        let until = Instant::now() + DYING;
        loop {
            let Err(why) = lifecycle::delete_within(&self.root, id, true, MOMENT) else { return Ok(()) };
            // Once the cgroups are gone there is nothing to be waited for, and the hooks have run.
            let cgroup = self.find(id).and_then(|(_, container)| container.cgroup.as_ref());
            let waits = why.kind() == Kind::WrongState || cgroup.is_none_or(Cgroup::exists);
            if !waits || Instant::now() >= until {
                return Err(why);
            }
            self.look_after_others(MOMENT, None)?;
        }
    }

    /// Serves everything but clients, until `awaited` is readable (`true`) or `patience` is at its end.
    fn look_after_others(&mut self, patience: Duration, awaited: Option<&OwnedFd>) -> Result<bool> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let ready = {
                let mut tokens = Vec::new();
                let mut fds: Vec<PollFd<'_>> =
                    awaited.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
                for (token, fd) in self.interests() {
                    if matches!(token, Token::Signals | Token::Output(..) | Token::Oom(_)) {
                        tokens.push(token);
                        fds.push(fd);
                    }
                }
                match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(Error::system("poll", errno.into())),
                }
                let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|flags| !flags.is_empty());
                let others = fds.split_off(awaited.iter().len());
                if fds.iter().any(is_ready) {
                    return Ok(true);
                }
                let both = tokens.into_iter().zip(others);
                both.filter(|(_, fd)| is_ready(fd)).map(|(token, _)| token).collect::<Vec<_>>()
            };
            ready.into_iter().for_each(|token| self.react(token, PollFlags::POLLIN));
            if Instant::now() >= until {
                return Ok(false);
            }
        }
    }
}
