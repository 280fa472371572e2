//! Hooks that the runtime itself runs, in its own namespaces: prestart, createRuntime, poststart, poststop.
//!
//! Runtime-spec, "POSIX-platform Hooks": the state comes on standard input, a hook that is not done in time is killed.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use oci_spec::runtime::Hook;
use serde::Serialize;

use crate::error::{Context, Error, Kind, Result};
use crate::state::Facts;
use crate::status::Status;
use crate::sys::clone;
use crate::trace;

/// How much of a failed hook's standard error is shown.
const SHOWN: u64 = 2048;

/// The state that a hook reads (runtime-spec, "State").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
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

/// The state as JSON.
pub(crate) fn told(facts: &Facts, status: Status, pid: i32) -> Result<Vec<u8>> {
    let told = Told {
        oci_version: &facts.oci_version,
        id: &facts.id,
        status,
        pid,
        bundle: &facts.bundle,
        annotations: &facts.annotations,
    };
    serde_json::to_vec(&told).map_err(|why| Error::new(Kind::System, format!("write the state: {why}")))
}

/// Runs hooks one after the other; the first failure ends it.
///
/// # Errors
/// `System`, with what the hook wrote to standard error.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &[u8]) -> Result<()> {
    for (at, hook) in hooks.iter().enumerate() {
        trace::say(|| format!("run hook hooks.{kind}[{at}] {}", hook.path().display()));
        one(hook, state).context(|| format!("hooks.{kind}[{at}] {}", hook.path().display()))?;
    }
    Ok(())
}

fn one(hook: &Hook, state: &[u8]) -> Result<()> {
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = args.split_first() {
        use std::os::unix::process::CommandExt as _;
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for pair in hook.env().iter().flatten() {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.env(key, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context(|| "start")?;
    let pidfd = clone::pidfd_open(child.id() as i32).context(|| "open a pidfd")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read its state is free to do so: a broken pipe is no failure.
        let _ = stdin.write_all(state);
    }
    let limit = hook.timeout().map_or(-1, |seconds| i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX));
    if !clone::wait_readable(pidfd.as_fd(), limit).context(|| "wait")? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::new(Kind::System, format!("not done after {} s", limit / 1000)));
    }
    let status = child.wait().context(|| "wait")?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(SHOWN).read_to_string(&mut said);
    }
    Err(Error::new(Kind::System, format!("{status}: {}", said.trim())))
}
