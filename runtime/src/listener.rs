//! Seccomp notifications: the listener of a filter goes to the agent behind `linux.seccomp.listenerPath`.
//!
//! runtime-spec, config-linux.md, "The Container Process State": one message of JSON, with the descriptor beside it.
//!
//! ```text
//!  child                                parent                           agent
//!    seccomp(NEW_LISTENER) = 7
//!    write Listener(7) --------------->   pidfd_getfd(child, 7)
//!    read      <----------------------- Taken
//!                                       connect, sendmsg --------------> { "fds": ["seccompFd"], ... } + descriptor
//! ```
//!
//! Between the filter and the agent the child makes no call but write(2), which a profile therefore must not hand to the
//! agent (as with runc); everything later may be.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Kind, Result};
use crate::hooks::Told;
use crate::launch::{self, Launched};
use crate::state::Facts;
use crate::status::Status;
use crate::sys::{clone, rights};
use crate::talk::Word;

/// Who is asked about the calls that a filter hands over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its unix socket, on the host.
    pub path: PathBuf,
    /// Handed on as it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
}

/// `specs.ContainerProcessState`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: Told<'a>,
}

/// Takes the listener out of the child, lets that go on, and hands it to the agent. `first` is the container's first
/// process: the child itself, or the one that an exec joins.
pub(crate) fn hand_over(facts: &Facts, launched: &Launched, number: i32, (status, first): (Status, i32)) -> Result<()> {
    let agent = facts.lasting.as_ref().and_then(|lasting| lasting.agent.as_ref());
    let agent = agent.ok_or_else(|| Error::new(Kind::Invalid, "linux.seccomp.listenerPath: is missing"))?;
    let listener = clone::pidfd_getfd(launched.pidfd.as_fd(), number).context(|| "take the seccomp listener")?;
    launch::speak(&launched.talk, Word::Taken)?;
    let message = Message {
        oci_version: &facts.oci_version,
        fds: ["seccompFd"],
        pid: launched.pid,
        metadata: &agent.metadata,
        state: Told::new(facts, status, first),
    };
    let text = serde_json::to_vec(&message)
        .map_err(|why| Error::new(Kind::System, format!("write the state for the seccomp agent: {why}")))?;
    let what = || format!("linux.seccomp.listenerPath: hand the listener to {}", agent.path.display());
    let socket = UnixStream::connect(&agent.path).context(what)?;
    let sent = rights::send(socket.as_fd(), &text, &[listener.as_fd()]).context(what)?;
    std::io::Write::write_all(&mut &socket, &text[sent..]).context(what)
}
