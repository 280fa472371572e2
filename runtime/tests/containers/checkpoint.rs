//! Processes to files and back. Where criu cannot work (see `criu check`) the refusals alone are tested.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::house::{House, house, said, wait_until};

/// Ends a test early, loudly, where criu is missing or cannot work on this kernel.
macro_rules! criu {
    ($name:expr) => {{
        let house = house!($name);
        if let Err(why) = criu_works() {
            eprintln!("SKIPPED {}: {why}", $name);
            return;
        }
        house
    }};
}

pub(crate) fn criu_works() -> Result<(), String> {
    let checked = Command::new("criu").arg("check").output().map_err(|why| format!("criu (Debian: criu): {why}"))?;
    match checked.status.success() {
        true => Ok(()),
        false => Err(format!("criu cannot work here: {}", String::from_utf8_lossy(&checked.stderr).trim())),
    }
}

/// A container that counts into a file of its rootfs, ten times a second.
fn counting(house: &mut House) {
    house.script("n=0; while :; do n=$((n+1)); echo $n > /tmp/count.new; /bin/busybox mv /tmp/count.new /tmp/count; sleep 0.1; done");
    house.set("/root/readonly", json!(false));
    house.write_config();
    let mut command = house.command(&["run", "--detach", "c"]);
    let ran = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(ran.success());
    let before = count(house);
    wait_until("it counts", || count(house) > before + 2);
}

