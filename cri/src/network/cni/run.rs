//! A plugin is run: in the daemon's network namespace, in a process group of its own, with bounded time and output.
//!
//! Its standard input is a file that the daemon holds locked. A plugin whose daemon is killed goes on; the lock goes
//! on with it, since it belongs to the open file that both share (flock(2)), and the next daemon waits for its end
//! before it undoes what the plugin did.

use super::request::Verb;
use super::result::Refusal;
use crate::error::{Context as _, Error, Kind, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Largest answer of a plugin, in bytes.
const ANSWER: usize = 1 << 20;
/// How much of what a plugin says on its standard error is passed on, in bytes.
const COMPLAINT: usize = 4 << 10;
/// How long the output of a plugin that has ended is waited for, while a child of it holds the pipe.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// One run of one plugin.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: Verb,
    /// `type` of the plugin.
    pub(super) kind: &'a str,
    /// Name of the network.
    pub(super) network: &'a str,
    pub(super) program: PathBuf,
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) limit: Duration,
}

/// Runs the plugin with `input` on its standard input, by way of `file`; gives its standard output.
///
/// # Errors
/// In libcni's words with the plugin's name, its message and what it said on standard error: `Timeout`, `Unavailable`
/// for "try again later", `Internal`.
pub(super) async fn run(call: &Call<'_>, file: &File, input: &[u8]) -> Result<Vec<u8>> {
    perform(call, file, input).await.map_err(|why| {
        let (kind, network, word) = (call.kind, call.network, call.verb.word());
        why.within(format!("plugin type={kind:?} name={network:?} failed ({word})"))
    })
}

async fn perform(call: &Call<'_>, file: &File, input: &[u8]) -> Result<Vec<u8>> {
    let stdin = fill(file, input).context(|| "write its input")?;
    let mut command = Command::new(&call.program);
    command.envs(call.environment.iter().map(|(key, value)| (key, value))).stdin(stdin);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).current_dir("/");
    let mut child = command.spawn().context(|| format!("run {}", call.program.display()))?;
    let group = child.id().map(|id| Pid::from_raw(id as i32));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let outcome = {
        // Whichever has too much to say ends the wait: nothing is read without a bound.
        let reading =
            async { tokio::try_join!(read(out, &mut said, ANSWER), read(err, &mut complained, COMPLAINT)).is_err() };
        tokio::pin!(reading);
        let ended = async {
            let mut overlong = None;
            loop {
                tokio::select! {
                    long = &mut reading, if overlong.is_none() => match long {
                        true => return (None, true),
                        false => overlong = Some(false),
                    },
                    status = child.wait() => {
                        if overlong.is_none() {
                            overlong = tokio::time::timeout(AFTERWARDS, &mut reading).await.ok();
                        }
                        return (Some(status), overlong.unwrap_or(false));
                    }
                }
            }
        };
        tokio::time::timeout(call.limit, ended).await
    };
    let (status, overlong) = outcome.unwrap_or((None, false));
    let Some(status) = status.filter(|_| !overlong) else {
        if let Some(group) = group {
            let _ = killpg(group, Signal::SIGKILL);
        }
        let _ = child.wait().await;
        let why = match overlong {
            true => Error::internal(format!("it said more than {ANSWER} bytes")),
            false => Error::new(Kind::Timeout, format!("no answer in {} s, killed", call.limit.as_secs_f32())),
        };
        return Err(with_complaint(why, &complained));
    };
    verdict(status.context(|| "wait for its end")?, said, &complained)
}

/// Writes the input and gives a handle of the same open file, at its start.
fn fill(mut file: &File, input: &[u8]) -> std::io::Result<Stdio> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(input)?;
    file.rewind()?;
    Ok(file.try_clone()?.into())
}

/// Reads to the end, keeping `most` bytes. Of an answer that is longer nothing more is read; of complaints the rest is
/// thrown away.
async fn read(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, most: usize) -> std::result::Result<(), ()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut piece = [0; 8 << 10];
    loop {
        let Ok(count @ 1..) = pipe.read(&mut piece).await else { return Ok(()) };
        let room = most.saturating_sub(into.len());
        if count > room && most == ANSWER {
            return Err(());
        }
        into.extend_from_slice(&piece[..count.min(room)]);
    }
}

fn verdict(status: ExitStatus, said: Vec<u8>, complained: &[u8]) -> Result<Vec<u8>> {
    if status.success() {
        return Ok(said);
    }
    let why = match Refusal::parse(&said) {
        Some(refusal) => {
            let meaning = Some(refusal.meaning()).filter(|meaning| !meaning.is_empty());
            let meaning = meaning.map(|meaning| format!(": {meaning}")).unwrap_or_default();
            Error::new(refusal.kind(), format!("{} (code {}{meaning})", refusal.text, refusal.code))
        }
        None if said.is_empty() => Error::internal(format!("{status}, with no error message")),
        None => Error::internal(format!("{status}, and no error message but {:?}", excerpt(&said))),
    };
    Err(with_complaint(why, complained))
}

fn with_complaint(why: Error, complained: &[u8]) -> Error {
    let text = excerpt(complained);
    if text.is_empty() { why } else { Error::new(why.kind(), format!("{why}; it said: {text}")) }
}

/// The start of what was said, on one line.
pub(super) fn excerpt(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(&said[..said.len().min(COMPLAINT)]);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(plain).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}
