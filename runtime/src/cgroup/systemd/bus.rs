//! A connection to a message bus, or to systemd itself: authentication, calls, and the signals of finished jobs.
//!
//! ```text
//!  we                                            the bus, or systemd on its private socket
//!    \0 AUTH EXTERNAL, DATA, BEGIN ------------->
//!            <-----------------------------------  DATA, OK guid         (the kernel has told it who we are)
//!    Hello, AddMatch, Subscribe ---------------->  (on a bus; not on the private socket)
//!    StartTransientUnit ------------------------>
//!            <-----------------------------------  return: job           (or an error)
//!            <-----------------------------------  signal JobRemoved: job, result
//! ```
//!
//! Synchronous, with one deadline for the whole conversation; nothing that the other side says makes it wait longer or
//! take more than a mebibyte. D-Bus Specification, "Authentication Protocol"; org.freedesktop.systemd1(5).

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::message::{Call, FIXED, Message, Type};
use super::wire::Value;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::Errno;

/// How long a whole conversation may take; runc waits as long for a job.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Name of systemd on every bus.
pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
const BUS: &str = "org.freedesktop.DBus";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// Longest line of the authentication.
const LINE: usize = 512;

/// Where systemd can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// A socket in the file system, or an abstract one if it begins with a zero byte.
    pub(super) socket: PathBuf,
    /// A bus, which wants to be greeted; otherwise systemd itself.
    pub(super) is_bus: bool,
}

impl Place {
    /// The system's systemd: by the bus, else directly, which only root may.
    pub(super) fn of_system() -> Vec<Place> {
        let bus = Place { socket: "/run/dbus/system_bus_socket".into(), is_bus: true };
        vec![bus, Place { socket: "/run/systemd/private".into(), is_bus: false }]
    }

    /// The systemd of a user, as the environment says: the address of the bus, and the runtime directory.
    pub(super) fn of_user(address: Option<&str>, runtime_dir: Option<&Path>) -> Vec<Place> {
        let named = address.into_iter().flat_map(|text| text.split(';')).filter_map(socket_of);
        let mut places: Vec<Place> = named.map(|socket| Place { socket, is_bus: true }).collect();
        if let Some(dir) = runtime_dir {
            if places.is_empty() {
                places.push(Place { socket: dir.join("bus"), is_bus: true });
            }
            places.push(Place { socket: dir.join("systemd/private"), is_bus: false });
        }
        places
    }
}

/// `unix:path=/run/user/1000/bus,guid=...`, with `%20` for what is not plain.
fn socket_of(address: &str) -> Option<PathBuf> {
    let mut pairs = address.strip_prefix("unix:")?.split(',').filter_map(|pair| pair.split_once('='));
    let (name, value) = pairs.find(|(name, _)| matches!(*name, "path" | "abstract"))?;
    let mut bytes = if name == "abstract" { vec![0] } else { Vec::new() };
    let mut rest = value;
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend(plain.as_bytes());
        bytes.push(u8::from_str_radix(escaped.get(..2)?, 16).ok()?);
        rest = escaped.get(2..)?;
    }
    bytes.extend(rest.as_bytes());
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// What systemd says when it does not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `org.freedesktop.systemd1.UnitExists`, ...
    pub(super) name: String,
    /// A sentence.
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn into_error(self) -> Error {
        Error::new(Kind::System, format!("systemd refused: {} ({})", self.text, self.name))
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    deadline: Instant,
    /// Jobs that have ended: who said so, which, and how.
    ended: Vec<(String, String, String)>,
}

impl Bus {
    /// Connects to the first place that answers.
    ///
    /// # Errors
    /// `Unsupported` where there is none, with the last one's reason.
    pub(super) fn connect(places: &[Place], patience: Duration) -> Result<Bus> {
        let mut last = Error::new(Kind::Unsupported, "DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR are not set");
        for place in places {
            match Bus::open(place, Instant::now() + patience) {
                Ok(bus) => return Ok(bus),
                Err(why) => last = why,
            }
        }
        Err(last.of_kind(Kind::Unsupported).within("cannot reach systemd (is it this host's init?)"))
    }

    fn open(place: &Place, deadline: Instant) -> Result<Bus> {
        let name = place.socket.display().to_string();
        let stream = open_socket(&place.socket, deadline).context(|| format!("connect to {name}"))?;
        let mut bus = Bus { stream, serial: 0, deadline, ended: Vec::new() };
        let greet = |bus: &mut Bus| -> Result<()> {
            bus.authenticate()?;
            if place.is_bus {
                bus.greet()?;
            }
            Ok(())
        };
        greet(&mut bus).map_err(|why| why.within(name))?;
        Ok(bus)
    }

    /// Without a user id in it: the kernel tells who we are, also out of a user namespace, where our number is another.
    /// BEGIN goes along, as sd-bus sends it: on its private socket systemd forgets a call that it reads together with a
    /// later BEGIN until something else arrives.
    fn authenticate(&mut self) -> Result<()> {
        self.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = self.line()?;
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => return Ok(()),
                _ => return Err(Error::new(Kind::System, format!("it does not let us in: {line:?}"))),
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() >= LINE {
                return Err(malformed("a line without an end"));
            }
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
    }

    fn greet(&mut self) -> Result<()> {
        let bus = |member, arguments| Call {
            destination: BUS,
            path: "/org/freedesktop/DBus",
            interface: BUS,
            member,
            arguments,
        };
        self.call(&bus("Hello", Vec::new()))?.map_err(Refusal::into_error)?;
        let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'");
        self.call(&bus("AddMatch", vec![Value::text(rule)]))?.map_err(Refusal::into_error)?;
        // Whether we have subscribed already is all that it could refuse.
        let _ = self.manager("Subscribe", Vec::new())?;
        Ok(())
    }

