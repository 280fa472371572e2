//! The monitor's protocol: what the CRI server asks, what the monitor answers, and how it goes over the socket.
//!
//! A unix stream socket `DIR/monitor.sock` (0600, peers of uid 0 only); one connection a call, so calls run side by side.
//! Each message is its length as four bytes (little endian) and that many bytes of JSON; descriptors travel with the
//! first byte.
//!
//! ```text
//!   client                                          monitor
//!     | -- Hello{version, request} [descriptors] ----> |
//!     |                                                |
//!     |   Create Start Kill Delete Resize ReopenLog CloseStdin KillExec Shutdown
//!     | <------------------------ Done or Created ---- |
//!     |   State                                        |
//!     | <--------------------------------- State ----- |   every container, live or not
//!     |   Pause                                        |
//!     | <------------------------------- Started ----- |   pid of the process whose PID namespace is shared
//!     |   Exec [stdin] [stdout] [stderr]               |
//!     | <--------------- Started [terminal's master] - |
//!     | <-------------------------------- Exited ----- |   whenever it ends; closing the connection does not end it
//!     |   Attach [stdin] [stdout] [stderr]             |
//!     | <----------------------------------- Done ---- |   attached
//!     | <------------------------------- Detached ---- |   the output has ended, or this client was too slow
//!     |   Subscribe                                    |
//!     | <----------------------------------- Done ---- |
//!     | <------------------------------ Event ... ---- |   until the client closes
//!     |                                                |
//!     | <---------- Failed{kind, message} in place of any of them
//! ```
//!
//! A client of another version is told so by `Failed`; a monitor outlives the daemon that started it, so the version
//! changes only when an old meaning is broken. Unknown fields are ignored, so that fields can be added.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// The longest message, in bytes. An exec's environment and arguments may be 128 KiB each by the kernel's own limit.
pub const LONGEST: usize = 4 << 20;

/// The first and only message of a client on a connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the client.
    pub version: u32,
    /// What it wants.
    pub request: Request,
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Makes a container that waits for `Start`.
    Create(Create),
    /// Runs the container's program.
    Start {
        /// Container.
        id: String,
    },
    /// Sends a signal.
    Kill {
        /// Container.
        id: String,
        /// Number of the signal.
        signal: i32,
        /// To every process of the container, not only the first.
        all: bool,
    },
    /// Removes an exited container from the runtime and forgets it; its record and bundle stay on disk for the client.
    Delete {
        /// Container.
        id: String,
        /// Kill it first if it runs; one that is not known is no error.
        force: bool,
    },
    /// Lists every container.
    State,
    /// Runs a further process in a container.
    Exec(Box<Exec>),
    /// Sends a signal to a process that `Exec` started.
    KillExec {
        /// Container.
        id: String,
        /// The pid that `Started` gave.
        pid: i32,
        /// Number of the signal.
        signal: i32,
    },
    /// Connects streams to a container's main process.
    Attach(Attach),
    /// Sets the size of the container's terminal.
    Resize {
        /// Container.
        id: String,
        /// Columns of characters.
        width: u16,
        /// Rows of characters.
        height: u16,
    },
    /// Opens the log file by its path again, after it was renamed for rotation.
    ReopenLog {
        /// Container.
        id: String,
    },
    /// Closes the container's standard input: it reads the end of file.
    CloseStdin {
        /// Container.
        id: String,
    },
    /// Starts (or finds) a process that does nothing but hold a PID namespace and reap; `/proc/<pid>/ns/pid` is to be
    /// the path of the containers' `pid` namespace.
    Pause {
        /// Cgroup path in which it is put.
        cgroup: Option<PathBuf>,
    },
    /// Streams events from now on.
    Subscribe,
    /// Ends the monitor; refused while a container runs.
    Shutdown,
}

