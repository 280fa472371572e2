//! Processes of a container beside one that the runtime is still setting up: what they must not find in it.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::house::{house, said, wait_until};

/// Every capability that helps to look into other processes.
fn powerful(house: &mut crate::house::House) {
    for set in ["bounding", "effective", "permitted"] {
        for capability in ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"] {
            house.push(&format!("/process/capabilities/{set}"), json!(capability));
        }
    }
}

#[test]
fn a_container_that_waits_holds_nothing_of_the_host() {
    let mut house = house!("waits");
    powerful(&mut house);
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    assert_eq!(house.create().code, 0);
    let pid = house.pid();
    let held: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().unwrap() > 2)
        .map(|entry| fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned())
        .collect();
    let fifo = house.dir.join("state/c/exec.fifo").display().to_string();
    assert!(held.len() == 2 && held.contains(&fifo), "the fifo and a socket: {held:?}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_container_that_waits_is_not_looked_into() {
    let mut house = house!("hidden");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    assert_eq!(house.create().code, 0);
    let said = house.call(&["exec", "c", "sh", "-c", "cat /proc/1/environ; readlink /proc/1/fd/0; cat /proc/1/mem"]);
    assert!(said.out.is_empty() && said.err.contains("Permission denied"), "{said:?}");
    house.ok(&["delete", "--force", "c"]);
}

/// CVE-2024-21626 had a second half: not the working directory but the program named a descriptor.
#[test]
fn a_program_behind_a_descriptor_of_the_runtime_is_not_found() {
    let mut house = house!("program");
    powerful(&mut house);
    // A program on the host that only a way out of the container leads to.
    let marker = house.dir.join("host");
    fs::copy("/bin/busybox", &marker).unwrap();
    let own = std::process::id();
    for number in 3..32 {
        for way in ["1/root", &format!("{own}/root"), "../.."] {
            let path = format!("/proc/self/fd/{number}/{way}{}", marker.display());
            house.set("/process/args", json!([path, "echo", "outside"]));
            let said = house.run();
            assert!(said.code != 0 && said.out.is_empty(), "{path}: {said:?}");
        }
    }
}

#[test]
fn an_exec_waits_until_the_container_is_closed() {
    let mut house = house!("early");
    let marker = house.dir.join("only-on-the-host");
    fs::write(&marker, "").unwrap();
    let (begun, go) = (house.dir.join("begun"), house.dir.join("go"));
    let script = format!(": > {}; while [ ! -e {} ]; do sleep 0.01; done", begun.display(), go.display());
    house.set("/hooks", json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", script] }] }));
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    house.write_config();
    let null = || fs::File::create("/dev/null").unwrap();
    let mut running = house.command(&["run", "--detach", "c"]).stdout(null()).stderr(null()).spawn().unwrap();
    wait_until("the hook runs", || begun.exists());
    // The hook runs before paths are made read-only. Opened, never written.
    let open = "( : >> /proc/sys/kernel/domainname ) 2>/dev/null";
    let test = format!("if [ -e {} ] || {open}; then echo outside; else echo inside; fi", marker.display());
    let mut early = house.command(&["exec", "c", "sh", "-c", &test]);
    let early = early.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // It either waits for what comes now or has gone out already: both are seen below.
    std::thread::sleep(std::time::Duration::from_millis(100));
    fs::write(&go, "").unwrap();
    let early = said(early.wait_with_output().unwrap());
    assert_eq!((early.code, early.out.as_str()), (0, "inside\n"), "{early:?}");
    assert!(running.wait().unwrap().success());
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_pid_file_is_not_written_through_a_link() {
    let mut house = house!("pid-file");
    let (victim, file) = (house.dir.join("victim"), house.dir.join("pid"));
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, house.dir.join("pid.new")).unwrap();
    symlink(&victim, &file).unwrap();
    house.set("/process/args", json!(["/bin/true"]));
    let path = file.display().to_string();
    assert_eq!(house.call(&["run", "--pid-file", &path, "c"]).code, 0);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(fs::read_to_string(&file).unwrap().parse::<i32>().is_ok());
}
