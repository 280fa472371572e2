//! Hooks: those that the runtime itself runs in its own namespaces (prestart, createRuntime, poststart, poststop), and
//! the files that those in the container (createContainer, startContainer) find as their standard streams.
//!
//! Runtime-spec, "POSIX-platform Hooks": the state comes on standard input, a hook that is not done in time is killed. A
//! hook without `env` has the runtime's own environment, as with runc (NVIDIA's relies on that); an empty one is empty.
//! Streams are files without a name: neither a hook that reads nothing nor one that says much stops the runtime.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use oci_spec::runtime::Hook;
use serde::Serialize;

use crate::error::{Context, Error, Kind, Result};
use crate::state::Facts;
use crate::status::Status;
use crate::sys::{Errno, clone};
use crate::trace;

/// How much of what a failed hook said is shown.
const SHOWN: usize = 2048;

/// The state that a hook reads (runtime-spec, "State").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: Status,
    #[serde(skip_serializing_if = "is_zero")]
    pid: i32,
    bundle: &'a std::path::Path,
    #[serde(skip_serializing_if = "std::collections::HashMap::is_empty")]
    annotations: &'a std::collections::HashMap<String, String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

impl<'a> Told<'a> {
    pub(crate) fn new(facts: &'a Facts, status: Status, pid: i32) -> Told<'a> {
        Told {
            oci_version: &facts.oci_version,
            id: &facts.id,
            status,
            pid,
            bundle: &facts.bundle,
            annotations: &facts.annotations,
        }
    }
}

/// The state as JSON.
pub(crate) fn told(facts: &Facts, status: Status, pid: i32) -> Result<Vec<u8>> {
    serde_json::to_vec(&Told::new(facts, status, pid))
        .map_err(|why| Error::new(Kind::System, format!("write the state: {why}")))
}

/// Runs hooks one after the other; the first failure ends it.
///
/// # Errors
/// `System`, with what the hook said.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &[u8]) -> Result<()> {
    hooks.iter().enumerate().try_for_each(|(at, hook)| named(kind, at, hook, state))
}

/// Runs hooks whose failure changes nothing for those that follow; a sentence for each that failed.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &[u8]) -> Vec<String> {
    let run = |(at, hook)| named(kind, at, hook, state).err().map(|why| why.to_string());
    hooks.iter().enumerate().filter_map(run).collect()
}

fn named(kind: &str, at: usize, hook: &Hook, state: &[u8]) -> Result<()> {
    trace::say(|| format!("run hook hooks.{kind}[{at}] {}", hook.path().display()));
    one(hook, state).context(|| format!("hooks.{kind}[{at}] {}", hook.path().display()))
}

fn one(hook: &Hook, state: &[u8]) -> Result<()> {
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = args.split_first() {
        use std::os::unix::process::CommandExt as _;
        command.arg0(name).args(rest);
    }
    if let Some(env) = hook.env() {
        command.env_clear();
        command.envs(env.iter().map(|pair| pair.split_once('=').unwrap_or((pair, ""))));
    }
    let (mut stdin, said) = (nameless()?, nameless()?);
    stdin.write_all(state).and_then(|()| stdin.rewind()).context(|| "write the state")?;
    let copy = || said.try_clone().context(|| "duplicate");
    command.stdin(stdin).stdout(Stdio::from(copy()?)).stderr(copy()?);
    let mut child = command.spawn().context(|| "start")?;
    let pidfd = clone::pidfd_open(child.id() as i32).context(|| "open a pidfd")?;
    let limit = milliseconds(hook);
    if !clone::wait_readable(pidfd.as_fd(), limit).context(|| "wait")? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::new(Kind::System, format!("not done after {} s", limit / 1000)));
    }
    let status = child.wait().context(|| "wait")?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(Kind::System, format!("{status}{}", shown(&said))))
}

/// A hook's time, -1 for ever.
pub(crate) fn milliseconds(hook: &Hook) -> i32 {
    hook.timeout().map_or(-1, |seconds| i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX))
}

/// What a hook said, as the end of a sentence.
fn shown(said: &File) -> String {
    let mut text = vec![0; SHOWN];
    let length = said.read_at(&mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..length]);
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

fn nameless() -> Result<File> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let made = nix::sys::memfd::memfd_create(c"hook", flags).map_err(Errno::from);
    Ok(made.context(|| "make a memfd")?.into())
}

/// The parent's side of the streams of hooks that run in the container.
#[derive(Debug)]
pub(crate) struct Streams {
    /// The state for `createContainer` and for `startContainer`.
    states: [File; 2],
    /// What they say.
    said: File,
}

impl Streams {
    pub(crate) fn new() -> Result<Streams> {
        Ok(Streams { states: [nameless()?, nameless()?], said: nameless()? })
    }

    /// The child's side.
    pub(crate) fn for_child(&self) -> Result<[OwnedFd; 3]> {
        let copy = |file: &File| file.try_clone().map(OwnedFd::from).context(|| "duplicate");
        Ok([copy(&self.states[0])?, copy(&self.states[1])?, copy(&self.said)?])
    }

    /// Writes the states, with the pid that the container sees.
    pub(crate) fn tell(&self, facts: &Facts, pid: i32) -> Result<()> {
        let pid = pid_inside(pid)?;
        for (file, status) in self.states.iter().zip([Status::Creating, Status::Created]) {
            file.write_all_at(&told(facts, status, pid)?, 0).context(|| "write the state for hooks")?;
        }
        Ok(())
    }

    /// A failure, with what the hook said.
    pub(crate) fn explain(&self, why: Error) -> Error {
        match shown(&self.said) {
            said if said.is_empty() => why,
            said => Error::new(why.kind(), format!("{why}{said}")),
        }
    }
}

/// The last number of `NSpid` in `/proc/<pid>/status`: the pid in the namespace that is innermost.
fn pid_inside(pid: i32) -> Result<i32> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let last = line.and_then(|line| line.split_whitespace().next_back()).and_then(|number| number.parse().ok());
    last.ok_or_else(|| Error::new(Kind::System, format!("{path}: has no NSpid")))
}
