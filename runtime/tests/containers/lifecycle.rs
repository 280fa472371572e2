//! From create to delete, by every road.

use std::fs;
use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::house::{house, said, wait_until};

#[test]
fn the_whole_road() {
    let mut house = house!("road");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.set("/annotations", json!({}));
    assert_eq!(house.create().code, 0);
    assert_eq!(house.status(), "created");
    assert_eq!(house.create().code, 1, "the name is taken");
    assert!(house.ok(&["exec", "c", "cat", "/proc/self/cgroup"]).contains(":/\n"), "exec before start works");
    house.ok(&["start", "c"]);
    assert_eq!(house.status(), "running");
    assert_eq!(house.call(&["start", "c"]).err, "gantry-runtime: error: start c: cannot start a running container\n");
    assert_eq!(
        house.call(&["delete", "c"]).err,
        "gantry-runtime: error: delete c: cannot delete a running container\n"
    );
    house.ok(&["pause", "c"]);
    assert_eq!(house.status(), "paused");
    house.ok(&["resume", "c"]);
    let rows: Value = serde_json::from_str(&house.ok(&["list", "--format", "json"])).unwrap();
    assert_eq!(
        (rows[0]["id"].as_str(), rows[0]["status"].as_str(), rows[0]["owner"].as_str()),
        (Some("c"), Some("running"), Some("root"))
    );
    assert_eq!(house.ok(&["list", "-q"]), "c\n");
    let pids: Value = serde_json::from_str(&house.ok(&["ps", "--format", "json", "c"])).unwrap();
    assert_eq!(pids, json!([house.pid()]));
    house.ok(&["kill", "c", "KILL"]);
    wait_until("stopped", || house.status() == "stopped");
    assert_eq!(house.pid(), 0);
    assert!(house.call(&["kill", "c"]).err.contains("container not running"), "containerd looks for it");
    house.ok(&["delete", "c"]);
    assert_eq!(house.call(&["state", "c"]).err, "gantry-runtime: error: state of c: container c does not exist\n");
    assert_eq!(house.call(&["delete", "c"]).code, 1);
    assert_eq!(house.call(&["delete", "--force", "c"]).code, 0);
}

#[test]
fn a_delete_right_behind_a_kill_finds_nothing_to_complain_about() {
    let mut house = house!("kill-delete");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    for _ in 0..10 {
        assert_eq!(house.create().code, 0);
        house.ok(&["start", "c"]);
        house.ok(&["kill", "c", "KILL"]);
        house.ok(&["delete", "c"]);
    }
}

#[test]
fn exit_codes_and_signals() {
    let mut house = house!("codes");
    let garbage = house.rootfs().join("bin/garbage");
    fs::write(&garbage, [0x7f; 64]).unwrap();
    fs::set_permissions(&garbage, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$; exit 9", 9)] {
        // Pid 1 does not get signals that it has no handler for, not even from itself.
        house.script(if script.starts_with("kill -9") { "sh -c 'kill -9 $$'; exit $?" } else { script });
        assert_eq!(house.run().code, code, "{script}");
    }
    for (program, code, what) in [
        ("nothing-there", 1, "exec: \"nothing-there\": executable file not found in $PATH"),
        ("/etc", 1, "execute /etc: Permission denied (EACCES)"),
        ("garbage", 1, "execute garbage: Exec format error (ENOEXEC)"),
    ] {
        house.set("/process/args", json!([program]));
        let said = house.run();
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.err.contains(what), "{said:?}");
    }
}

