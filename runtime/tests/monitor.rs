//! The monitor with real containers: exits, logs, exec, attach, and what is left when something is killed.
//!
//! As root on any cgroup layout; without it every test says loudly that it was skipped.

#[path = "monitor/pod.rs"]
mod pod;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use gantry_runtime::Kind;
use gantry_runtime::monitor::protocol::{Create, Event, Status};
use gantry_runtime::monitor::{Client, Streams, exit_record};
use oci_spec::runtime::Process;
use serde_json::json;

use pod::{Pod, cannot, eventually, process};

fn exec_process(script: &str, terminal: bool) -> Process {
    let mut value = process(script);
    value["terminal"] = json!(terminal);
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_container_lives_and_its_exit_code_is_kept() {
    if cannot() {
        return;
    }
    let pod = Pod::new("life");
    let events = pod.client.subscribe().unwrap();
    let pid = pod.create("web", "echo hello; echo oops >&2; exit 7");
    assert_eq!(pod.status("web"), Some(Status::Created));
    assert!(exit_record(&pod.dir, "web").unwrap().is_none());
    pod.client.start("web").unwrap();
    let exit = pod.exit("web");
    assert_eq!((exit.code, exit.signal, exit.oom), (7, None, false));
    assert!(exit.started_at > 0 && exit.finished_at > exit.started_at);
    assert_eq!(pod.lines("web"), ["stdout F hello", "stderr F oops"]);
    eventually("zombie reaped", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    assert_eq!(pod.status("web"), Some(Status::Exited));
    assert_eq!(pod.client.start("web").unwrap_err().kind(), Kind::WrongState);
    assert_eq!(pod.client.kill("web", 15, false).unwrap_err().kind(), Kind::WrongState);
    pod.client.delete("web", false).unwrap();
    assert_eq!(pod.client.delete("web", false).unwrap_err().kind(), Kind::NotFound);
    let told: Vec<String> = events.take(4).map(|event| event_name(&event.unwrap())).collect();
    assert_eq!(told, ["created web", "started web", "exited web 7", "deleted web"]);
}

fn event_name(event: &Event) -> String {
    match event {
        Event::Created { id } => format!("created {id}"),
        Event::Started { id } => format!("started {id}"),
        Event::Exited { id, exit } => format!("exited {id} {}", exit.code),
        Event::Oom { id } => format!("oom {id}"),
        Event::Deleted { id } => format!("deleted {id}"),
    }
}

#[test]
fn signals_and_wrong_requests() {
    if cannot() {
        return;
    }
    let pod = Pod::new("signals");
    pod.run("web", "trap 'echo term; exit 3' TERM; echo up; while :; do sleep 0.05; done");
    eventually("up", || pod.lines("web").contains(&"stdout F up".to_owned()).then_some(()));
    assert_eq!(pod.client.delete("web", false).unwrap_err().kind(), Kind::WrongState);
    assert_eq!(pod.client.shutdown().unwrap_err().kind(), Kind::WrongState);
    pod.client.kill("web", 15, false).unwrap();
    assert_eq!(pod.exit("web").code, 3);
    pod.run("tough", "trap '' TERM; sleep 1000");
    pod.client.kill("tough", 9, true).unwrap();
    let exit = pod.exit("tough");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    for id in ["none", "", "../etc"] {
        assert_eq!(pod.client.start(id).unwrap_err().kind(), Kind::NotFound, "{id:?}");
    }
    for id in ["", ".", "a/b"] {
        let create = Create { id: id.into(), bundle: pod.dir.clone(), ..Create::default() };
        assert_eq!(pod.client.create(&create).unwrap_err().kind(), Kind::Invalid, "{id:?}");
    }
    let none = Create { id: "x".into(), bundle: pod.dir.join("nowhere"), ..Create::default() };
    assert!(pod.client.create(&none).unwrap_err().to_string().contains("nowhere/config.json"));
}

#[test]
fn a_program_that_is_not_there_is_told_at_start_or_before() {
    if cannot() {
        return;
    }
    let pod = Pod::new("missing");
    let bundle = pod.dir.join("containers/web/bundle");
    fs::create_dir_all(&bundle).unwrap();
    pod.create_with("web", "", |config, _| config["process"]["args"] = json!(["/bin/sh", "-c", "exit 0"]));
    pod.client.delete("web", true).unwrap();
    let text = fs::read_to_string(bundle.join("config.json")).unwrap();
    fs::write(bundle.join("config.json"), text.replace("/bin/sh", "/bin/none")).unwrap();
    let create = Create { id: "web".into(), bundle, ..Create::default() };
    let error = pod.client.create(&create).map(|_| pod.client.start("web")).and_then(|start| start).unwrap_err();
    assert_eq!(error.kind(), Kind::Program, "{error}");
    assert!(error.to_string().contains("/bin/none"), "{error}");
}

#[test]
fn an_oom_kill_is_in_the_record_and_told() {
    if cannot() {
        return;
    }
    let pod = Pod::new("oom");
    let events = pod.client.subscribe().unwrap();
    pod.create_with("web", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done", |config, _| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 16 << 20, "swap": 16 << 20 });
    });
    pod.client.start("web").unwrap();
    let exit = pod.exit("web");
    assert_eq!((exit.code, exit.oom), (137, true));
    let told: Vec<String> = events.take(4).map(|event| event_name(&event.unwrap())).collect();
    assert_eq!(told, ["created web", "started web", "oom web", "exited web 137"]);
}

#[test]
fn log_lines_are_exact() {
    if cannot() {
        return;
    }
    let pod = Pod::new("lines");
    pod.run("web", r"printf 'one\n\ntwo\r\n'; printf '\377\000binary\n'; printf 'no end'");
    pod.exit("web");
    let log = fs::read(pod.log("web")).unwrap();
    let contents: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').map(|line| &line[31..]).collect();
    let expected: [&[u8]; 5] =
        [b"stdout F one\n", b"stdout F \n", b"stdout F two\r\n", b"stdout F \xff\0binary\n", b"stdout P no end\n"];
    assert_eq!(contents, expected);
    let stamp = std::str::from_utf8(&log[..31]).unwrap();
    assert!(stamp.starts_with("20") && stamp.ends_with("Z ") && stamp.as_bytes()[19] == b'.', "{stamp}");

    pod.run("long", "head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo");
    pod.exit("long");
    let shape: Vec<(String, usize)> =
        pod.lines("long").iter().map(|line| (line[..8].to_owned(), line.len() - 9)).collect();
    let part = |tag: &str, length| (format!("stdout {tag}"), length);
    assert_eq!(shape, [part("P", 16384), part("P", 16384), part("F", 40000 - 32768), part("F", 16384)]);
}

#[test]
fn two_hundred_rotations_lose_and_double_nothing() {
    if cannot() {
        return;
    }
    let pod = Pod::new("rotate");
    pod.run("web", "n=0; while [ ! -e /tmp/stop ]; do seq $((n + 1)) $((n + 500)); n=$((n + 500)); done; echo $n");
    for turn in 0..200 {
        fs::rename(pod.log("web"), pod.dir.join(format!("web.log.{turn}"))).unwrap();
        pod.client.reopen_log("web").unwrap();
        std::thread::sleep(Duration::from_millis(3));
    }
    pod.client.exec("web", &exec_process("touch /tmp/stop", false), Streams::default()).unwrap().wait().unwrap();
    assert_eq!(pod.exit("web").code, 0);
    let written: usize = pod.lines("web").last().unwrap()["stdout F ".len()..].parse().unwrap();
    let mut next = 1;
    let mut used = 0;
    let files = (0..200).map(|turn| pod.dir.join(format!("web.log.{turn}"))).chain([pod.log("web")]);
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "whole lines only");
        used += usize::from(!text.is_empty());
        for line in text.lines() {
            let expected = if next > written { written } else { next };
            assert_eq!(&line[31..], format!("stdout F {expected}"));
            next += 1;
        }
    }
    assert_eq!(next, written + 2, "every line, and the last one with their number");
    assert!(used > 100, "the writer wrote into {used} files only");
    println!("{written} lines in {used} files");
}

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

