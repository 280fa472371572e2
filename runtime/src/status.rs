//! The status of a container: derived from facts each time, never stored; and which operation it allows.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Kind, Result};

/// Runtime-spec, "State"; `paused` is what runc adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made, or left half-made by a runtime that was killed.
    Creating,
    /// Set up; waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// Its first process is gone.
    Stopped,
}

/// What can be seen of a container from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A pid has been recorded.
    pub recorded: bool,
    /// The process of this pid and start time lives (and is no zombie).
    pub alive: bool,
    /// Somebody holds the lock: an operation is going on.
    pub locked: bool,
    /// The exec fifo is there.
    pub fifo: bool,
    /// The set-up has been finished once.
    pub ready: bool,
    /// The cgroup is frozen.
    pub frozen: bool,
}

/// The status that these facts mean.
pub fn derive(seen: Seen) -> Status {
    match seen {
        Seen { alive: false, locked: true, ready: false, .. } => Status::Creating,
        Seen { alive: false, .. } => Status::Stopped,
        Seen { ready: false, .. } => Status::Creating,
        Seen { frozen: true, .. } => Status::Paused,
        Seen { fifo: true, .. } => Status::Created,
        _ => Status::Running,
    }
}

/// What one may want to do with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Let it run.
    Start,
    /// Signal it.
    Kill,
    /// Add a process.
    Exec,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Resume,
    /// Remove it.
    Delete,
    /// List its processes.
    Ps,
    /// Change its limits.
    Update,
    /// Read its statistics.
    Stats,
    /// Save its processes.
    Checkpoint,
}

/// The transition table.
///
/// # Errors
/// `WrongState`, with both words.
pub fn allow(op: Op, status: Status) -> Result<()> {
    match (op, status) {
        (Op::Start, Status::Created)
        | (Op::Kill, Status::Creating | Status::Created | Status::Running | Status::Paused)
        | (Op::Exec, Status::Created | Status::Running)
        | (Op::Checkpoint, Status::Running | Status::Paused)
        | (Op::Pause, Status::Created | Status::Running)
        | (Op::Resume, Status::Paused)
        | (Op::Delete, Status::Creating | Status::Created | Status::Stopped)
        | (Op::Update | Op::Stats, Status::Created | Status::Running | Status::Paused)
        | (Op::Ps, _) => Ok(()),
        // containerd looks for the last three words, runc's, to tell a container that has ended by itself.
        (Op::Kill, Status::Stopped) => {
            Err(Error::new(Kind::WrongState, "cannot kill a stopped container: container not running"))
        }
        (op, status) => Err(Error::new(Kind::WrongState, format!("cannot {op} a {status} container"))),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Start => "start",
            Op::Kill => "kill",
            Op::Exec => "exec in",
            Op::Pause => "pause",
            Op::Resume => "resume",
            Op::Delete => "delete",
            Op::Ps => "list the processes of",
            Op::Update => "update",
            Op::Stats => "count the use of",
            Op::Checkpoint => "checkpoint",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Seen = Seen { recorded: true, alive: true, locked: false, fifo: false, ready: true, frozen: false };

    #[test]
    fn facts_to_status() {
        assert_eq!(derive(UP), Status::Running);
        assert_eq!(derive(Seen { fifo: true, ..UP }), Status::Created);
        assert_eq!(derive(Seen { frozen: true, ..UP }), Status::Paused);
        assert_eq!(derive(Seen { alive: false, ..UP }), Status::Stopped);
        assert_eq!(derive(Seen { alive: false, fifo: true, ..UP }), Status::Stopped);
        assert_eq!(derive(Seen { ready: false, ..UP }), Status::Creating);
        assert_eq!(derive(Seen { ready: false, alive: false, locked: true, ..UP }), Status::Creating);
        assert_eq!(derive(Seen::default()), Status::Stopped);
    }

    #[test]
    fn the_table() {
        let all = [Status::Creating, Status::Created, Status::Running, Status::Paused, Status::Stopped];
        let table = [
            (Op::Start, "ox___"),
            (Op::Kill, "xxxx_"),
            (Op::Exec, "_xx__"),
            (Op::Pause, "_xx__"),
            (Op::Resume, "___x_"),
            (Op::Delete, "xx__x"),
            (Op::Ps, "xxxxx"),
            (Op::Update, "_xxx_"),
            (Op::Stats, "_xxx_"),
            (Op::Checkpoint, "__xx_"),
        ];
        for (op, row) in table {
            let allowed: String = all.iter().map(|status| if allow(op, *status).is_ok() { 'x' } else { '_' }).collect();
            assert_eq!(allowed, row.replace('o', "_"), "{op:?}");
        }
        let said = allow(Op::Exec, Status::Stopped).unwrap_err().to_string();
        assert_eq!(said, "cannot exec in a stopped container");
    }
}
