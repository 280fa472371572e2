//! What a container can and cannot see.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::house::house;

#[test]
fn every_namespace_is_its_own_and_it_is_pid_1() {
    let mut house = house!("namespaces");
    house.push("/linux/namespaces", json!({ "type": "time" }));
    house
        .script("echo $$; cd /proc/self/ns; for n in cgroup ipc mnt net pid time uts; do echo $n $(readlink $n); done");
    let out = house.prints();
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("1"));
    let mut count = 0;
    for line in lines {
        let (name, inside) = line.split_once(' ').unwrap();
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(outside.to_string_lossy(), inside, "{name}");
        count += 1;
    }
    assert_eq!(count, 7);
}

#[test]
fn the_host_is_not_to_be_seen() {
    let mut house = house!("hidden");
    house.script("ls /; cat /proc/self/mountinfo");
    let out = house.prints();
    let listed: Vec<&str> = out.lines().take_while(|line| !line.contains(' ')).collect();
    assert_eq!(listed, ["bin", "dev", "etc", "proc", "sys", "tmp"]);
    let roots: Vec<&str> = out.lines().filter(|line| line.split(' ').nth(4) == Some("/")).collect();
    assert_eq!(roots.len(), 1, "{roots:?}");
    assert!(!out.contains("master:") && !out.contains("shared:"), "no propagation out or in: {out}");
}

#[test]
fn masked_paths_are_empty_and_read_only_ones_are_read_only() {
    let mut house = house!("masked");
    house.script(
        "cat /proc/keys /proc/timer_list | wc -c 2>/dev/null || cat /proc/keys /proc/timer_list; \
         ls /proc/acpi /sys/firmware; echo 1 > /proc/sys/kernel/printk; \
         echo x > /file; echo fine",
    );
    fs::copy("/bin/busybox", house.rootfs().join("bin/wc")).unwrap();
    let said = house.run();
    assert!(said.out.starts_with("0\n") && said.out.ends_with("fine\n"), "{said:?}");
    for path in ["/proc/sys/kernel/printk", "/file"] {
        assert!(said.err.contains(&format!("can't create {path}: Read-only file system")), "{path}: {said:?}");
    }
}

#[test]
fn devices_are_the_ones_that_belong_there() {
    let mut house = house!("devices");
    house.set(
        "/linux/devices",
        json!([{ "path": "/dev/nested/one", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 5, "gid": 6 }]),
    );
    house.script(
        "stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; \
         stat -c '%t:%T %a %u:%g' /dev/nested/one; readlink /dev/fd; readlink /dev/ptmx; echo x > /dev/null",
    );
    assert_eq!(
        house.prints(),
        "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n\
         /dev/tty 5:0 666\n1:7 640 5:6\n/proc/self/fd\npts/ptmx\n"
    );
}

#[test]
fn a_hosts_disk_cannot_be_opened() {
    let mut house = house!("disk");
    for set in ["bounding", "effective", "permitted"] {
        house.push(&format!("/process/capabilities/{set}"), json!("CAP_MKNOD"));
    }
    house.script("busybox mknod /dev/disk b 254 0 && busybox mknod /dev/mem c 1 1; dd if=/dev/disk of=/dev/null bs=1 count=1; cat /dev/mem");
    let said = house.run();
    assert!(said.err.contains("can't open '/dev/disk': Operation not permitted"), "{said:?}");
    assert!(said.err.contains("can't open '/dev/mem': Operation not permitted"), "{said:?}");
}

