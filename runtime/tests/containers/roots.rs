//! The root of a container: with and without a mount namespace and pivot_root, what of it leaks, what of it is hidden.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{Value, json};

use crate::house::{House, Said, house, said};

fn mount_table() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Other tests come and go.
    text.lines().filter(|line| !line.contains("gantry")).map(str::to_owned).collect()
}

fn in_a_table_of_its_own(house: &House, propagation: &str, line: &str) -> Said {
    house.write_config();
    let runtime = format!("{} --root {}", env!("CARGO_BIN_EXE_gantry-runtime"), house.dir.join("state").display());
    let line = line.replace("RUNTIME", &runtime);
    let mut unshare = Command::new("unshare");
    let args = ["-m", "--propagation", propagation, "sh", "-c", &line];
    said(unshare.args(args).current_dir(house.dir.join("bundle")).output().unwrap())
}

fn without_mount_namespace(house: &mut House) {
    let spaces = house.config["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.retain(|space| space["type"] != "mount");
    let linux = house.config["linux"].as_object_mut().unwrap();
    linux.remove("maskedPaths");
    linux.remove("readonlyPaths");
}

#[test]
fn without_a_mount_namespace_it_is_confined_and_leaves_nothing_mounted() {
    let mut house = house!("no-mount-ns");
    without_mount_namespace(&mut house);
    house.push("/mounts", json!({ "destination": "/t", "type": "tmpfs", "source": "t" }));
    let line = "before=$(readlink /proc/self/ns/mnt); mount > ../before; RUNTIME run c && \
                RUNTIME create c >/dev/null && RUNTIME start c && RUNTIME exec c ls / && \
                test -n \"$(grep bundle/rootfs/t /proc/mounts)\" && RUNTIME delete -f c; \
                mount > ../after; cmp ../before ../after && echo same $before";
    house.script(
        "test -d /t && ls / && readlink /proc/self/ns/mnt; echo > /file; sleep 0.1; test $$ = 1 && exec sleep 2",
    );
    let said = in_a_table_of_its_own(&house, "private", line);
    let lines: Vec<&str> = said.out.lines().collect();
    let listed = ["bin", "dev", "etc", "proc", "sys", "t", "tmp"];
    assert_eq!(lines[..7], listed, "{said:?}");
    assert_eq!(lines[8..15], listed, "an exec is confined, too: {said:?}");
    assert_eq!(lines[15], format!("same {}", lines[7]), "{said:?}");
    assert!(said.err.contains("can't create /file: Read-only file system"), "{said:?}");
}

#[test]
fn without_a_mount_namespace_a_failed_start_takes_its_mounts_away_and_no_others() {
    let mut house = house!("no-mount-ns-fails");
    without_mount_namespace(&mut house);
    house.set("/process/args", json!(["/bin/none"]));
    let line = format!(
        "mount --bind {0} {0} && mount > ../before; RUNTIME run c; mount > ../after; cmp ../before ../after && echo same",
        house.rootfs().display()
    );
    let said = in_a_table_of_its_own(&house, "private", &line);
    assert_eq!(said.out, "same\n", "{said:?}");
    let masked = json!(["/proc/kcore"]);
    house.set("/linux/maskedPaths", masked);
    let refused = house.run();
    assert!(refused.err.contains("linux.maskedPaths: needs a mount namespace"), "{refused:?}");
}

#[test]
fn without_pivot_root_no_full_view_of_procfs_stays_behind() {
    let mut house = house!("no-pivot");
    house.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    fs::create_dir(house.rootfs().join("mnt")).unwrap();
    house.script(
        "ls /; busybox unshare -U -r -m -p -f busybox sh -c 'echo inside; busybox mount -t proc p /mnt && echo mounted'",
    );
    for flags in [&["run", "c"][..], &["run", "--no-pivot", "c"]] {
        let said = house.call(flags);
        assert!(said.out.starts_with("bin\ndev\netc\nmnt\nproc\nsys\ntmp\n"), "{flags:?}: {said:?}");
        if !said.out.contains("inside") {
            eprintln!("SKIPPED without_pivot_root: users may not make user namespaces here: {said:?}");
            return;
        }
        assert!(!said.out.contains("mounted"), "a procfs without masks was mounted: {flags:?}: {said:?}");
    }
}

#[test]
fn nothing_that_is_mounted_reaches_the_host_whatever_its_propagation() {
    for (name, propagation) in [("leak-shared", "shared"), ("leak-slave", "slave"), ("leak-private", "private")] {
        let mut house = house!(name);
        let source = house.dir.join("source");
        fs::create_dir(&source).unwrap();
        house.push("/mounts", json!({ "destination": "/a", "source": source, "options": ["rbind", "rw"] }));
        house.push("/mounts", json!({ "destination": "/b", "type": "tmpfs", "source": "t" }));
        house.script("sleep 0.1");
        let before = mount_table();
        for root in ["", "private", "rslave", "rshared", "unbindable"] {
            house.set("/linux/rootfsPropagation", json!(root));
            let line = "mount > ../before; RUNTIME create c > /dev/null && mount > ../between && RUNTIME start c; \
                        RUNTIME delete -f c; mount > ../after; cmp ../before ../after && cmp ../before ../between && echo same";
            let said = in_a_table_of_its_own(&house, propagation, line);
            assert_eq!(said.out, "same\n", "{propagation} {root}: {said:?}");
        }
        assert_eq!(mount_table(), before);
    }
}

#[test]
fn read_only_paths_keep_the_other_attributes_and_masks_need_no_null_device_inside() {
    let mut house = house!("read-only-paths");
    let volume = house.dir.join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(house.rootfs().join("secret"), "secret").unwrap();
    let mounts = house.config["mounts"].as_array().unwrap().clone();
    // No /dev of its own: the rootfs has none with a null device.
    let mounts: Vec<Value> =
        mounts.into_iter().filter(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev")).collect();
    house.set("/mounts", json!(mounts));
    let words = json!(["rbind", "rw", "nosuid", "noexec", "noatime"]);
    house.push("/mounts", json!({ "destination": "/vol", "source": volume, "options": words }));
    house.set("/linux/readonlyPaths", json!(["vol", "/proc/sys", "/not/there", "/vol"]));
    house.set("/linux/maskedPaths", json!(["/secret", "/secret", "proc/keys", "/vol/sub", "/gone"]));
    house.set("/root/readonly", json!(false));
    house.script(
        "grep ' /vol ' /proc/mounts; echo > /vol/x; cat /secret; echo x > /vol/sub/y; echo > /proc/sys/vm/swappiness",
    );
    let said = house.run();
    let last = said.out.lines().last().unwrap();
    assert!(last.contains(" ro,nosuid,noexec,noatime"), "{said:?}");
    for refused in ["/vol/x", "/vol/sub/y", "/proc/sys/vm/swappiness"] {
        assert!(said.err.contains(&format!("can't create {refused}: Read-only file system")), "{refused}: {said:?}");
    }
    assert!(!said.out.contains("secret\n") && !said.out.ends_with("secret"), "{said:?}");
}

#[test]
fn the_root_may_be_a_link_or_lie_on_a_read_only_file_system() {
    let mut house = house!("root-paths");
    symlink("rootfs", house.dir.join("bundle/link")).unwrap();
    house.set("/root/path", json!("link/../link/."));
    house.script("ls /");
    assert_eq!(house.prints(), "bin\ndev\netc\nproc\nsys\ntmp\n");
    let root = house.rootfs();
    house.set("/root/path", json!(root));
    let line = "mount --bind rootfs rootfs && mount -o remount,bind,ro,nosuid rootfs && RUNTIME run c";
    house.script("grep ' / ' /proc/mounts; echo > /x");
    for read_only in [true, false] {
        house.set("/root/readonly", json!(read_only));
        let said = in_a_table_of_its_own(&house, "private", line);
        assert!(said.out.contains(" / ext4 ro,nosuid,") || said.out.contains(" ro,nosuid"), "{said:?}");
        assert!(said.err.contains("can't create /x: Read-only file system"), "{said:?}");
    }
    for (path, sentence) in
        [("nowhere", "nowhere: it does not exist"), ("config.json", "config.json: it is no directory")]
    {
        house.set("/root/path", json!(path));
        let said = house.run();
        assert!(said.code == 1 && said.err.contains("root.path: ") && said.err.contains(sentence), "{said:?}");
    }
}