fn count(house: &House) -> u64 {
    fs::read_to_string(house.rootfs().join("tmp/count")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn restore(house: &House, images: &Path, more: &[&str]) {
    house.write_config();
    let mut command = house.command(&["restore", "--detach", "--image-path", images.to_str().unwrap()]);
    let log = fs::File::create(house.dir.join("restore.err")).unwrap();
    let done = command.args(more).arg("c").stdout(Stdio::null()).stderr(log).status().unwrap();
    let said = fs::read_to_string(house.dir.join("restore.err")).unwrap();
    assert!(done.success(), "{said}");
    // The fixture asks for no_new_privs: either it is there, or its absence is told, once.
    let status = fs::read_to_string(format!("/proc/{}/status", house.pid())).unwrap();
    let has = status.lines().any(|line| line == "NoNewPrivs:\t1");
    assert_eq!(said.matches("warning: process.noNewPrivileges is set").count(), usize::from(!has), "{said}");
}

#[test]
fn a_count_goes_on_after_its_restore() {
    let mut house = criu!("ck-count");
    house.set("/linux/resources/pids", json!({ "limit": 40 }));
    counting(&mut house);
    let (images, work) = (house.dir.join("images"), house.dir.join("work"));
    let flags = ["--image-path", images.to_str().unwrap(), "--work-path", work.to_str().unwrap()];
    house.ok(&[&["checkpoint"], &flags[..], &["c"]].concat());
    assert!(work.join("dump.log").exists() && !images.join("dump.log").exists());
    assert!(house.call(&["state", "c"]).err.contains("does not exist"), "it has ended and is gone");
    assert_eq!(house.cgroups(), Vec::<std::path::PathBuf>::new());
    let saved = count(&house);

    let pid_file = house.dir.join("pid");
    restore(&house, &images, &["--work-path", work.to_str().unwrap(), "--pid-file", pid_file.to_str().unwrap()]);
    assert_eq!(house.status(), "running");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), house.pid().to_string());
    wait_until("it counts on", || count(&house) > saved + 2);
    assert!(count(&house) < saved + 1000, "it did not begin again, nor jump");
    assert!(house.ok(&["exec", "c", "cat", "/proc/1/cmdline"]).contains("while"), "exec enters what was restored");
    let pids: Value = serde_json::from_str(&house.ok(&["ps", "--format", "json", "c"])).unwrap();
    assert!(pids.as_array().unwrap().contains(&json!(house.pid())), "it is in its cgroup: {pids}");
    house.ok(&["pause", "c"]);
    house.ok(&["resume", "c"]);
    // And once more, under the same name.
    let again = house.dir.join("again");
    house.ok(&["checkpoint", "--image-path", again.to_str().unwrap(), "c"]);
    restore(&house, &again, &[]);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn one_that_is_left_running_runs_on() {
    let mut house = criu!("ck-leave");
    counting(&mut house);
    let images = house.dir.join("images");
    house.ok(&["checkpoint", "--leave-running", "--image-path", images.to_str().unwrap(), "c"]);
    let then = count(&house);
    assert_eq!(house.status(), "running");
    wait_until("it counts on", || count(&house) > then + 2);
    house.ok(&["delete", "--force", "c"]);
    restore(&house, &images, &[]);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn memory_is_saved_in_two_steps() {
    let mut house = criu!("ck-pre");
    counting(&mut house);
    let (before, images) = (house.dir.join("before"), house.dir.join("images"));
    house.ok(&["checkpoint", "--pre-dump", "--image-path", before.to_str().unwrap(), "c"]);
    assert_eq!(house.status(), "running");
    fs::create_dir(&images).unwrap();
    for (parent, why) in [("/tmp", "relative"), ("../nowhere", "No such file")] {
        let said = house.call(&["checkpoint", "--parent-path", parent, "--image-path", images.to_str().unwrap(), "c"]);
        assert!(said.code == 1 && said.err.contains(why), "{said:?}");
    }
    house.ok(&["checkpoint", "--parent-path", "../before", "--image-path", images.to_str().unwrap(), "c"]);
    assert_eq!(fs::read_link(images.join("parent")).unwrap(), Path::new("../before"));
    let saved = count(&house);
    restore(&house, &images, &[]);
    wait_until("it counts on", || count(&house) > saved + 2);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn mounts_pipes_hooks_and_a_network_namespace_come_back() {
    let mut house = criu!("ck-mounts");
    let (volume, log) = (house.dir.join("volume"), house.dir.join("hooks.log"));
    fs::create_dir(&volume).unwrap();
    let hook =
        |name: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >> {}", log.display())] }]);
    house.set("/hooks", json!({ "createRuntime": hook("createRuntime"), "poststop": hook("poststop") }));
    std::os::unix::fs::symlink("/real", house.rootfs().join("conf")).unwrap();
    fs::create_dir(house.rootfs().join("real")).unwrap();
    let source = volume.to_str().unwrap();
    house.push("/mounts", json!({ "destination": "/conf", "source": source, "type": "bind", "options": ["rbind"] }));
    house.script("echo born; n=0; while read line; do n=$((n+1)); echo $n $line; echo $n > /conf/n; done");
    house.write_config();
    let (mut first, mut second) = (house.dir.join("out1"), house.dir.join("out2"));
    let run = |house: &House, args: &[&str], out: &mut std::path::PathBuf| {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut cat = Command::new("cat").stdin(reader).stdout(fs::File::create(out).unwrap()).spawn().unwrap();
        let (theirs, ours) = std::io::pipe().unwrap();
        let mut command = house.command(args);
        let error = fs::File::create(house.dir.join("err")).unwrap();
        // Standard error is a file of the host: the container has no mount of it.
        let done = command.arg("c").stdin(theirs).stdout(writer).stderr(error).status().unwrap();
        drop(command);
        assert!(done.success(), "{}", fs::read_to_string(house.dir.join("err")).unwrap());
        (ours, move || cat.wait().unwrap())
    };
    let (mut input, mut end) = run(&house, &["run", "--detach"], &mut first);
    std::io::Write::write_all(&mut input, b"one\n").unwrap();
    wait_until("it read", || fs::read_to_string(volume.join("n")).is_ok_and(|text| text == "1\n"));
    let images = house.dir.join("images");
    house.ok(&["checkpoint", "--image-path", images.to_str().unwrap(), "c"]);
    drop(input);
    end();
    let args = ["restore", "--detach", "--image-path", images.to_str().unwrap()];
    let (mut input, mut end) = run(&house, &args, &mut second);
    std::io::Write::write_all(&mut input, b"two\n").unwrap();
    wait_until("it read", || fs::read_to_string(volume.join("n")).is_ok_and(|text| text == "2\n"));
    drop(input);
    wait_until("its end", || house.status() == "stopped");
    end();
    house.ok(&["delete", "c"]);
    assert_eq!(fs::read_to_string(&first).unwrap(), "born\n1 one\n");
    assert_eq!(fs::read_to_string(&second).unwrap(), "2 two\n");
    assert_eq!(fs::read_to_string(&log).unwrap(), "createRuntime\npoststop\ncreateRuntime\npoststop\n");
}

#[test]
fn a_restore_in_the_foreground_ends_with_the_code_of_the_container() {
    let mut house = criu!("ck-foreground");
    house.script("trap 'exit 7' TERM; echo ready > /tmp/ready; while :; do sleep 0.1; done");
    house.set("/root/readonly", json!(false));
    house.write_config();
    let mut command = house.command(&["run", "--detach", "c"]);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    wait_until("ready", || house.rootfs().join("tmp/ready").exists());
    let images = house.dir.join("images");
    house.ok(&["checkpoint", "--image-path", images.to_str().unwrap(), "c"]);
    let mut command = house.command(&["restore", "--image-path", images.to_str().unwrap(), "c"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("running", || {
        said(house.command(&["state", "c"]).output().unwrap()).out.contains("\"status\": \"running\"")
    });
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert!(house.call(&["state", "c"]).err.contains("does not exist"));
}

#[test]
fn a_restore_gets_no_more_than_the_specification_gives() {
    let mut house = criu!("ck-audit");
    counting(&mut house);
    let images = house.dir.join("images");
    house.ok(&["checkpoint", "--image-path", images.to_str().unwrap(), "c"]);
    house.set("/process/capabilities", json!({ "bounding": [], "effective": [], "permitted": [] }));
    house.write_config();
    let saved = count(&house);
    let work = house.dir.join("work");
    for (more, dir) in [(&[][..], &images), (&["--work-path", work.to_str().unwrap()], &work)] {
        let mut command = house.command(&["restore", "--detach", "--image-path", images.to_str().unwrap()]);
        let said = said(command.args(more).arg("c").output().unwrap());
        assert!(said.code == 1 && said.err.contains("too much"), "{said:?}");
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> = names.filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty(), "criu's mounts are left: {left:?}");
    }
    assert!(house.call(&["state", "c"]).err.contains("does not exist"));
    assert_eq!(count(&house), saved, "not one instruction ran");
}

#[test]
fn hostile_images_are_refused_before_criu_sees_them() {
    let house = house!("ck-hostile");
    let images = house.dir.join("images");
    let refused = |what: &str| {
        house.write_config();
        let said = said(house.command(&["restore", "--image-path", images.to_str().unwrap(), "c"]).output().unwrap());
        assert!(said.code == 1 && said.err.contains(what), "{what}: {said:?}");
        assert!(!house.dir.join("state/c").exists());
    };
    refused("No such file or directory");
    fs::create_dir(&images).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", images.join("pages-1.img")).unwrap();
    refused("pages-1.img: is a symbolic link");
    fs::remove_file(images.join("pages-1.img")).unwrap();
    std::os::unix::fs::symlink("../../../etc", images.join("parent")).unwrap();
    refused("leads out of the directory of the images");
    fs::remove_file(images.join("parent")).unwrap();
    nix::unistd::mkfifo(&images.join("core-1.img"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("core-1.img: is no regular file");
}

#[test]
fn where_criu_is_missing_or_cannot_work_it_says_so() {
    let mut house = house!("ck-missing");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    assert_eq!(house.create().code, 0);
    let images = house.dir.join("images");
    let call = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry-runtime"));
        command.arg("--root").arg(house.dir.join("state")).args(flags);
        said(command.args(["checkpoint", "--image-path", images.to_str().unwrap(), "c"]).output().unwrap())
    };
    assert!(call(&[]).err.contains("cannot checkpoint a created container"));
    house.ok(&["start", "c"]);
    let missing = call(&["--criu", "no-such-criu"]);
    assert!(missing.code == 1 && missing.err.contains("no-such-criu is not in $PATH"), "{missing:?}");
    let other = call(&["--criu", "/bin/true"]);
    assert!(other.code == 1 && other.err.contains("criu ended with"), "{other:?}");
    let nothing = call(&["--criu", "/nowhere/criu"]);
    assert!(nothing.err.contains("execute criu: No such file or directory"), "{nothing:?}");
    if Command::new("criu").arg("--version").output().is_ok() && criu_works().is_err() {
        let unable = call(&[]);
        assert!(unable.code == 1 && unable.err.contains("criu cannot work on this kernel"), "{unable:?}");
    }
    assert_eq!(house.status(), "running", "nothing has happened to it");
    house.ok(&["delete", "--force", "c"]);
}