#[test]
fn bind_mounts_keep_their_words() {
    let mut house = house!("binds");
    fs::create_dir_all(house.dir.join("volume/sub")).unwrap();
    fs::write(house.dir.join("volume/file"), "content").unwrap();
    let volume = house.dir.join("volume");
    house.push("/mounts", json!({ "destination": "/rw", "source": volume, "options": ["rbind", "rprivate"] }));
    house.push(
        "/mounts",
        json!({ "destination": "/ro", "source": volume, "options": ["rbind", "ro", "nosuid", "noexec"] }),
    );
    house.push(
        "/mounts",
        json!({ "destination": "/etc/one", "source": volume.join("file"), "options": ["bind", "ro"] }),
    );
    house.push(
        "/mounts",
        json!({ "destination": "/run", "type": "tmpfs", "source": "run", "options": ["size=64k", "nodev"] }),
    );
    house.script("echo new > /rw/made; cat /ro/made /etc/one; echo > /ro/no; grep -E ' /(rw|ro|run) ' /proc/mounts");
    let said = house.run();
    assert!(said.out.starts_with("new\ncontent"), "{said:?}");
    assert!(said.err.contains("can't create /ro/no: Read-only file system"), "{said:?}");
    let ro = said.out.lines().find(|line| line.contains(" /ro ")).unwrap();
    assert!(ro.contains(" ro,nosuid,noexec,"), "{ro}");
    assert!(said.out.contains("run /run tmpfs rw,nodev,relatime,size=64k"), "{said:?}");
    assert_eq!(fs::read_to_string(volume.join("made")).unwrap(), "new\n");
}

#[test]
fn links_in_the_rootfs_lead_nowhere_else() {
    let mut house = house!("links");
    let outside = house.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir(house.rootfs().join("dev")).unwrap();
    symlink(&outside, house.rootfs().join("dev")).unwrap();
    fs::remove_dir(house.rootfs().join("tmp")).unwrap();
    symlink("../../../outside", house.rootfs().join("tmp")).unwrap();
    house.push("/mounts", json!({ "destination": "/tmp/data", "type": "tmpfs", "source": "x" }));
    house.script("mount");
    let said = house.run();
    // Either it works inside of the rootfs, or it is refused; the directory outside stays as it was.
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{said:?}");
}

#[test]
fn proc_on_a_link_is_refused() {
    let house = house!("proc-link");
    fs::remove_dir(house.rootfs().join("proc")).unwrap();
    fs::create_dir(house.rootfs().join("fake")).unwrap();
    symlink("/fake", house.rootfs().join("proc")).unwrap();
    let said = house.run();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("mount proc on /proc: must be mounted on ordinary directory"), "{said:?}");
}

#[test]
fn the_hosts_mount_table_stays_as_it_was() {
    let mut house = house!("table");
    let ours = |text: String| text.lines().filter(|line| line.contains("gantry-rt-")).count();
    house.script("sleep 0.05");
    house.prints();
    assert_eq!(ours(fs::read_to_string("/proc/self/mountinfo").unwrap().replace("cgroup", "")), 0);
}

#[test]
fn a_user_namespace_with_maps() {
    let mut house = house!("userns");
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    house.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    house.push("/linux/namespaces", json!({ "type": "user" }));
    let volume = house.dir.join("volume");
    fs::create_dir(&volume).unwrap();
    std::os::unix::fs::chown(&volume, Some(100_000), Some(100_000)).unwrap();
    house.push("/mounts", json!({ "destination": "/tmp", "source": volume, "options": ["rbind"] }));
    house.script(
        "cat /proc/self/uid_map; id -u; echo x > /tmp/made; echo y > /dev/null; stat -c %u /tmp/made; sleep 0.1",
    );
    let out = house.prints();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536", "0", "0"], "{out}");
    let about = fs::metadata(volume.join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&about), 100_000);
}

