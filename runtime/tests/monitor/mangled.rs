//! Clients that talk nonsense: each is told so or let go, the monitor takes no harm, and everybody else is served.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use gantry_runtime::monitor::Streams;
use gantry_runtime::monitor::protocol::{Attach, Exec, Hello, LONGEST, Reply, Request, VERSION, encode};
use gantry_runtime::sys::rights;

use crate::pod::{Pod, cannot, eventually, exec_process};

impl Pod {
    fn dial(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.join("monitor.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.monitor())).unwrap().count()
    }

    /// Resident memory of the monitor at its highest, in KiB.
    fn most_memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.monitor())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// The first answer; `None` if the connection ends without one.
fn answer(mut stream: UnixStream) -> Option<Reply> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut text = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut text).unwrap();
    Some(serde_json::from_slice(&text).unwrap())
}

/// Why it was refused.
fn refusal(stream: UnixStream) -> (String, String) {
    match answer(stream) {
        Some(Reply::Failed { kind, message }) => (kind, message),
        other => panic!("{other:?}"),
    }
}

fn frame(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes(), text].concat()
}

#[test]
fn nonsense_is_answered_with_a_reason() {
    if cannot() {
        return;
    }
    let pod = Pod::new("nonsense");
    let deep = [b"{\"version\":1,\"request\":".as_slice(), &vec![b'['; 100_000]].concat();
    let state = encode(&Hello { version: VERSION, request: Request::State });
    let cases: [(&str, Vec<u8>, &str, &str); 8] = [
        ("an empty message", frame(b""), "invalid", "read a request: EOF"),
        ("no JSON", frame(b"\xff\xfe\0\0"), "invalid", "read a request"),
        ("no request", frame(br#"{"version":1}"#), "invalid", "missing field `request`"),
        ("a wrong type", frame(br#"{"version":1,"request":{"kill":{"id":7}}}"#), "invalid", "expected a string"),
        ("a number too large", frame(br#"{"version":4294967296}"#), "invalid", "4294967296"),
        ("deeper than any stack", frame(&deep), "invalid", "EOF while parsing a list"),
        ("an absurd length", u32::MAX.to_le_bytes().to_vec(), "invalid", "4294967295 bytes is longer than"),
        ("two requests at once", [state.clone(), state].concat(), "invalid", "carries one request"),
    ];
    for (what, bytes, kind, why) in cases {
        let mut stream = pod.dial();
        let _ = stream.write_all(&bytes);
        let (got, message) = refusal(stream);
        assert!(got == kind && message.contains(why), "{what}: {got} {message}");
        pod.client.state().unwrap();
    }
}

#[test]
fn descriptors_that_do_not_fit_are_refused_or_do_no_harm() {
    if cannot() {
        return;
    }
    let pod = Pod::new("wrong-fds");
    pod.create_with("web", "while :; do echo x; sleep 0.01; done", |_, create| create.stdin = true);
    pod.client.start("web").unwrap();
    let before = pod.descriptors();
    let ask = |request: Request, fds: &[BorrowedFd<'_>]| {
        let stream = pod.dial();
        let bytes = encode(&Hello { version: VERSION, request });
        assert_eq!(rights::send(stream.as_fd(), &bytes, fds), Ok(bytes.len()));
        stream
    };
    let null = File::open("/dev/null").unwrap();
    let exec =
        |streams| Request::Exec(Box::new(Exec { id: "web".into(), process: exec_process("true", false), streams }));
    let attach = |streams| Request::Attach(Attach { id: "web".into(), streams });
    for sent in [0, 1, 4] {
        let fds = vec![null.as_fd(); sent];
        for request in [exec([true, false, true]), attach([true, false, true])] {
            let (kind, message) = refusal(ask(request, &fds));
            assert_eq!(
                (kind.as_str(), message),
                ("invalid", format!("2 streams were announced and {sent} descriptors came"))
            );
        }
    }
    assert!(matches!(answer(ask(Request::State, &[null.as_fd(); 4])), Some(Reply::State(_))), "they are not wanted");

    // Of kinds that no client has any reason to send.
    let (reader, writer) = std::io::pipe().unwrap();
    let odd: [OwnedFd; 6] = [
        File::open("/").unwrap().into(),
        UnixListener::bind(pod.dir.join("odd.sock")).unwrap().into(),
        gantry_runtime::sys::clone::pidfd_open(pod.monitor()).unwrap(),
        reader.into(),
        writer.into(),
        gantry_runtime::sys::fs::open(c"/dev/null", libc::O_PATH).unwrap(),
    ];
    for fd in &odd {
        for streams in [[true, false, false], [false, true, false], [false, false, true]] {
            let _ = answer(ask(attach(streams), &[fd.as_fd()]));
            let _ = answer(ask(exec(streams), &[fd.as_fd()]));
            pod.client.state().unwrap();
        }
    }
    fs::remove_file(pod.dir.join("odd.sock")).unwrap();
    let now = pod.lines("web").len();
    eventually("the log goes on", || (pod.lines("web").len() > now + 3).then_some(()));
    eventually("no descriptor stays", || (pod.descriptors() <= before).then_some(()));
}

#[test]
fn mangled_messages_harm_nobody() {
    if cannot() {
        return;
    }
    let pod = Pod::new("mangled");
    pod.run("web", "while [ ! -e /tmp/stop ]; do echo x; sleep 0.01; done");
    let before = pod.descriptors();
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    // Some stop in the middle of a long message and stay.
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let mut stream = pod.dial();
        stream.write_all(&(LONGEST as u32).to_le_bytes()).unwrap();
        stream.write_all(&vec![b' '; 1 << 20]).unwrap();
        stuck.push(stream);
    }
    let null = File::open("/dev/null").unwrap();
    let process = exec_process("true", false);
    for turn in 0..400 {
        let request = match random(4) {
            0 => Request::Kill { id: "none".into(), signal: 0, all: false },
            1 => Request::Exec(Box::new(Exec { id: "none".into(), process: process.clone(), streams: [true; 3] })),
            2 => Request::Delete { id: "none".into(), force: false },
            _ => Request::ReopenLog { id: "none".into() },
        };
        let mut bytes = encode(&Hello { version: VERSION, request });
        for _ in 0..random(4) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        bytes.truncate(if random(2) == 0 { bytes.len() } else { 1 + random(bytes.len()) });
        let mut stream = pod.dial();
        // It may have been let go in the middle of what it had to say.
        let _ = rights::send(stream.as_fd(), &bytes[..1], &vec![null.as_fd(); random(5)]);
        let _ = stream.write_all(&bytes[1..]);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Nothing of it was a request that can be fulfilled.
        assert!(matches!(answer(stream), None | Some(Reply::Failed { .. })), "turn {turn}: {bytes:?}");
        if turn % 50 == 0 {
            assert_eq!(pod.client.state().unwrap().containers.len(), 1);
        }
    }
    drop(stuck);
    pod.client.exec("web", &exec_process("touch /tmp/stop", false), Streams::default()).unwrap().wait().unwrap();
    assert_eq!(pod.exit("web").code, 0);
    eventually("no descriptor stays", || (pod.descriptors() <= before).then_some(()));
    let most = pod.most_memory();
    assert!(most < 64 << 10, "{most} KiB");
    println!("the monitor took {most} KiB at most");
}
