//! Exec and attach with real containers: streams, terminals, clients that are stuck or gone.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use gantry_runtime::Kind;
use gantry_runtime::monitor::Streams;
use gantry_runtime::monitor::protocol::Status;
use serde_json::json;

use crate::pod::{Pod, cannot, eventually, exec_process};

#[test]
fn exec_answers_with_output_and_code() {
    if cannot() {
        return;
    }
    let pod = Pod::new("exec");
    pod.run("web", "echo $$ > /tmp/pid; sleep 1000");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (stdin, mut say) = std::io::pipe().unwrap();
    let streams = Streams { stdin: Some(stdin.as_fd()), stdout: Some(writer.as_fd()), stderr: Some(writer.as_fd()) };
    let running =
        pod.client.exec("web", &exec_process("read x; echo got $x; echo err >&2; exit 5", false), streams).unwrap();
    drop((stdin, writer));
    say.write_all(b"this\n").unwrap();
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(said, "got this\nerr\n");
    assert_eq!(running.wait().unwrap().code, 5);

    let mut running = pod.client.exec("web", &exec_process("sleep 1000", false), Streams::default()).unwrap();
    assert!(running.wait_for(Some(Duration::from_millis(50))).unwrap().is_none());
    running.kill(9).unwrap();
    let exit = running.wait_for(None).unwrap().unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert_eq!(running.kill(9).unwrap_err().kind(), Kind::NotFound);

    let mut none = exec_process("", false);
    none.set_args(Some(vec!["/bin/none".into()]));
    assert_eq!(pod.client.exec("web", &none, Streams::default()).unwrap_err().kind(), Kind::Program);
    assert_eq!(pod.client.exec("none", &none, Streams::default()).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn exec_goes_on_when_its_client_is_gone() {
    if cannot() {
        return;
    }
    let pod = Pod::new("orphan");
    pod.run("web", "while [ ! -e /tmp/done ]; do sleep 0.02; done; echo seen");
    drop(pod.client.exec("web", &exec_process("sleep 0.2; touch /tmp/done", false), Streams::default()).unwrap());
    assert_eq!(pod.exit("web").code, 0);
    assert_eq!(pod.lines("web"), ["stdout F seen"]);
}

#[test]
fn exec_with_a_terminal_gives_its_master_away() {
    if cannot() {
        return;
    }
    let pod = Pod::new("exec-tty");
    pod.run("web", "sleep 1000");
    let mut running =
        pod.client.exec("web", &exec_process("tty; stty size; read x; echo got $x", true), Streams::default()).unwrap();
    let terminal = running.terminal.take().unwrap();
    gantry_runtime::sys::tty::resize(terminal.as_fd(), 33, 77).unwrap();
    let mut terminal = File::from(terminal);
    terminal.write_all(b"typed\n").unwrap();
    let mut said = Vec::new();
    // A terminal ends with EIO.
    let _ = terminal.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("/dev/pts/") && said.contains("got typed\r\n"), "{said}");
    assert_eq!(running.wait().unwrap().code, 0);
}

#[test]
fn a_container_with_a_terminal_is_logged_attached_to_and_resized() {
    if cannot() {
        return;
    }
    let pod = Pod::new("tty");
    pod.create_with("web", "read x; stty size; echo got $x; exit 4", |config, create| {
        config["process"]["terminal"] = json!(true);
        (create.tty, create.stdin) = (true, true);
    });
    pod.client.resize("web", 100, 40).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (stdin, mut say) = std::io::pipe().unwrap();
    let streams = Streams { stdin: Some(stdin.as_fd()), stdout: Some(writer.as_fd()), stderr: None };
    let attached = pod.client.attach("web", streams).unwrap();
    drop((stdin, writer));
    pod.client.start("web").unwrap();
    say.write_all(b"typed\n").unwrap();
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert!(said.ends_with("40 100\r\ngot typed\r\n"), "{said:?}");
    assert_eq!(attached.wait().unwrap(), None);
    assert_eq!(pod.exit("web").code, 4);
    assert!(pod.lines("web").contains(&"stdout F got typed\r".to_owned()), "{:?}", pod.lines("web"));
}

#[test]
fn stdin_once_ends_with_the_first_client() {
    if cannot() {
        return;
    }
    let pod = Pod::new("stdin");
    for (id, once) in [("once", true), ("stays", false)] {
        pod.create_with(id, "cat; echo end", |_, create| (create.stdin, create.stdin_once) = (true, once));
        pod.client.start(id).unwrap();
        let (stdin, mut say) = std::io::pipe().unwrap();
        let streams = Streams { stdin: Some(stdin.as_fd()), ..Streams::default() };
        let attached = pod.client.attach(id, streams).unwrap();
        drop(stdin);
        // More than any buffer on the way.
        let text = "0123456789\n".repeat(30_000);
        say.write_all(text.as_bytes()).unwrap();
        drop(say);
        if once {
            assert_eq!(pod.exit(id).code, 0);
            assert_eq!(attached.wait().unwrap(), None);
        } else {
            eventually("all lines", || (pod.lines(id).len() == 30_000).then_some(()));
            assert_eq!(pod.status(id), Some(Status::Running));
            drop(attached);
            pod.client.close_stdin(id).unwrap();
            assert_eq!(pod.exit(id).code, 0);
        }
        assert_eq!(pod.lines(id).len(), 30_001);
    }
}

#[test]
fn a_stuck_client_does_not_stop_the_container() {
    if cannot() {
        return;
    }
    let pod = Pod::new("stuck");
    pod.create("web", "seq 1 200000; echo done >&2");
    let (_never_read, writer) = std::io::pipe().unwrap();
    let (mut reader, stderr) = std::io::pipe().unwrap();
    let stuck = Streams { stdout: Some(writer.as_fd()), ..Streams::default() };
    let stuck = pod.client.attach("web", stuck).unwrap();
    let other = Streams { stderr: Some(stderr.as_fd()), ..Streams::default() };
    let other = pod.client.attach("web", other).unwrap();
    drop((writer, stderr));
    pod.client.start("web").unwrap();
    assert_eq!(pod.exit("web").code, 0);
    assert_eq!(pod.lines("web").len(), 200_001);
    let reason = stuck.wait().unwrap();
    assert!(reason.as_ref().is_some_and(|reason| reason.contains("behind")), "{reason:?}");
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(said, "done\n");
    assert_eq!(other.wait().unwrap(), None);
}
