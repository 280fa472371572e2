//! Flags of exec that reach beyond the process: sub-cgroups, paused containers, pidfds.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;

use crate::house::{House, house, wait_until};

/// The pid behind a pidfd (fdinfo, `Pid:`).
fn pid_of(pidfd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd as _;

    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

/// What one client sends to this socket: a word and a descriptor.
fn received(listener: &UnixListener) -> (String, OwnedFd) {
    let (stream, _) = listener.accept().unwrap();
    let mut word = [0; 64];
    let (length, fd) = gantry_runtime::sys::socket::receive(stream.as_fd(), &mut word).unwrap();
    (String::from_utf8_lossy(&word[..length]).into_owned(), fd.unwrap())
}

#[test]
fn a_pidfd_is_sent_by_create_run_and_exec() {
    let mut house = house!("pidfd");
    let socket = house.dir.join("pidfd.sock");
    let path = socket.to_str().unwrap().to_owned();
    let listener = UnixListener::bind(&socket).unwrap();
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.write_config();
    let mut create = house.command(&["create", "--pidfd-socket", &path, "c"]);
    assert!(create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let (word, pidfd) = received(&listener);
    assert_eq!((&*word, pid_of(&pidfd)), ("standard", house.pid()));
    house.ok(&["start", "c"]);
    let pid_file = house.dir.join("exec.pid");
    house.write_config();
    let flags = ["exec", "--detach", "--pidfd-socket", &path, "--pid-file", pid_file.to_str().unwrap()];
    let mut exec = house.command(&flags);
    assert!(exec.args(["c", "sleep", "50"]).stdout(Stdio::null()).status().unwrap().success());
    let (word, pidfd) = received(&listener);
    assert_eq!((&*word, pid_of(&pidfd).to_string()), ("setns", fs::read_to_string(&pid_file).unwrap()));
    house.ok(&["delete", "--force", "c"]);
    house.set("/process/args", json!(["/bin/true"]));
    house.ok(&["run", "--pidfd-socket", &path, "c"]);
    assert_eq!(received(&listener).0, "standard");
}

#[test]
fn no_descriptor_of_the_runtime_is_preserved_for_the_callers() {
    let mut house = house!("fds-own");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.write_config();
    let refused = house.call(&["run", "--preserve-fds", "1", "c"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("--preserve-fds 1: descriptor 3 is not open"), "{refused:?}");
    // Not with pipes: the container would hold them open.
    let mut create = house.command(&["create", "c"]);
    assert!(create.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    house.ok(&["start", "c"]);
    let refused = house.call(&["exec", "--preserve-fds", "1", "c", "/bin/true"]);
    assert_eq!(refused.code, 255);
    assert!(refused.err.contains("--preserve-fds 1: descriptor 3 is not open"), "{refused:?}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_pidfd_socket_without_a_listener_ends_the_creation() {
    let house = house!("pidfd-none");
    let said = house.call(&["create", "--pidfd-socket", "/nowhere/sock", "c"]);
    assert_eq!(said.code, 1);
    let what = "create c: connect to the pidfd socket /nowhere/sock: No such file or directory (ENOENT)";
    assert_eq!(said.err, format!("gantry-runtime: error: {what}\n"));
}

/// Makes a cgroup below each of the house's, and removes it again.
struct Sub(Vec<PathBuf>);

impl Sub {
    fn new(house: &House, name: &str) -> Sub {
        let dirs: Vec<PathBuf> = house.cgroups().into_iter().map(|dir| dir.join(name)).collect();
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
            // v1: nobody can enter a cpuset that has neither CPUs nor memory nodes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let _ = fs::read(dir.join("..").join(file)).and_then(|above| fs::write(dir.join(file), above));
            }
        }
        Sub(dirs)
    }
}

/// The paths in the lines of a process's own cgroup file, by tree.
fn own(text: &str) -> Vec<(&str, &str)> {
    text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')).collect()
}

#[test]
fn exec_runs_in_an_existing_cgroup_below() {
    let mut house = house!("sub-cgroup");
    // Without a cgroup namespace the container sees whole paths.
    house.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|space| space["type"] != "cgroup");
    house.sleeping();
    let sub = Sub::new(&house, "sub");
    let (home, below) = (house.cgroup.clone(), format!("{}/sub", house.cgroup));
    let out = house.ok(&["exec", "--cgroup", "/sub", "c", "cat", "/proc/self/cgroup"]);
    let ours: Vec<_> = own(&out).into_iter().filter(|(_, path)| path.starts_with(&home)).collect();
    assert!(!ours.is_empty() && ours.iter().all(|(_, path)| *path == below), "{out}");
    let out = house.ok(&["exec", "--cgroup", "/", "c", "cat", "/proc/self/cgroup"]);
    assert!(own(&out).iter().all(|(_, path)| *path != below), "{out}");
    let v1 = out.lines().any(|line| line.split(':').nth(1) == Some("memory"));
    if v1 {
        let out =
            house.ok(&["exec", "--cgroup", "memory,pids:sub", "--cgroup=devices:sub", "c", "cat", "/proc/self/cgroup"]);
        for (tree, path) in own(&out).into_iter().filter(|(_, path)| path.starts_with(&home)) {
            let named = ["memory", "pids", "devices"].contains(&tree);
            assert_eq!(path, if named { &below } else { &home }, "{out}");
        }
    } else {
        eprintln!("SKIPPED exec --cgroup CONTROLLER:PATH: needs cgroup v1");
        let said = house.call(&["exec", "--cgroup", "memory:sub", "c", "true"]);
        assert!(said.err.contains("this host has no v1 controller memory"), "{said:?}");
    }
    for (flag, why) in
        [("nothing", "No such file"), ("../sub", "must not contain .."), ("frob:sub", "no v1 controller")]
    {
        let said = house.call(&["exec", "--cgroup", flag, "c", "true"]);
        assert!(said.code == 255 && said.err.contains(why), "{said:?}");
    }
    drop(sub);
    house.ok(&["delete", "--force", "c"]);
}

impl Drop for Sub {
    fn drop(&mut self) {
        self.0.iter().for_each(|dir| drop(fs::remove_dir(dir)));
    }
}

#[test]
fn exec_in_a_paused_container_waits_only_if_told_to() {
    let mut house = house!("ignore-paused");
    house.sleeping();
    house.ok(&["pause", "c"]);
    let said = house.call(&["exec", "c", "true"]);
    assert!(said.code == 255 && said.err.contains("cannot exec in a paused container; --ignore-paused"), "{said:?}");
    house.write_config();
    let mut command = house.command(&["exec", "--ignore-paused", "c", "sh", "-c", "exit 9"]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    wait_until("there are two processes", || {
        serde_json::from_str::<Vec<i32>>(&house.ok(&["ps", "-f", "json", "c"])).unwrap().len() == 2
    });
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    house.ok(&["resume", "c"]);
    assert_eq!(child.wait().unwrap().code(), Some(9));
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_console_socket_is_for_a_detached_terminal_only() {
    let mut house = house!("exec-console");
    house.sleeping();
    for flags in [&["--console-socket", "/x"][..], &["-t", "--console-socket", "/x"], &["-d", "--console-socket", "/x"]]
    {
        let said = house.call(&[&["exec"], flags, &["c", "true"]].concat());
        assert!(said.code == 255 && said.err.contains("--console-socket: only for a detached terminal"), "{said:?}");
    }
    let said = house.call(&["exec", "-t", "-d", "c", "true"]);
    assert!(said.code == 255 && said.err.contains("needs --console-socket"), "{said:?}");
    house.ok(&["delete", "--force", "c"]);
}