/// A new container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Create {
    /// Its name, unique in the pod and below the runtime's root.
    pub id: String,
    /// Directory with `config.json`.
    pub bundle: PathBuf,
    /// Log file in the CRI format; `None` keeps no log. Its directory has to exist.
    pub log_path: Option<PathBuf>,
    /// Whether it has a terminal; has to agree with `process.terminal` of `config.json`.
    #[serde(default)]
    pub tty: bool,
    /// Whether its standard input is a pipe to attach to (or its terminal); otherwise `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// Whether standard input ends when the first attached client does.
    #[serde(default)]
    pub stdin_once: bool,
}

/// A process in a running container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// Container.
    pub id: String,
    /// OCI `process` object, in full. `terminal: true` makes a terminal whose master comes back with `Started`, and
    /// no descriptor is taken then.
    pub process: oci_spec::runtime::Process,
    /// Which of stdin, stdout and stderr come as descriptors, in this order; the others are `/dev/null`. They become
    /// the process's own, nothing is copied.
    pub streams: [bool; 3],
}

/// Streams to a container's main process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attach {
    /// Container.
    pub id: String,
    /// Which of stdin (to read from), stdout and stderr (to write to) come as descriptors, in this order. With a
    /// terminal all output is stdout. Pipes or sockets; they are set to non-blocking.
    pub streams: [bool; 3],
}

/// What the monitor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// It is done.
    Done,
    /// The container is there and waits.
    Created {
        /// Its first process.
        pid: i32,
    },
    /// The process runs.
    Started {
        /// Process id on the host.
        pid: i32,
    },
    /// The process of an `Exec` has ended.
    Exited(Exit),
    /// The attached streams are no longer fed.
    Detached {
        /// Why, where it is not that the container's output has ended.
        reason: Option<String>,
    },
    /// Answer to `State`.
    State(State),
    /// Something happened.
    Event(Event),
    /// It could not be done.
    Failed {
        /// Kind of the error, as [`kind_name`] writes it.
        kind: String,
        /// One sentence with its causes.
        message: String,
    },
}

/// How a process ended. Also the content of `exit.json`, with `started_at`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Exit {
    /// Exit code; 128 and the signal's number, where one killed it.
    pub code: i32,
    /// The signal that killed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of the container for want of memory.
    #[serde(default)]
    pub oom: bool,
    /// When its program was started: nanoseconds since 1970; 0 if it never was.
    #[serde(default)]
    pub started_at: i64,
    /// When the monitor saw it end: nanoseconds since 1970.
    pub finished_at: i64,
}

/// What a monitor looks after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Pid of the monitor itself.
    pub pid: i32,
    /// Pid of the process that holds the shared PID namespace, if there is one.
    pub pause: Option<i32>,
    /// Every container that was created and not deleted.
    pub containers: Vec<ContainerState>,
}

/// A container as its monitor knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// Its name.
    pub id: String,
    /// Its first process, also after it has ended.
    pub pid: i32,
    /// Where it is in its life.
    pub status: Status,
    /// When it was created: nanoseconds since 1970.
    pub created_at: i64,
    /// When its program was started: nanoseconds since 1970; 0 if it was not.
    pub started_at: i64,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// Waits for `Start`.
    Created,
    /// Its program runs.
    Running,
    /// Its first process has ended and the record of that is on disk.
    Exited,
}

/// What happened to a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// It was created.
    Created {
        /// Container.
        id: String,
    },
    /// Its program was started.
    Started {
        /// Container.
        id: String,
    },
    /// It has ended; the record is on disk.
    Exited {
        /// Container.
        id: String,
        /// How.
        exit: Exit,
    },
    /// The kernel killed a process in it for want of memory; it may live on.
    Oom {
        /// Container.
        id: String,
    },
    /// It was deleted.
    Deleted {
        /// Container.
        id: String,
    },
}

/// The kinds of error by the names that go over the wire.
const KINDS: &[(Kind, &str)] = &[
    (Kind::Invalid, "invalid"),
    (Kind::NotFound, "notFound"),
    (Kind::Exists, "exists"),
    (Kind::WrongState, "wrongState"),
    (Kind::Unsupported, "unsupported"),
    (Kind::Program, "program"),
    (Kind::System, "system"),
];

