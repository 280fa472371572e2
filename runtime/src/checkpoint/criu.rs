//! One criu process (`criu swrk`), and the conversation with it over a socket of messages (images/rpc.proto of criu).
//!
//! ```text
//!  gantry-runtime                               criu swrk
//!    clone3 + exec ---------------------------->
//!    Request(type, opts | features) ----------->
//!            <-----------------------------------  Response(NOTIFY, script, pid) [+ a terminal's master]
//!    Request(NOTIFY, notify_success) ---------->   (any number of times)
//!            <-----------------------------------  Response(type, success, errno, message)
//!    close ------------------------------------>   ends
//! ```
//!
//! It is cloned like a container's process: alone, and into the container's cgroup by itself where it restores. Its
//! mount namespace is the caller's: criu finds its directories through the caller's descriptors, and mounts in them.
//! What it restores becomes a child of the caller (`rst_sibling`).

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use super::wire::{Message, Value, fields};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::clone::{self, Reap, Side};
use crate::sys::keep::Keep;
use crate::sys::process::{self, CStringArray};
use crate::sys::{Errno, Solo, fs, socket};

/// `enum criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

/// The oldest criu whose RPC has all that is used here (external namespaces by `external` and `inherit_fd`).
const OLDEST: (i32, i32) = (3, 11);

/// The largest answer that is read; criu's own limit for a request is 4 KiB and grows, its answers are far below.
const LARGEST: usize = 64 << 10;

/// What criu is started with.
#[derive(Debug, Default)]
pub(super) struct Ground<'a> {
    /// Standard input, output and error.
    pub(super) streams: Option<[OwnedFd; 3]>,
    /// Descriptors that it inherits under their own numbers.
    pub(super) inherited: Vec<BorrowedFd<'a>>,
    /// v1: `tasks` of every tree to enter.
    pub(super) doors: Vec<OwnedFd>,
    /// v2: the directory to be born in.
    pub(super) unified: Option<OwnedFd>,
}

/// A word of criu's on its way.
#[derive(Debug)]
pub(super) struct Notice<'a> {
    /// What has come: `setup-namespaces`, `post-restore`, `orphan-pts-master`, ...
    pub(super) script: &'a str,
    /// The first process, where there is one already.
    pub(super) pid: i32,
    /// The descriptor that came along.
    pub(super) fd: Option<OwnedFd>,
}

/// A final answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    of: i32,
    success: bool,
    errno: i32,
    message: String,
    version: (i32, i32),
    /// `(mem_track, lazy_pages)`.
    features: (bool, bool),
    notify: Option<(String, i32)>,
}

/// A running criu.
#[derive(Debug)]
pub(super) struct Criu {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    socket: Option<OwnedFd>,
}

/// Finds criu: the path given, or in `$PATH`.
///
/// # Errors
/// `Unsupported`, with what to install.
pub(super) fn find(given: Option<&Path>) -> Result<PathBuf> {
    let given = given.filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = given.filter(|path| path.as_os_str().as_bytes().contains(&b'/')) {
        return Ok(path.to_owned());
    }
    let name = given.map_or(OsStr::new("criu"), Path::as_os_str);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|dir| dir.join(name));
    let found = places.into_iter().find(|place| {
        CString::new(place.as_os_str().as_bytes()).is_ok_and(|place| process::may_execute(&place).is_ok())
    });
    found.ok_or_else(|| {
        let what = format!("{} is not in $PATH: install it (Debian: apt-get install criu)", name.display());
        Error::new(Kind::Unsupported, what)
    })
}