#[test]
fn the_exit_is_recorded_whenever_the_client_is_killed() {
    if cannot() {
        return;
    }
    let pod = Pod::new("client-killed");
    for turn in 0..20u64 {
        let id = format!("web{turn}");
        pod.create(&id, "echo a line; exit 9");
        // A client that is killed in the middle of whatever it does: half a request, no reading of answers.
        let mut socket = std::os::unix::net::UnixStream::connect(pod.dir.join("monitor.sock")).unwrap();
        let request = format!(r#"{{"version":1,"request":{{"start":{{"id":"{id}"}}}}}}"#);
        let mut bytes = (request.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(request.as_bytes());
        let cut = if turn % 2 == 0 { bytes.len() } else { bytes.len() - turn as usize };
        socket.write_all(&bytes[..cut]).unwrap();
        drop(socket);
        if cut < bytes.len() {
            pod.client.start(&id).unwrap();
        }
        assert_eq!(pod.exit(&id).code, 9, "{id}");
        assert_eq!(pod.lines(&id), ["stdout F a line"]);
    }
}

#[test]
fn records_outlive_a_killed_monitor() {
    if cannot() {
        return;
    }
    let pod = Pod::new("monitor-killed");
    pod.run("first", "exit 6");
    assert_eq!(pod.exit("first").code, 6);
    pod.run("second", "sleep 1000");
    let pid = pod.monitor();
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    eventually("no answer", || Client::connect(&pod.dir).is_err().then_some(()));
    assert_eq!(Client::connect(&pod.dir).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(exit_record(&pod.dir, "first").unwrap().unwrap().code, 6);
    assert_eq!(exit_record(&pod.dir, "second").unwrap(), None, "it runs on, and no code is made up");
    // The daemon cleans up by the runtime's own state.
    gantry_runtime::delete(&pod.dir.join("runtime"), "first", true).unwrap();
    gantry_runtime::delete(&pod.dir.join("runtime"), "second", true).unwrap();
}

#[test]
fn several_containers_at_once_and_several_clients() {
    if cannot() {
        return;
    }
    let pod = Pod::new("several");
    std::thread::scope(|scope| {
        for number in 0..6 {
            let pod = &pod;
            scope.spawn(move || {
                let id = format!("c{number}");
                pod.run(&id, &format!("seq 1 5000; exit {number}"));
                assert_eq!(pod.exit(&id).code, number);
                assert_eq!(pod.lines(&id).len(), 5000);
            });
        }
    });
    assert_eq!(pod.client.state().unwrap().containers.len(), 6);
}

#[test]
fn a_pause_process_holds_a_shared_pid_namespace() {
    if cannot() {
        return;
    }
    let pod = Pod::new("pause");
    let pid = pod.client.pause(None).unwrap();
    assert_eq!(pod.client.pause(None).unwrap(), pid, "one is enough");
    assert_eq!(pod.client.state().unwrap().pause, Some(pid));
    let space = format!("/proc/{pid}/ns/pid");
    let join = |config: &mut serde_json::Value, _: &mut Create| {
        config["linux"]["namespaces"][0] = json!({ "type": "pid", "path": space });
    };
    pod.create_with("a", "exec -a marker sleep 1000", join);
    pod.client.start("a").unwrap();
    pod.create_with("b", "ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm", join);
    pod.client.start("b").unwrap();
    assert_eq!(pod.exit("b").code, 0);
    let lines = pod.lines("b");
    assert_eq!(lines[1], "stdout F pause", "{lines:?}");
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(fds, 0, "it keeps nothing open");
    let status = fs::read_to_string(format!("/proc/{}/status", pod.monitor())).unwrap();
    assert!(status.lines().any(|line| line.starts_with("Threads:\t1")), "{status}");
}

#[test]
fn what_a_container_leaves_behind_in_a_shared_pid_namespace_ends_with_it() {
    if cannot() {
        return;
    }
    let pod = Pod::new("left");
    let pid = pod.client.pause(None).unwrap();
    pod.create_with("web", "sleep 1000 & echo $! >&2; exit 2", |config, _| {
        config["linux"]["namespaces"][0] = json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") });
    });
    pod.client.start("web").unwrap();
    assert_eq!(pod.exit("web").code, 2);
    let cgroup = pod.cgroup("web");
    eventually("all gone", || cgroup.pids().unwrap().is_empty().then_some(()));
}

#[test]
fn an_idle_monitor_is_small() {
    if cannot() {
        return;
    }
    let pod = Pod::new("memory");
    pod.run("web", "seq 1 100000; sleep 1000");
    eventually("log", || (pod.lines("web").len() == 100_000).then_some(()));
    // The buffers go back a second after the last output.
    std::thread::sleep(Duration::from_millis(1300));
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.monitor())).unwrap();
    let of = |key: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    println!(
        "monitor with a container: {} KiB anonymous, {} KiB private, {} KiB PSS, {} KiB RSS",
        of("Anonymous:"),
        of("Private_Clean:") + of("Private_Dirty:"),
        of("Pss:"),
        of("Rss:")
    );
    // The program's own pages are shared by all pods, and much larger when it is built for tests.
    assert!(of("Anonymous:") < 1200, "{text}");
}

#[test]
fn a_second_monitor_is_refused_and_a_new_one_takes_a_dead_ones_place() {
    if cannot() {
        return;
    }
    let pod = Pod::new("second");
    let binary = env!("CARGO_BIN_EXE_gantry-runtime");
    let again = Command::new(binary).arg("monitor").arg("--dir").arg(&pod.dir).output().unwrap();
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("lives in"), "{again:?}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(pod.dir.join("monitor.sock")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    Command::new("kill").args(["-9", &pod.monitor().to_string()]).status().unwrap();
    eventually("dead", || Client::connect(&pod.dir).is_err().then_some(()));
    let new = Command::new(binary).arg("monitor").arg("--dir").arg(&pod.dir).output().unwrap();
    assert!(new.status.success(), "{new:?}");
    assert!(pod.client.state().unwrap().containers.is_empty());
}

#[test]
fn the_log_keeps_up() {
    if cannot() {
        return;
    }
    let pod = Pod::new("speed");
    const LINES: usize = 1_000_000;
    let line = "x".repeat(79);
    let began = Instant::now();
    pod.run("web", &format!("yes {line} | head -n {LINES}"));
    let until = Instant::now() + Duration::from_secs(60);
    while exit_record(&pod.dir, "web").unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed().as_secs_f64();
    let size = fs::metadata(pod.log("web")).unwrap().len();
    assert_eq!(size, LINES as u64 * 120, "not one line is missing");
    println!("{:.0} lines/s, {:.0} MB/s of log", LINES as f64 / took, size as f64 / took / 1e6);
}

/// One write a line, as programs do that flush every line: the worst that a log can get.
#[test]
fn lines_that_come_one_by_one_are_gathered() {
    if cannot() {
        return;
    }
    let pod = Pod::new("single");
    const LINES: usize = 200_000;
    let began = Instant::now();
    let line = "x".repeat(79);
    pod.run("web", &format!("n=0; while [ $n -lt {LINES} ]; do echo {line}; n=$((n + 1)); done"));
    assert_eq!(pod.exit("web").code, 0);
    let took = began.elapsed().as_secs_f64();
    assert_eq!(fs::metadata(pod.log("web")).unwrap().len(), LINES as u64 * 120);
    let stat = fs::read_to_string(format!("/proc/{}/stat", pod.monitor())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let micros = ticks as f64 * 10_000.0 / LINES as f64;
    println!("{:.0} single lines/s at {micros:.2} us of CPU a line", LINES as f64 / took);
    assert!(micros < 10.0, "{micros} us of CPU a line");
}