/// How a kind is called on the wire.
pub fn kind_name(kind: Kind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("system", |(_, name)| name)
}

impl Reply {
    /// An error as it goes over the wire.
    pub fn failed(error: &Error) -> Self {
        Self::Failed { kind: kind_name(error.kind()).to_owned(), message: error.to_string() }
    }

    /// The reply, or the error that it carries.
    ///
    /// # Errors
    /// The monitor's own; an unknown kind counts as `System`.
    pub fn into_result(self) -> crate::error::Result<Self> {
        match self {
            Self::Failed { kind, message } => {
                let kind = KINDS.iter().find(|(_, name)| *name == kind).map_or(Kind::System, |(kind, _)| *kind);
                Err(Error::new(kind, message))
            }
            reply => Ok(reply),
        }
    }
}

/// The first message of a client. Its version is looked at first: a request of another one may not be understood at all.
///
/// # Errors
/// `Unsupported` for another version, `Invalid` for what is no request.
pub fn hello(bytes: &[u8]) -> crate::error::Result<Hello> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let invalid = |why: serde_json::Error| Error::new(Kind::Invalid, format!("read a request: {why}"));
    let Version { version } = serde_json::from_slice(bytes).map_err(invalid)?;
    if version != VERSION {
        let what = format!("this monitor speaks version {VERSION} of its protocol, the client {version}");
        return Err(Error::new(Kind::Unsupported, what));
    }
    serde_json::from_slice(bytes).map_err(invalid)
}

/// The bytes of a message: its length, then JSON.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    // Maps with string keys and plain values only: there is nothing in these types that JSON cannot say.
    serde_json::to_writer(&mut bytes, message).expect("messages are plain JSON");
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The length of the message that starts here, once four bytes are there.
///
/// # Errors
/// `Invalid` above [`LONGEST`].
pub fn length(bytes: &[u8]) -> crate::error::Result<Option<usize>> {
    let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > LONGEST {
        return Err(Error::new(Kind::Invalid, format!("a message of {length} bytes is longer than {LONGEST}")));
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_look_like_this() {
        let hello = Hello { version: VERSION, request: Request::Kill { id: "web".into(), signal: 9, all: true } };
        let bytes = encode(&hello);
        let text = std::str::from_utf8(&bytes[4..]).unwrap();
        assert_eq!(text, r#"{"version":1,"request":{"kill":{"id":"web","signal":9,"all":true}}}"#);
        assert_eq!(length(&bytes).unwrap(), Some(text.len()));
        assert_eq!(std::str::from_utf8(&encode(&Request::State)[4..]).unwrap(), r#""state""#);
        let exit = Exit { code: 137, signal: Some(9), oom: true, started_at: 1, finished_at: 2 };
        assert_eq!(
            std::str::from_utf8(&encode(&Reply::Exited(exit))[4..]).unwrap(),
            r#"{"exited":{"code":137,"signal":9,"oom":true,"started_at":1,"finished_at":2}}"#
        );
    }

    #[test]
    fn a_later_client_may_say_more() {
        let text = r#"{"create":{"id":"a","bundle":"/b","logPath":null,"surprise":[1]}}"#;
        let Request::Create(create) = serde_json::from_str(text).unwrap() else { panic!("create") };
        assert_eq!((create.id.as_str(), create.tty), ("a", false));
    }

    #[test]
    fn errors_keep_their_kind_over_the_wire() {
        for (kind, _) in KINDS {
            let error = Reply::failed(&Error::new(*kind, "why")).into_result().unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (*kind, "why".to_owned()));
        }
        let odd = Reply::Failed { kind: "melted".into(), message: "why".into() };
        assert_eq!(odd.into_result().unwrap_err().kind(), Kind::System);
        assert_eq!(Reply::Done.into_result().unwrap(), Reply::Done);
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(length(&[1, 0, 0]).unwrap(), None);
        assert_eq!(length(&u32::MAX.to_le_bytes()).unwrap_err().kind(), Kind::Invalid);
    }
}