#[test]
fn namespaces_by_path_are_joined() {
    let mut house = house!("join");
    house.sleeping();
    let pid = house.pid();
    let spaces = ["network", "ipc", "uts", "pid"].map(|kind| {
        let file = kind.replace("network", "net");
        json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") })
    });
    let mut second = house!("join-second");
    second.set("/linux/namespaces", json!(spaces));
    second.push("/linux/namespaces", json!({ "type": "mount" }));
    second.set("/hostname", json!(""));
    second.script("for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; cat /proc/1/cmdline");
    let out = second.prints();
    for (line, kind) in out.lines().zip(["net", "ipc", "uts", "pid"]) {
        assert_eq!(line, fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().to_string_lossy());
    }
    assert!(out.ends_with("/bin/sleep\u{0}60\u{0}"), "{out:?}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn exec_follows_into_a_pid_namespace_that_was_joined_by_path() {
    let mut house = house!("join-exec");
    house.sleeping();
    let space = format!("/proc/{}/ns/pid", house.pid());
    let mut second = house!("join-exec-second");
    second.set("/linux/namespaces", json!([{ "type": "pid", "path": space }, { "type": "mount" }]));
    second.set("/hostname", json!(""));
    second.sleeping();
    let out = second.ok(&[
        "exec",
        "c",
        "/bin/sh",
        "-c",
        "readlink /proc/self/ns/pid; echo $$; tr '\\0' ' ' < /proc/1/cmdline",
    ]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], fs::read_link(&space).unwrap().to_string_lossy());
    assert_ne!(lines[1], "1");
    assert_eq!(lines[2].trim(), "/bin/sleep 60");
    let mine = fs::read_link(format!("/proc/{}/ns/pid", second.pid())).unwrap();
    assert_eq!(mine, fs::read_link(&space).unwrap());
    // A process of it is not the first of the namespace: its end leaves the others alone.
    second.ok(&["delete", "--force", "c"]);
    assert_eq!(house.status(), "running");
    house.ok(&["delete", "--force", "c"]);
}

/// Runs the house's container in a mount namespace of its own in which everything is shared, with a command before and
/// after it; what these print.
fn among_shared(house: &crate::house::House, during: &str, after: &str) -> String {
    house.write_config();
    let runtime = format!("{} --root {}", env!("CARGO_BIN_EXE_gantry-runtime"), house.dir.join("state").display());
    let line = format!(
        "mount --make-rshared / && {runtime} create c >/dev/null && {during} && {runtime} start c && sleep 0.5 && {after}; {runtime} delete --force c"
    );
    let mut unshare = std::process::Command::new("unshare");
    let output = unshare.args(["-m", "sh", "-c", &line]).current_dir(house.dir.join("bundle")).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn mounts_propagate_as_they_are_told_to() {
    let mut house = house!("propagation");
    let volume = house.dir.join("volume");
    fs::create_dir_all(volume.join("in")).unwrap();
    fs::create_dir_all(volume.join("out")).unwrap();
    let seen = house.dir.join("seen");
    fs::write(&seen, "").unwrap();
    for set in ["bounding", "effective", "permitted"] {
        house.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    house.push("/mounts", json!({ "destination": "/seen", "source": seen, "options": ["bind"] }));
    house.push("/mounts", json!({ "destination": "/vol", "source": volume, "options": ["rbind"] }));
    house.script("mount -t tmpfs inner /vol/out; grep -c ' /vol/in ' /proc/mounts > /seen; exec sleep 1");
    let during = format!("mount -t tmpfs outer {}/in", volume.display());
    let after = format!("grep -c '^inner ' /proc/mounts; umount {}/in", volume.display());
    for (word, root, into, out) in
        [("rprivate", "", "0", "0"), ("rslave", "", "1", "0"), ("rshared", "rshared", "1", "1")]
    {
        let last = house.config["mounts"].as_array().unwrap().len() - 1;
        house.set(&format!("/mounts/{last}/options"), json!(["rbind", word]));
        house.set("/linux/rootfsPropagation", json!(root));
        let said = among_shared(&house, &during, &after);
        assert_eq!(fs::read_to_string(&seen).unwrap().trim(), into, "{word}: from the host: {said}");
        assert_eq!(said.lines().next(), Some(out), "{word}: to the host: {said}");
    }
}
