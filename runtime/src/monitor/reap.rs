//! Children that have ended: looked at first, written down, told, and only then reaped.

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::children::Container;
use super::connection::Role;
use super::event_loop::Monitor;
use super::exits;
use super::protocol::{Event, Reply, Status};
use crate::sys::clone::Exit;

impl Monitor {
    /// Takes care of every child that has ended: containers, execs, and whatever was left to the subreaper.
    pub(super) fn reap(&mut self) {
        while let Some((pid, how)) = next_dead() {
            let key = self.containers.iter().find(|(_, container)| container.pid == pid && container.exit.is_none());
            if let Some(key) = key.map(|(key, _)| *key) {
                self.container_ended(key, how);
            } else if self.pause.as_ref().is_some_and(|pause| pause.pid == pid) {
                self.pause = None;
            } else if let Some(exec) = self.execs.remove(&pid) {
                self.exec_ended(exec.connection, how, exec.started_at);
            }
            if let Err(errno) = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED) {
                self.journal.warn(&format!("reap process {pid}: {errno}"));
                // Looking again would find the same one for ever.
                return;
            }
        }
    }

    /// Writes an exit down, if it is not yet, and tells of it.
    pub(super) fn record(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(exit) = container.exit else { return };
        let id = container.id.clone();
        match exits::record(&self.dir, &id, &exit) {
            Ok(()) => {
                container.unrecorded = false;
                self.tell(&Event::Exited { id, exit });
            }
            Err(why) => {
                // Told once; it is tried again every second.
                if !std::mem::replace(&mut container.unrecorded, true) {
                    self.journal.warn(&why.to_string());
                }
            }
        }
    }

    fn container_ended(&mut self, key: u32, how: Exit) {
        let ended = self.containers.get(&key).map_or(Ok(()), Container::end_the_rest);
        if let Err(why) = ended {
            self.journal.warn(&why.to_string());
        }
        self.drain_rest(key);
        let Some(container) = self.containers.get_mut(&key) else { return };
        let told = container.oom_happened();
        container.oom = None;
        let exit = exits::exit(how, container.oom_kills > 0, container.started_at);
        container.exit = Some(exit);
        container.status = Status::Exited;
        // Nobody reads it any more, and a client that sends more has to see that.
        container.input.fd = None;
        let id = container.id.clone();
        if told {
            self.tell(&Event::Oom { id });
        }
        self.record(key);
    }

    fn exec_ended(&mut self, connection: u32, how: Exit, started_at: i64) {
        let exit = exits::exit(how, false, started_at);
        if let Some(client) = self.connections.get_mut(&connection)
            && client.role == Role::Exec
        {
            client.role = Role::Answered;
            self.answer(connection, &Reply::Exited(exit));
        }
    }
}

/// A child that has ended, left as it is.
fn next_dead() -> Option<(i32, Exit)> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        return match waitid(Id::All, flags) {
            Ok(WaitStatus::Exited(pid, code)) => Some((pid.as_raw(), Exit::Code(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid.as_raw(), Exit::Signal(signal as i32))),
            Err(Errno::EINTR) => continue,
            Ok(_) | Err(_) => None,
        };
    }
}