#[test]
fn exit_codes_of_exec() {
    let mut house = house!("exec-codes");
    house.sleeping();
    assert_eq!(house.call(&["exec", "c", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(house.call(&["exec", "c", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(house.call(&["exec", "c", "nothing-there"]).code, 255, "as runc, unlike a shell");
    assert_eq!(house.call(&["exec", "nobody", "true"]).code, 255);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn run_passes_signals_on() {
    let mut house = house!("signals");
    house.script("trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done");
    house.write_config();
    let mut child = house.command(&["run", "c"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn sockets_of_systemd_reach_the_program_as_its_own() {
    let mut house = house!("listen");
    house.script("echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd");
    house.write_config();
    let file = fs::File::open("/dev/null").unwrap();
    // Two descriptors from 3 on, and the number of the process that they are meant for.
    let script = "exec 3</dev/null 4</dev/null; export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let run = house.command(&["run", "c"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script]).arg(run.get_program()).args(run.get_args()).current_dir(house.dir.join("bundle"));
    let heard = said(shell.stdin(file).output().unwrap());
    assert!(heard.code == 0 && heard.out.starts_with("2 1\n0\n1\n2\n3\n4\n"), "{heard:?}");
    let other = script.replace("$$", "1");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &other]).arg(run.get_program()).args(run.get_args()).current_dir(house.dir.join("bundle"));
    let heard = said(shell.output().unwrap());
    assert!(heard.code == 0 && heard.out.starts_with("\n0\n1\n2\n3\n") && !heard.out.contains('4'), "{heard:?}");
}

#[test]
fn a_reader_who_has_gone_and_a_full_disk_make_nobody_panic() {
    let house = house!("output");
    for call in [&["features"][..], &["--help"], &["completion", "bash"], &["--version"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let said = said(house.command(call).stdout(full).output().unwrap());
        let what = "gantry-runtime: error: write to standard output: No space left on device (ENOSPC)\n";
        assert_eq!((said.code, &*said.err), (1, what), "{call:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = crate::house::said(house.command(call).stdout(writer).output().unwrap());
        assert_eq!((said.code, &*said.err), (0, ""), "{call:?}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(house.command(&["state", "nobody"]).stderr(writer).status().unwrap().code(), Some(1));
}

#[test]
fn a_list_below_a_directory_that_was_named_and_is_not_there() {
    let house = house!("list-none");
    let said = house.call(&["--root", "/nowhere/at/all", "list"]);
    assert_eq!((said.code, &*said.err), (1, "gantry-runtime: error: --root: /nowhere/at/all is not a directory\n"));
}

#[test]
fn exec_joins_every_namespace() {
    let mut house = house!("exec-joins");
    house.sleeping();
    let pid = house.pid();
    let out = house.ok(&["exec", "--env", "A=b", "--cwd", "/tmp", "--user", "3:4", "c", "sh", "-c",
        "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done; echo $A; pwd; id -u; id -g; echo $$ > /dev/null"]);
    let mut lines = out.lines();
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let expected = fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(lines.next(), Some(&*expected.to_string_lossy()));
    }
    assert_eq!(lines.collect::<Vec<_>>(), ["b", "/tmp", "3", "4"]);
    let cgroup = house.ok(&["exec", "c", "cat", "/proc/self/cgroup"]);
    assert!(
        cgroup.lines().all(|line| line.ends_with(":/") || line.contains("::/") || !line.contains("gantry")),
        "{cgroup}"
    );
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn exec_of_a_process_file_detached_with_a_pid_file() {
    let mut house = house!("exec-file");
    house.sleeping();
    let mut process = house.config["process"].clone();
    process["args"] = json!(["/bin/sleep", "50"]);
    fs::write(house.dir.join("process.json"), process.to_string()).unwrap();
    let (file, pid_file) = (house.dir.join("process.json"), house.dir.join("pid"));
    house.write_config();
    let mut command = house.command(&["exec", "--detach", "--process", file.to_str().unwrap(), "--pid-file"]);
    let ended = command.arg(&pid_file).arg("c").stdout(std::process::Stdio::null()).status().unwrap();
    assert!(ended.success());
    let pid = fs::read_to_string(pid_file).unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap(), "/bin/sleep\u{0}50\u{0}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_terminal_is_sent_to_the_console_socket() {
    let mut house = house!("console");
    house.set("/process/terminal", json!(true));
    house.script("tty; stat -c %t:%T /dev/console; read line; echo got $line");
    let socket = house.dir.join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(house.call(&["create", "c"]).err.contains("--console-socket"));
    house.ok(&["create", "--console-socket", socket.to_str().unwrap(), "c"]);
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let (_, master) = gantry_runtime::sys::socket::receive(std::os::fd::AsFd::as_fd(&stream), &mut name).unwrap();
    let mut master = fs::File::from(master.unwrap());
    house.ok(&["start", "c"]);
    std::io::Write::write_all(&mut master, b"hello\n").unwrap();
    let mut text = String::new();
    let mut buffer = [0; 256];
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(text.contains("/dev/pts/0\r\n") && text.contains("88:0\r\n") && text.contains("got hello\r\n"), "{text:?}");
    wait_until("stopped", || house.status() == "stopped");
    house.ok(&["delete", "c"]);
}

#[test]
fn a_failing_or_endless_hook_ends_the_creation() {
    let mut house = house!("bad-hooks");
    for (kind, line, why) in [
        ("createRuntime", "echo sorry >&2; exit 3", "exit status: 3: sorry"),
        ("createRuntime", "sleep 30", "not done after 1 s"),
        ("createContainer", "exit 3", "run createContainer hook /bin/sh: it failed"),
        ("createContainer", "sleep 30", "run createContainer hook /bin/sh: not done in time"),
    ] {
        house.set("/hooks", json!({ kind: [{ "path": "/bin/sh", "args": ["sh", "-c", line], "timeout": 1 }] }));
        let said = house.run();
        assert_eq!(said.code, 1);
        assert!(said.err.contains(why), "{said:?}");
    }
}

#[test]
fn a_killed_create_leaves_nothing_that_delete_does_not_find() {
    let mut house = house!("killed");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.set("/linux/resources/pids", json!({ "limit": 50 }));
    house.write_config();
    for step in 0..30 {
        let mut child = house
            .command(&["create", "c"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(step * 400));
        child.kill().unwrap();
        child.wait().unwrap();
        let deleted = said(house.command(&["delete", "--force", "c"]).output().unwrap());
        assert_eq!(deleted.code, 0, "{deleted:?}");
        assert_eq!(house.cgroups(), Vec::<std::path::PathBuf>::new(), "after {step}");
        assert!(!house.dir.join("state/c").exists());
    }
}

#[test]
fn a_create_that_is_killed_in_a_hook_is_visible_and_deletable() {
    let mut house = house!("half");
    house.set("/hooks", json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "2"] }] }));
    house.write_config();
    let mut child = house.command(&["create", "c"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until("half-made", || house.command(&["state", "c"]).output().unwrap().status.success() && house.pid() > 0);
    assert_eq!(house.status(), "creating");
    child.kill().unwrap();
    child.wait().unwrap();
    house.ok(&["list"]);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_failed_create_leaves_nothing_and_names_the_step() {
    let mut house = house!("failed");
    house.push("/mounts", json!({ "destination": "/x", "type": "nosuchfs", "source": "x" }));
    assert_eq!(house.create().err, "gantry-runtime: error: create c: mount nosuchfs on /x: No such device (ENODEV)\n");
    house.set("/process/args", json!([]));
    assert!(house.create().err.contains("config.json: process.args: must not be empty"));
}

#[test]
fn debug_tells_the_steps_to_the_log_or_to_people() {
    let house = house!("debug");
    let log = house.dir.join("log.json");
    house.write_config();
    let mut command = house.command(&["--debug", "--log-format", "json", "--log"]);
    let said = said(command.arg(&log).args(["run", "c"]).output().unwrap());
    assert_eq!((said.code, &*said.err), (0, ""));
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["level"] == "debug" && line["time"].is_string()), "{text}");
    let told: Vec<&str> = lines.iter().map(|line| line["msg"].as_str().unwrap()).collect();
    let at =
        |start: &str| told.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"));
    assert!(at("state of c is in") < at("planned step 0: ") && at("planned step 0: ") < at("cloned process"), "{text}");
    assert!(at("cloned process") < at("the child has closed") && at("the child has closed") < at("removed cgroup"));
    let said = house.call(&["--debug", "run", "c"]);
    assert!(said.code == 0 && said.err.contains("gantry-runtime: debug: cloned process"), "{said:?}");
}

#[test]
fn a_wrong_command_line_goes_to_the_log_too() {
    let house = house!("usage-log");
    let log = house.dir.join("log.json");
    let mut command = house.command(&["--log-format=json", "--log"]);
    assert_eq!(said(command.arg(&log).args(["create", "--frob"]).output().unwrap()).code, 1);
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(line["msg"], "unknown flag --frob of create; gantry-runtime create --help lists them");
}

#[test]
fn errors_go_to_the_log_as_json() {
    let house = house!("log");
    let log = house.dir.join("log.json");
    house.write_config();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gantry-runtime"));
    command.args(["--log-format", "json", "--log"]).arg(&log).arg("--root").arg(house.dir.join("state"));
    command.args(["start", "nobody"]);
    assert_eq!(said(command.output().unwrap()).code, 1);
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(
        (line["level"].as_str(), line["msg"].as_str()),
        (Some("error"), Some("start nobody: container nobody does not exist"))
    );
}
