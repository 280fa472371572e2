//! Lives and ends of real containers, of their monitor and of its clients.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use gantry_runtime::Kind;
use gantry_runtime::monitor::protocol::{Create, Event, Status};
use gantry_runtime::monitor::{Client, exit_record};
use serde_json::json;

use crate::pod::{Pod, cannot, eventually};

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
    // By its own name: busybox is what it is called.
    pod.create_with("a", "exec sleep 1000", join);
    pod.client.start("a").unwrap();
    pod.create_with("b", "ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm", join);
    pod.client.start("b").unwrap();
    assert_eq!(pod.exit("b").code, 0);
    let lines = pod.lines("b");
    assert!(lines.contains(&"stdout F pause".to_owned()), "{lines:?}");
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(fds, 0, "it keeps nothing open");
    let status = fs::read_to_string(format!("/proc/{}/status", pod.monitor())).unwrap();
    assert!(status.lines().any(|line| line.starts_with("Threads:\t1")), "{status}");
}

#[test]
fn a_pause_process_is_in_its_cgroup_before_anybody_hears_of_it() {
    if cannot() {
        return;
    }
    let pod = Pod::new("pause-in");
    let (parent, leaf) = (pod.cgroup("p"), pod.cgroup("p/leaf"));
    leaf.create().unwrap();
    // A tree of version 2 takes no process into a cgroup with cgroups below it that have controllers.
    match pod.client.pause(Some(parent.path())) {
        Ok(pid) => {
            eprintln!("SKIPPED in part: no tree of this host refuses a process in the middle");
            assert_eq!(parent.pids().unwrap(), [pid]);
        }
        Err(why) => {
            assert!(why.to_string().contains("the pause process into its cgroup"), "{why}");
            assert_eq!(pod.client.state().unwrap().pause, None);
            let pid = pod.client.pause(Some(leaf.path())).unwrap();
            assert_eq!(leaf.pids().unwrap(), [pid]);
        }
    }
    pod.client.shutdown().unwrap();
    for cgroup in [leaf, parent] {
        cgroup.delete(Duration::from_secs(5)).unwrap();
    }
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
fn garbage_on_the_socket_harms_nobody() {
    if cannot() {
        return;
    }
    let pod = Pod::new("garbage");
    pod.run("web", "sleep 1000");
    let mut state = 5u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let valid = br#"{"version":1,"request":{"exec":{"id":"web","process":{"cwd":"/"},"streams":[true,true,true]}}}"#;
    for turn in 0..200usize {
        let mut socket = std::os::unix::net::UnixStream::connect(pod.dir.join("monitor.sock")).unwrap();
        let mut bytes = valid.to_vec();
        for _ in 0..turn % 5 {
            let at = usize::from(random()) % bytes.len();
            bytes[at] = random();
        }
        let length = if turn % 7 == 0 { u32::from(random()) << 24 } else { bytes.len() as u32 };
        // It may hang up in the middle of what it is sent.
        let _ = socket.write_all(&length.to_le_bytes()).and_then(|()| socket.write_all(&bytes));
    }
    assert_eq!(pod.status("web"), Some(Status::Running));
    let fds = fs::read_dir(format!("/proc/{}/fd", pod.monitor())).unwrap().count();
    assert!(fds < 30, "{fds} descriptors are open");
}

/// What a process holds open, as `/proc` names it.
fn open_files(pid: i32) -> BTreeSet<String> {
    let list = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = list.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

#[test]
fn a_created_container_holds_nothing_of_its_monitor() {
    if cannot() {
        return;
    }
    let pod = Pod::new("held");
    let other = pod.create_with("other", "cat", |_, create| create.stdin = true);
    pod.client.start("other").unwrap();
    let _subscription = pod.client.subscribe().unwrap();
    let monitor = pod.monitor();
    let before = open_files(monitor);
    let kinds = |kind: &str| before.iter().filter(|link| link.contains(kind)).count();
    assert!(kinds("socket:") >= 2 && kinds("pipe:") >= 3 && kinds("monitor.lock") == 1, "{before:?}");
    let waiting = pod.create_with("web", "true", |_, create| create.stdin = true);
    let shared: Vec<String> =
        open_files(waiting).intersection(&before).filter(|link| *link != "/dev/null").cloned().collect();
    assert!(shared.is_empty(), "held of the monitor's: {shared:?}");

    // So a killed monitor's socket is closed, and its other containers' input ends.
    Command::new("kill").args(["-9", &monitor.to_string()]).status().unwrap();
    let refused = || {
        let why = std::os::unix::net::UnixStream::connect(pod.dir.join("monitor.sock")).err()?;
        (why.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    };
    eventually("refused", refused);
    let ended = || match fs::read_to_string(format!("/proc/{other}/stat")) {
        Ok(stat) => stat.contains(") Z ").then_some(()),
        Err(_) => Some(()),
    };
    eventually("end of the input", ended);
    assert!(!open_files(waiting).is_empty(), "the other one waits on");
    for id in ["other", "web"] {
        gantry_runtime::delete(&pod.dir.join("runtime"), id, true).unwrap();
    }
}
