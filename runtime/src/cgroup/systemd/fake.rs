//! systemd as far as the driver can see it: a thread that speaks D-Bus on a socket, rightly or with ill will.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use oci_spec::runtime::Spec;

use super::bus::{Bus, PATIENCE, Place};
use super::message::{FIXED, Message};
use super::name::{Owner, Unit};
use super::properties::About;
use super::wire::{Value, pad};
use crate::cgroup::Version;
use crate::error::Error;

const ABOUT: About = About { systemd: 252, version: Version::V2 };

/// A server for one connection, and what it was asked for.
struct Fake {
    dir: PathBuf,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Fake {
    /// `talk` has the accepted connection and returns what it noted.
    fn new(name: &str, talk: impl FnOnce(UnixStream) -> Vec<String> + Send + 'static) -> Fake {
        let dir = std::env::temp_dir().join(format!("gantry-bus-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let listener = UnixListener::bind(dir.join("s")).unwrap();
        let thread = std::thread::spawn(move || talk(listener.accept().unwrap().0));
        Fake { dir, thread: Some(thread) }
    }

    /// A right one: lets everybody in, and gives each call the messages of `answer`, which gets member and serial.
    fn answering(name: &str, answer: impl FnMut(&str, u32) -> Vec<Vec<u8>> + Send + 'static) -> Fake {
        Fake::new(name, |stream| serve(stream, answer))
    }

    fn bus(&self, is_bus: bool, patience: Duration) -> crate::error::Result<Bus> {
        Bus::connect(&[Place { socket: self.dir.join("s"), is_bus }], patience)
    }

    fn asked(mut self) -> Vec<String> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn let_in(stream: &mut UnixStream) {
    let mut said = Vec::new();
    let mut byte = [0];
    stream.write_all(b"DATA\r\nOK 0123456789abcdef\r\n").unwrap();
    while !said.ends_with(b"BEGIN\r\n") {
        stream.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    assert_eq!(said, b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n");
}

fn serve(mut stream: UnixStream, mut answer: impl FnMut(&str, u32) -> Vec<Vec<u8>>) -> Vec<String> {
    let_in(&mut stream);
    let mut asked = Vec::new();
    let mut fixed = [0; FIXED];
    while stream.read_exact(&mut fixed).is_ok() {
        let mut bytes = fixed.to_vec();
        bytes.resize(Message::length(&fixed).unwrap(), 0);
        stream.read_exact(&mut bytes[FIXED..]).unwrap();
        let call = Message::decode(&bytes).unwrap();
        let serial = u32::from_le_bytes(fixed[8..12].try_into().unwrap());
        asked.push(call.member.clone());
        for message in answer(&call.member, serial) {
            stream.write_all(&message).unwrap();
        }
    }
    asked
}

fn message(kind: u8, fields: Vec<(u8, Value)>, body: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.iter().for_each(|value| value.put(&mut bytes));
    let signature = body.iter().map(Value::signature).collect();
    let fields = fields.into_iter().chain([(8, Value::Signature(signature))]);
    let field = |(code, value)| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
    let mut out = vec![b'l', kind, 1, 1];
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(77u32.to_le_bytes());
    Value::List("(yv)".into(), fields.map(field).collect()).put(&mut out);
    pad(&mut out, 8);
    out.extend(bytes);
    out
}

fn returned(serial: u32, body: &[Value]) -> Vec<u8> {
    message(2, vec![(5, Value::U32(serial)), (7, Value::text(":1.0"))], body)
}

fn refused(serial: u32, name: &str) -> Vec<u8> {
    let name = format!("org.freedesktop.systemd1.{name}");
    message(3, vec![(4, Value::Text(name)), (5, Value::U32(serial))], &[Value::text("no, because")])
}

fn removed(sender: &str, job: &str, result: &str) -> Vec<u8> {
    let fields = vec![
        (1, Value::Path("/org/freedesktop/systemd1".into())),
        (2, Value::text("org.freedesktop.systemd1.Manager")),
        (3, Value::text("JobRemoved")),
        (7, Value::text(sender)),
    ];
    message(4, fields, &[Value::U32(7), Value::Path(job.into()), Value::text("x.scope"), Value::text(result)])
}

fn job() -> Value {
    Value::Path("/job/7".into())
}

fn unit() -> Unit {
    Unit::of(Some("a-b.slice:p:x"), "web", Owner::System).unwrap()
}

fn spec(json: &str) -> Spec {
    serde_json::from_str(&format!(r#"{{"ociVersion":"1.0.0",{json}}}"#)).unwrap()
}

/// Starts the unit at the fake; what it was asked for, and the result.
fn started(fake: Fake, is_bus: bool) -> (Vec<String>, Result<(), Error>) {
    let unit = unit();
    let wanted = unit.wanted(&spec(r#""linux":{}"#), ABOUT, 42).unwrap();
    let result = fake.bus(is_bus, PATIENCE).and_then(|mut bus| unit.start_on(&mut bus, &wanted));
    (fake.asked(), result)
}

#[test]
fn a_unit_is_told_all_that_it_needs() {
    let spec = spec(
        r#""annotations":{"org.systemd.property.TimeoutStopUSec":"uint64 5"},
           "linux":{"resources":{"memory":{"limit":4096},"devices":[{"allow":true,"access":"rwm"}]}}"#,
    );
    let lines = |about| -> String {
        let wanted = unit().wanted(&spec, about, 42).unwrap();
        wanted.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    };
    let head = "Description=\"container p-x\"\nSlice=\"a-b.slice\"\nDelegate=true\nPIDs=[42]\nMemoryAccounting=true\n\
                CPUAccounting=true\n";
    let middle = "TasksAccounting=true\nDefaultDependencies=false\nTimeoutStopUSec=5\n";
    let v2 = format!("{head}IOAccounting=true\n{middle}MemoryMax=4096\n");
    assert!(lines(ABOUT).starts_with(&v2), "{}", lines(ABOUT));
    let v1 = format!("{head}BlockIOAccounting=true\n{middle}MemoryLimit=4096\n");
    let on_v1 = lines(About { version: Version::V1, ..ABOUT });
    assert!(on_v1.starts_with(&v1), "{on_v1}");
    assert!(on_v1.contains("DevicePolicy=\"auto\""), "{on_v1}");
}

#[test]
fn a_unit_is_started_and_its_job_awaited() {
    // The end of the job comes before the answer, between that of another job and what somebody else made up.
    let fake = Fake::answering("start", |member, serial| match member {
        "StartTransientUnit" => vec![
            removed(":1.0", "/job/6", "failed"),
            removed(":1.66", "/job/7", "failed"),
            removed(":1.0", "/job/7", "done"),
            returned(serial, &[job()]),
        ],
        _ => vec![returned(serial, &[])],
    });
    let (asked, result) = started(fake, true);
    result.unwrap();
    assert_eq!(asked, ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]);
}

#[test]
fn systemd_itself_is_not_greeted() {
    let fake =
        Fake::answering("private", |_, serial| vec![returned(serial, &[job()]), removed(":1.0", "/job/7", "done")]);
    let (asked, result) = started(fake, false);
    result.unwrap();
    assert_eq!(asked, ["StartTransientUnit"]);
}

#[test]
fn a_name_that_a_failed_unit_holds_is_freed_once() {
    let mut tries = 0;
    let fake = Fake::answering("exists", move |member, serial| match member {
        "StartTransientUnit" => {
            tries += 1;
            match tries {
                1 => vec![refused(serial, "UnitExists")],
                _ => vec![returned(serial, &[job()]), removed(":1.0", "/job/7", "done")],
            }
        }
        _ => vec![refused(serial, "NoSuchUnit")],
    });
    let (asked, result) = started(fake, false);
    result.unwrap();
    assert_eq!(asked, ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]);

    let fake = Fake::answering("exists-still", |_, serial| vec![refused(serial, "UnitExists")]);
    let (asked, result) = started(fake, false);
    assert_eq!(result.unwrap_err().to_string(), "systemd refused: no, because (org.freedesktop.systemd1.UnitExists)");
    assert_eq!(asked.len(), 3);
}

#[test]
fn a_job_that_fails_is_an_error() {
    let fake = Fake::answering("failed", |member, serial| match member {
        "StartTransientUnit" => vec![returned(serial, &[job()]), removed(":1.0", "/job/7", "dependency")],
        _ => vec![returned(serial, &[])],
    });
    let (asked, result) = started(fake, false);
    assert_eq!(result.unwrap_err().to_string(), "systemd's job ended with \"dependency\", not done");
    assert_eq!(asked, ["StartTransientUnit", "ResetFailedUnit"]);
}

#[test]
fn a_unit_is_stopped_only_if_it_is_ours() {
    let cgroup = Path::new("a.slice/a-b.slice/p-x.scope");
    for (has, expected) in [
        ("/a.slice/a-b.slice/p-x.scope", vec!["Get", "StopUnit", "ResetFailedUnit"]),
        ("/other.slice/p-x.scope", vec!["Get", "ResetFailedUnit"]),
        ("", vec!["Get", "ResetFailedUnit"]),
    ] {
        let fake = Fake::answering("stop", move |member, serial| match member {
            "Get" => vec![returned(serial, &[Value::Variant(Box::new(Value::text(has)))])],
            "StopUnit" => vec![returned(serial, &[job()]), removed(":1.0", "/job/7", "canceled")],
            _ => vec![refused(serial, "NoSuchUnit")],
        });
        unit().stop_on(&mut fake.bus(false, PATIENCE).unwrap(), cgroup).unwrap();
        assert_eq!(fake.asked(), expected, "{has}");
    }
    assert_eq!(unit().object(), "/org/freedesktop/systemd1/unit/p_2dx_2escope");
}

#[test]
fn one_that_is_silent_is_not_waited_for_long() {
    let fake = Fake::answering("silent", |_, _| Vec::new());
    let mut bus = fake.bus(false, Duration::from_millis(100)).unwrap();
    let why = bus.manager("Subscribe", Vec::new()).unwrap_err();
    assert_eq!(why.to_string(), "it did not answer in time");
    drop(bus);
    assert_eq!(fake.asked(), ["Subscribe"]);
    // It answers, but the job never ends.
    let fake = Fake::answering("endless", |_, serial| vec![returned(serial, &[job()])]);
    let mut bus = fake.bus(false, Duration::from_millis(100)).unwrap();
    let why = unit().start_on(&mut bus, &[]).unwrap_err();
    assert_eq!(why.to_string(), "it did not answer in time");
}

#[test]
fn one_that_refuses_us_or_never_ends_its_line_is_left() {
    let says = |name: &str, bytes: Vec<u8>| {
        let fake = Fake::new(name, move |mut stream| {
            let _ = stream.write_all(&bytes);
            let _ = stream.read(&mut [0; 64]);
            Vec::new()
        });
        let why = fake.bus(false, PATIENCE).unwrap_err();
        assert_eq!(why.kind(), crate::error::Kind::Unsupported);
        why.to_string()
    };
    assert!(says("rejected", b"REJECTED EXTERNAL\r\n".to_vec()).contains("does not let us in: \"REJECTED EXTERNAL\""));
    assert!(says("line", vec![b'x'; 4096]).contains("a line without an end"));
    assert!(says("binary", vec![0xff, 0xfe, b'\r', b'\n']).contains("does not let us in"));
}

#[test]
fn hostile_messages_end_the_conversation() {
    let answer = |name: &str, bytes: Vec<u8>| {
        let fake = Fake::answering(name, move |_, _| vec![bytes.clone()]);
        let mut bus = fake.bus(false, PATIENCE).unwrap();
        bus.manager("Subscribe", Vec::new()).unwrap_err().to_string()
    };
    let good = returned(1, &[job()]);
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    assert_eq!(answer("huge-body", with(7, 0xff)), "it sent a message of more than a mebibyte");
    assert_eq!(answer("huge-fields", with(15, 0xff)), "it sent a message of more than a mebibyte");
    assert_eq!(answer("big-endian", with(0, b'B')), "it sent a message that is not little-endian");
    // The first field is a variant of type u: now one of type v.
    let at = good.iter().position(|byte| *byte == b'u').unwrap();
    assert_eq!(answer("nested", with(at, b'v')), "it sent a variant of a type that nobody asked for");
    let fake = Fake::answering("wrong-type", |_, serial| vec![returned(serial, &[Value::U32(7)])]);
    let why = unit().start_on(&mut fake.bus(false, PATIENCE).unwrap(), &[]).unwrap_err();
    assert_eq!(why.to_string(), "it sent an answer of another type than documented");
}

#[test]
fn one_that_leaves_in_the_middle_is_noticed() {
    let fake = Fake::new("leaves", |mut stream| {
        let_in(&mut stream);
        stream.write_all(&returned(1, &[job()])[..20]).unwrap();
        Vec::new()
    });
    let mut bus = fake.bus(false, PATIENCE).unwrap();
    let why = bus.manager("Subscribe", Vec::new()).unwrap_err().to_string();
    assert!(why == "it closed the connection" || why.contains("ECONNRESET") || why.contains("EPIPE"), "{why}");
}

#[test]
fn the_next_place_is_tried() {
    let fake = Fake::answering("second", |_, serial| vec![returned(serial, &[])]);
    let nowhere = Place { socket: fake.dir.join("nowhere"), is_bus: true };
    let there = Place { socket: fake.dir.join("s"), is_bus: false };
    drop(Bus::connect(&[nowhere.clone(), there], PATIENCE).unwrap());
    let why = Bus::connect(&[nowhere], PATIENCE).unwrap_err().to_string();
    assert!(why.starts_with("cannot reach systemd (is it this host's init?): connect to /"), "{why}");
    assert!(Bus::connect(&[], PATIENCE).unwrap_err().to_string().contains("XDG_RUNTIME_DIR"));
}
