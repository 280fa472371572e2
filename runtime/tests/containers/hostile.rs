//! Attacks that have worked on other runtimes (SECURITY_CASES).

use std::fs;

use serde_json::json;

use crate::house::{house, wait_until};

fn binary_bytes() -> Vec<u8> {
    fs::read(env!("CARGO_BIN_EXE_gantry-runtime")).unwrap()
}

#[test]
fn case_01_the_binary_cannot_be_written_from_the_container() {
    let mut house = house!("case-01");
    let before = binary_bytes();
    for library in [
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/lib/x86_64-linux-gnu/libgcc_s.so.1",
    ] {
        // A static build needs none, and a machine that has only static programs has none.
        if !std::path::Path::new(library).exists() {
            continue;
        }
        let inside = house.rootfs().join(library.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(library, inside).unwrap();
    }
    // The container's program is the runtime itself; a second process of the container tries to write to it.
    for set in ["bounding", "effective", "permitted"] {
        for capability in ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"] {
            house.push(&format!("/process/capabilities/{set}"), json!(capability));
        }
    }
    house.set("/process/args", json!(["/proc/self/exe", "--version"]));
    let ran = house.run();
    assert_eq!(ran.code, 0, "{ran:?}");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    assert_eq!(house.create().code, 0);
    let said = house.call(&["exec", "c", "sh", "-c", "readlink /proc/1/exe; echo evil >> /proc/1/exe"]);
    assert!(said.err.contains("Read-only file system") || said.err.contains("Text file busy"), "{said:?}");
    let said = house.call(&["exec", "c", "sh", "-c", "mount -o remount,rw,bind /proc/1/exe; echo evil >> /proc/1/exe"]);
    assert!(said.code != 0, "{said:?}");
    house.ok(&["delete", "--force", "c"]);
    assert!(binary_bytes() == before, "the binary on the host has changed");
}

#[test]
fn case_02_the_working_directory_stays_inside() {
    let mut house = house!("case-02");
    for number in 0..24 {
        for path in ["/proc/self/fd/", "/proc/thread-self/fd/"] {
            house.set("/process/cwd", json!(format!("{path}{number}")));
            house.script("cat /proc/self/cwd/../../../etc/shadow; echo inside");
            let said = house.run();
            assert!(said.code != 0 && !said.out.contains("inside"), "{path}{number}: {said:?}");
        }
    }
    house.set("/process/cwd", json!("/"));
    house.sleeping();
    for number in 0..24 {
        let cwd = format!("/proc/self/fd/{number}");
        let said = house.call(&["exec", "--cwd", &cwd, "c", "cat", "../../../etc/shadow"]);
        assert!(said.code != 0 && said.out.is_empty(), "{cwd}: {said:?}");
    }
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn case_02_a_link_in_the_rootfs_to_a_descriptor_is_no_way_out() {
    let mut house = house!("case-02-link");
    for number in 3..24 {
        let link = house.rootfs().join("way");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), &link).unwrap();
        house.set("/process/cwd", json!("/way"));
        house.script("echo inside");
        let said = house.run();
        assert!(said.code != 0 && said.out.is_empty(), "{number}: {said:?}");
    }
}

#[test]
fn case_05_fake_devices_in_the_rootfs_are_not_trusted() {
    let mut house = house!("case-05");
    // A container that keeps its rootfs' /dev, with a null device that is none. What it leads to stands for core_pattern,
    // but is the container's own: whatever becomes of the attack, the host keeps its.
    let mounts = house.config["mounts"].as_array().unwrap().clone();
    let kept: Vec<_> = mounts.into_iter().filter(|mount| mount["destination"] == "/proc").collect();
    house.set("/mounts", json!(kept)).set("/linux/readonlyPaths", json!([]));
    let null = house.rootfs().join("dev/null");
    std::os::unix::fs::symlink("/proc/sys/kernel/domainname", &null).unwrap();
    house.script("echo evil > /proc/keys; cat /proc/keys /proc/sys/kernel/domainname; true");
    let said = house.run();
    assert!(said.code != 0 && !said.out.contains("evil"), "{said:?}");
}

#[test]
fn case_03_a_fake_proc_gets_no_writes() {
    let mut house = house!("case-03");
    let mounts = house.config["mounts"].as_array().unwrap().clone();
    let kept: Vec<_> = mounts.into_iter().filter(|mount| mount["destination"] != "/proc").collect();
    house.set("/mounts", json!(kept));
    let fake = house.rootfs().join("proc/sys/kernel");
    fs::create_dir_all(&fake).unwrap();
    fs::write(fake.join("shm_rmid_forced"), "fake").unwrap();
    fs::create_dir_all(house.rootfs().join("proc/self")).unwrap();
    fs::write(house.rootfs().join("proc/self/oom_score_adj"), "fake").unwrap();
    house.set("/linux/sysctl", json!({ "kernel.shm_rmid_forced": "1" })).set("/process/oomScoreAdj", json!(77));
    house.script("cat /proc/sys/kernel/shm_rmid_forced /proc/self/oom_score_adj");
    assert_eq!(house.prints(), "fakefake");
    house.set("/process/args", json!(["/bin/sleep", "60"]));
    assert_eq!(house.create().code, 0);
    let pid = house.pid();
    wait_until("the real score is set", || {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).is_ok_and(|score| score == "77\n")
    });
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn case_08_ids_are_parsed_or_refused() {
    let mut house = house!("case-08");
    house.sleeping();
    for text in ["1:", ":1", "-1", "4294967296", "0x0", "", "web"] {
        let said = house.call(&["exec", "--user", text, "c", "id", "-u"]);
        assert_eq!(said.code, 255, "{text:?}: {said:?}");
    }
    assert_eq!(house.ok(&["exec", "--user", "2147483648", "c", "id", "-u"]), "2147483648\n");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn case_12_state_is_for_root_alone() {
    use std::os::unix::fs::MetadataExt as _;

    let mut house = house!("case-12");
    house.sleeping();
    for dir in ["state", "state/c"] {
        assert_eq!(fs::metadata(house.dir.join(dir)).unwrap().mode() & 0o777, 0o700, "{dir}");
    }
    house.ok(&["delete", "--force", "c"]);
}