impl Criu {
    /// Starts criu; `ground` says with what.
    pub(super) fn start(program: &Path, mut ground: Ground<'_>, alone: &Solo) -> Result<Criu> {
        let (ours, theirs) = socket::pair().context(|| "make a socket pair")?;
        let path = c_string(program.as_os_str().to_owned())?;
        let number = OsString::from(theirs.as_raw_fd().to_string());
        let args = ["criu".into(), "swrk".into(), number].map(c_string).into_iter().collect::<Result<Vec<_>>>()?;
        let env = std::env::vars_os().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c_string(name)
        });
        let (args, env) = (CStringArray::new(args), CStringArray::new(env.collect::<Result<Vec<_>>>()?));
        let singles = [theirs.as_fd()].into_iter();
        let lists = ground.inherited.iter().copied().chain(ground.doors.iter().map(|door| door.as_fd()));
        let streams = ground.streams.iter().flatten().map(|fd| fd.as_fd());
        let keep = Keep::new(0, singles.chain(lists).chain(streams));
        let unified = ground.unified.take();
        match clone::clone3(alone, 0, unified.as_ref().map(|fd| fd.as_fd())).context(|| "clone criu")? {
            Side::Child => become_criu(&path, &args, &env, &ground, &theirs, &keep),
            Side::Parent(pid, pidfd) => Ok(Criu { pid, pidfd, socket: Some(ours) }),
        }
    }

    /// Asks, answers every notice with what `notified` makes of it, and returns the final answer.
    ///
    /// # Errors
    /// The failure of `notified`, which ends criu; `Unsupported` or `System` when criu cannot be executed or ends early.
    pub(super) fn ask(
        &mut self,
        kind: Type,
        request: Message,
        mut notified: impl FnMut(Notice<'_>) -> Result<()>,
    ) -> Result<Answer> {
        self.say(&request.number(1, kind as u64))?;
        let mut failure = None;
        loop {
            let (answer, fd) = match self.hear() {
                Ok(heard) => heard,
                Err(why) => return Err(failure.unwrap_or(why)),
            };
            let Some((script, pid)) = &answer.notify else {
                if answer.of == kind as i32 || !answer.success {
                    return failure.map_or(Ok(answer), Err);
                }
                return Err(Error::new(Kind::System, format!("criu answers a request of another type, {}", answer.of)));
            };
            let done = notified(Notice { script, pid: *pid, fd });
            if script == "pre-resume"
                && let Err(why) = done
            {
                // What it restored has been killed, and criu would wait for that for ever.
                let _ = clone::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
                return Err(why);
            }
            let reply = Message::default().number(1, Type::Notify as u64).number(3, u64::from(done.is_ok()));
            failure = failure.or(done.err());
            self.say(&reply)?;
        }
    }

    fn say(&self, message: &Message) -> Result<()> {
        let Some(socket) = &self.socket else { return Err(Error::new(Kind::System, "criu has been left")) };
        match socket::send(socket.as_fd(), message.encoded(), None) {
            // It says why by its end.
            Err(errno) if errno.raw() == libc::EPIPE => Ok(()),
            sent => sent.context(|| "speak to criu"),
        }
    }

    fn hear(&mut self) -> Result<(Answer, Option<OwnedFd>)> {
        let Some(socket) = &self.socket else { return Err(Error::new(Kind::System, "criu has been left")) };
        let mut bytes = vec![0; LARGEST];
        let received = socket::receive(socket.as_fd(), &mut bytes);
        let (length, fd) = match received {
            // One that left words of ours unread resets the connection; what it said before is still there.
            Err(errno) if errno.raw() == libc::ECONNRESET => {
                socket::receive(socket.as_fd(), &mut bytes).context(|| "hear from criu")?
            }
            received => received.context(|| "hear from criu")?,
        };
        match length {
            0 => Err(self.ended()),
            LARGEST => Err(Error::new(Kind::System, "criu's answer is too long")),
            length => match bytes[..length] {
                [COULD_NOT, a, b, c, d] => {
                    let errno = Errno::from_raw(i32::from_ne_bytes([a, b, c, d]));
                    Err(Error::system("execute criu", errno).of_kind(Kind::Unsupported))
                }
                _ => Ok((Answer::read(&bytes[..length])?, fd)),
            },
        }
    }

    /// Why the conversation ended before its time.
    fn ended(&mut self) -> Error {
        let what = match clone::wait(self.pidfd.as_fd(), Reap::No) {
            Ok(clone::Exit::Code(code)) => format!("criu ended with {code} before it answered"),
            Ok(clone::Exit::Signal(signal)) => format!("criu was killed by signal {signal}"),
            Err(errno) => format!("criu ended before it answered ({errno})"),
        };
        Error::new(Kind::System, what)
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        // With its socket closed criu has nothing more to do. One that hangs is ended: whoever dropped this gave up.
        drop(self.socket.take());
        if !clone::wait_readable(self.pidfd.as_fd(), 10_000).unwrap_or(false) {
            let _ = clone::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
        let _ = clone::wait(self.pidfd.as_fd(), Reap::Yes);
    }
}

/// First byte of what the child says when it could not become criu; an errno follows. No message of criu's begins so.
const COULD_NOT: u8 = 0xff;

/// The child: as in [`crate::init`] nothing here allocates.
fn become_criu(
    path: &CString,
    args: &CStringArray,
    env: &CStringArray,
    ground: &Ground<'_>,
    socket: &OwnedFd,
    keep: &Keep,
) -> ! {
    let prepare = || -> Result<(), Errno> {
        let _ = keep.close_others();
        process::reset_signals();
        ground.doors.iter().try_for_each(|door| fs::write_once(door.as_fd(), b"0"))?;
        for (number, fd) in ground.streams.iter().flatten().enumerate() {
            process::place_fd(fd.as_fd(), number as i32)?;
        }
        process::set_close_on_exec(socket.as_raw_fd(), false)?;
        ground.inherited.iter().try_for_each(|fd| process::set_close_on_exec(fd.as_raw_fd(), false))
    };
    let errno = match prepare() {
        Ok(()) => process::execve(path, args, env),
        Err(errno) => errno,
    };
    let mut said = [COULD_NOT; 5];
    said[1..].copy_from_slice(&errno.raw().to_ne_bytes());
    let _ = socket::send(socket.as_fd(), &said, None);
    process::leave(1)
}

impl Answer {
    fn read(bytes: &[u8]) -> Result<Answer> {
        let mut answer = Answer::default();
        for (field, value) in fields(bytes)? {
            match field {
                1 => answer.of = value.signed(),
                2 => answer.success = value.signed() != 0,
                5 => answer.notify = Some(notice(value)?),
                7 => answer.errno = value.signed(),
                8 => {
                    for (feature, on) in fields(value.inner())? {
                        match feature {
                            1 => answer.features.0 = on.signed() != 0,
                            2 => answer.features.1 = on.signed() != 0,
                            _ => {}
                        }
                    }
                }
                9 => answer.message = String::from_utf8_lossy(value.inner()).into_owned(),
                10 => {
                    for (part, number) in fields(value.inner())? {
                        match part {
                            1 => answer.version.0 = number.signed(),
                            2 => answer.version.1 = number.signed(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        // A notice is one by its type as well.
        answer.notify = answer.notify.filter(|_| answer.of == Type::Notify as i32);
        Ok(answer)
    }

    /// The final answer as success or failure.
    ///
    /// # Errors
    /// `System`, with what criu said.
    pub(super) fn succeeded(&self, what: &str) -> Result<()> {
        if self.success {
            return Ok(());
        }
        let said = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        let what = format!("{what} with criu failed{said}");
        Err(match self.errno {
            0 => Error::new(Kind::System, what),
            errno => Error::system(what, Errno::from_raw(errno)),
        })
    }
}

fn notice(value: Value<'_>) -> Result<(String, i32)> {
    let mut notice = (String::new(), 0);
    for (field, value) in fields(value.inner())? {
        match field {
            1 => notice.0 = String::from_utf8_lossy(value.inner()).into_owned(),
            2 => notice.1 = value.signed(),
            _ => {}
        }
    }
    Ok(notice)
}

/// Refuses a criu that is too old.
///
/// # Errors
/// `Unsupported`, with both versions.
pub(super) fn check_version(program: &Path, alone: &Solo) -> Result<(i32, i32)> {
    let mut criu = Criu::start(program, Ground::default(), alone)?;
    let answer = criu.ask(Type::Version, Message::default(), |_| Ok(()))?;
    answer.succeeded("asking for the version")?;
    if answer.version < OLDEST {
        let ((major, minor), (least, minor_least)) = (answer.version, OLDEST);
        let what =
            format!("{} is version {major}.{minor}; {least}.{minor_least} or newer is needed", program.display());
        return Err(Error::new(Kind::Unsupported, what));
    }
    Ok(answer.version)
}

/// Refuses what this kernel cannot do: tracking of changed memory (a pre-dump), lazy pages.
///
/// # Errors
/// `Unsupported`, with the flag that asked for it.
pub(super) fn check_features(program: &Path, track: bool, lazy: bool, alone: &Solo) -> Result<()> {
    if !track && !lazy {
        return Ok(());
    }
    let features = Message::default().switch(1, track).switch(2, lazy);
    let mut criu = Criu::start(program, Ground::default(), alone)?;
    let answer = criu.ask(Type::FeatureCheck, Message::default().message(5, &features), |_| Ok(()))?;
    answer.succeeded("the check of this kernel's features").map_err(|why| why.of_kind(Kind::Unsupported))?;
    for (asked, has, flag) in [(track, answer.features.0, "pre-dump"), (lazy, answer.features.1, "lazy-pages")] {
        if asked && !has {
            let what = format!("--{flag}: this kernel, or this criu, cannot do it (criu check --all tells more)");
            return Err(Error::new(Kind::Unsupported, what));
        }
    }
    Ok(())
}

fn c_string(text: OsString) -> Result<CString> {
    CString::new(text.into_vec()).map_err(|_| Error::new(Kind::Invalid, "an argument has a zero byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let notice = Message::default().text(1, "pre-resume").number(2, 42);
        let message = Message::default().number(1, 6).number(2, 1).message(5, &notice);
        let answer = Answer::read(message.encoded()).unwrap();
        assert_eq!(answer.notify, Some(("pre-resume".to_owned(), 42)));

        let version = Message::default().number(1, 3).number(2, 17).text(3, "0");
        let message = Message::default().number(1, 10).number(2, 1).message(10, &version);
        assert_eq!(Answer::read(message.encoded()).unwrap().version, (3, 17));

        let message = Message::default().number(1, 1).number(2, 0).number(7, 1).text(9, "no way");
        let said = Answer::read(message.encoded()).unwrap().succeeded("dump").unwrap_err();
        assert_eq!(said.to_string(), "dump with criu failed: no way: Operation not permitted (EPERM)");
    }

    #[test]
    fn a_criu_that_is_not_there_is_named() {
        let why = find(Some(Path::new("no-such-criu"))).unwrap_err();
        assert_eq!(why.kind(), Kind::Unsupported);
        assert!(why.to_string().contains("no-such-criu is not in $PATH"), "{why}");
    }
}
