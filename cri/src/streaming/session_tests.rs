//! The pump between a session and pipes.

use super::*;
use std::io::{Read as _, Write as _};
use std::time::Instant;
use tokio::io::AsyncReadExt as _;

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

#[test]
fn sizes_are_read_however_they_are_cut() {
    let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Height\":50}";
    for cut in 1..text.len() {
        let mut sizes = Sizes::default();
        let mut read: Vec<_> = text.chunks(cut).flat_map(|piece| sizes.push(piece)).collect();
        assert_eq!(read.pop(), Some(TerminalSize { width: 100, height: 50 }));
        assert_eq!(read.pop(), Some(TerminalSize { width: 80, height: 24 }));
    }
    let mut sizes = Sizes::default();
    for _ in 0..1000 {
        assert!(sizes.push(b"garbage garbage").is_empty());
        assert!(sizes.text.len() <= 1024);
    }
    assert!(sizes.push(b"{\"Width\":-1}").is_empty());
}

#[tokio::test]
async fn input_output_and_code_pass() {
    let (session, ends) = pair(ALL);
    let ((process_in, our_in), (our_out, process_out), (our_err, process_err)) = (pipe(), pipe(), pipe());
    let process = std::thread::spawn(move || {
        let mut said = String::new();
        std::fs::File::from(process_in).read_to_string(&mut said).unwrap();
        write!(std::fs::File::from(process_out), "out {said}").unwrap();
        write!(std::fs::File::from(process_err), "err").unwrap();
        7
    });
    let exit = async move { Ok(tokio::task::spawn_blocking(|| process.join().unwrap()).await.unwrap()) };
    let stdio = Stdio { stdin: Some(our_in), stdout: Some(our_out), stderr: Some(our_err) };
    let pump = tokio::spawn(session.pump(stdio, exit));
    let Ends { stdin, stdout, stderr, .. } = ends;
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"hello").await.unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    stdout.unwrap().read_to_string(&mut out).await.unwrap();
    stderr.unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((&*out, &*err), ("out hello", "err"));
    assert_eq!(pump.await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn an_orphan_that_holds_the_pipe_does_not_hold_the_session() {
    let (session, ends) = pair(Streams { stdout: true, ..Streams::default() });
    let (ours, theirs) = pipe();
    let began = Instant::now();
    let stdio = Stdio { stdout: Some(ours), ..Stdio::default() };
    nix::unistd::write(&theirs, b"last words").unwrap();
    assert_eq!(session.pump(stdio, async { Ok(3) }).await.unwrap(), 3);
    assert!(began.elapsed() < Duration::from_secs(5));
    let mut said = String::new();
    ends.stdout.unwrap().read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "last words");
    drop(theirs);
}

#[tokio::test]
async fn a_slow_client_is_not_taken_for_an_orphan() {
    let (session, ends) = pair(Streams { stdout: true, ..Streams::default() });
    let (ours, theirs) = pipe();
    let size = 1 << 20;
    let writer = std::thread::spawn(move || std::fs::File::from(theirs).write_all(&vec![b'x'; size]).unwrap());
    let stdio = Stdio { stdout: Some(ours), ..Stdio::default() };
    let pump = tokio::spawn(session.pump(stdio, async { Ok(0) }));
    tokio::time::sleep(QUIET + Duration::from_millis(300)).await;
    let mut said = Vec::new();
    ends.stdout.unwrap().read_to_end(&mut said).await.unwrap();
    assert_eq!(said.len(), size);
    assert_eq!(pump.await.unwrap().unwrap(), 0);
    writer.join().unwrap();
}

#[tokio::test]
async fn an_error_before_the_start_is_the_outcome() {
    let (session, _ends) = pair(ALL);
    let failed = session.pump(Stdio::default(), async { Err(crate::error::Error::internal("no sh")) }).await;
    assert_eq!(failed.unwrap_err().to_string(), "no sh");
}

#[tokio::test]
async fn attach_ends_with_the_output_or_without_one_with_the_input() {
    let (session, ends) = pair(Streams { stdin: true, ..Streams::default() });
    let (theirs, ours) = pipe();
    let pump = tokio::spawn(session.pump_output(Stdio { stdin: Some(ours), ..Stdio::default() }));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!pump.is_finished());
    drop(ends);
    pump.await.unwrap().unwrap();
    drop(theirs);

    let (session, _ends) = pair(ALL);
    let (ours, theirs) = pipe();
    let pump = tokio::spawn(session.pump_output(Stdio { stdout: Some(ours), ..Stdio::default() }));
    drop(theirs);
    pump.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_terminal_ends_without_an_error_when_its_last_user_is_gone() {
    let pty = nix::pty::openpty(None, None).unwrap();
    let (session, ends) = pair(Streams { stdin: true, stdout: true, tty: true, ..Streams::default() });
    let stdio = Stdio { stdin: Some(pty.master.try_clone().unwrap()), stdout: Some(pty.master), stderr: None };
    let pump = tokio::spawn(session.pump_output(stdio));
    nix::unistd::write(&pty.slave, b"prompt").unwrap();
    let mut stdout = ends.stdout.unwrap();
    let mut said = [0; 6];
    stdout.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"prompt");
    drop(pty.slave);
    pump.await.unwrap().unwrap();
}

#[test]
fn a_regular_file_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (session, _ends) = pair(ALL);
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let stdio = Stdio { stdout: Some(file.into()), ..Stdio::default() };
        assert!(session.pump_output(stdio).await.unwrap_err().to_string().contains("poll a process' stream"));
    });
}