    /// Calls a method of systemd's manager.
    ///
    /// # Errors
    /// The outer one ends the conversation, the inner one is systemd's answer.
    pub(super) fn manager(&mut self, member: &str, arguments: Vec<Value>) -> Result<Result<Message, Refusal>> {
        self.call(&Call { destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER, member, arguments })
    }

    /// A property of systemd's manager that is a string.
    pub(super) fn manager_property(&mut self, name: &str) -> Result<String> {
        self.property(MANAGER_PATH, MANAGER, name)
    }

    /// A property of an object of systemd that is a string.
    pub(super) fn property(&mut self, path: &str, interface: &str, name: &str) -> Result<String> {
        let call = Call {
            destination: SYSTEMD,
            path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            arguments: vec![Value::text(interface), Value::text(name)],
        };
        let message = self.call(&call)?.map_err(Refusal::into_error)?;
        match message.body("v").and_then(|mut body| body.variant()) {
            Ok(Value::Text(text)) => Ok(text),
            Ok(_) => Err(malformed("a property of another type than documented")),
            Err(why) => Err(malformed(why)),
        }
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Result<Message, Refusal>> {
        self.serial += 1;
        self.write(&call.encode(self.serial, true))?;
        loop {
            let message = self.next()?;
            match message.kind {
                Type::Return if message.answers == Some(self.serial) => return Ok(Ok(message)),
                Type::Error if message.answers == Some(self.serial) => {
                    let text = message.body("s").and_then(|mut body| body.text().map(str::to_owned));
                    let text = text.unwrap_or_default();
                    return Ok(Err(Refusal { name: message.error, text }));
                }
                _ => self.note(&message),
            }
        }
    }

    /// Keeps what a `JobRemoved` says: it may come before the answer to the call that made the job.
    fn note(&mut self, message: &Message) {
        if message.kind != Type::Signal || message.interface != MANAGER || message.member != "JobRemoved" {
            return;
        }
        let read = || -> Result<(String, String), super::wire::Malformed> {
            let mut body = message.body("uoss")?;
            body.u32()?;
            let job = body.text()?.to_owned();
            body.text()?;
            Ok((job, body.text()?.to_owned()))
        };
        if let Ok((job, result)) = read() {
            self.ended.push((message.sender.clone(), job, result));
        }
    }

    /// Waits for the end of the job that `answer` (of `StartTransientUnit`, `StopUnit`) names, and tells its result.
    /// Only the one who gave that answer is believed.
    pub(super) fn await_job(&mut self, answer: &Message) -> Result<String> {
        let job = answer.body("o").and_then(|mut body| body.text().map(str::to_owned)).map_err(malformed)?;
        loop {
            let ours = self.ended.iter().find(|(sender, ended, _)| *sender == answer.sender && *ended == job);
            if let Some((_, _, result)) = ours {
                return Ok(result.clone());
            }
            let message = self.next()?;
            self.note(&message);
        }
    }

    fn next(&mut self) -> Result<Message> {
        let mut bytes = vec![0; FIXED];
        self.read(&mut bytes)?;
        let mut fixed = [0; FIXED];
        fixed.copy_from_slice(&bytes);
        let length = Message::length(&fixed).map_err(malformed)?;
        bytes.resize(length, 0);
        self.read(&mut bytes[FIXED..])?;
        Message::decode(&bytes).map_err(malformed)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        let mut got = 0;
        while got < into.len() {
            let left = self.left()?;
            self.stream.set_read_timeout(Some(left)).context(|| "set a time limit")?;
            match self.stream.read(&mut into[got..]) {
                Ok(0) => return Err(Error::new(Kind::System, "it closed the connection")),
                Ok(count) => got += count,
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => return Err(late()),
                Err(why) => return Err(why).context(|| "read an answer"),
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left()?;
        self.stream.set_write_timeout(Some(left)).context(|| "set a time limit")?;
        match self.stream.write_all(bytes) {
            Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => Err(late()),
            done => done.context(|| "write a call"),
        }
    }

    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(late()) } else { Ok(left) }
    }
}

/// With a time limit, as connect(2) waits where the other side accepts nobody. `write` never raises a signal: the
/// runtime ignores SIGPIPE, as every Rust program does.
fn open_socket(path: &Path, deadline: Instant) -> Result<UnixStream, Errno> {
    let address = match path.as_os_str().as_bytes().split_first() {
        Some((0, name)) => UnixAddr::new_abstract(name)?,
        _ => UnixAddr::new(path)?,
    };
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let left = deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
    let limit = TimeVal::milliseconds(i64::try_from(left).unwrap_or(i64::MAX));
    socket::setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    socket::connect(socket.as_raw_fd(), &address)?;
    Ok(UnixStream::from(socket))
}

fn malformed(why: super::wire::Malformed) -> Error {
    Error::new(Kind::System, format!("it sent {why}"))
}

fn late() -> Error {
    Error::new(Kind::System, "it did not answer in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_of_a_user_is_where_the_environment_says() {
        let sockets = |address, dir: Option<&str>| {
            let places = Place::of_user(address, dir.map(Path::new));
            places.iter().map(|place| place.socket.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let both = ["/run/user/7/bus", "/run/user/7/systemd/private"];
        assert_eq!(sockets(None, Some("/run/user/7")), both);
        assert_eq!(sockets(Some("unix:path=/a%20b,guid=0123;unix:abstract=c"), None), ["/a b", "\0c"]);
        assert_eq!(sockets(Some("tcp:host=localhost"), Some("/run/user/7")), both);
        assert_eq!(sockets(Some("unix:path=/a%zz"), None), [""; 0]);
    }
}
