//! Namespaces by path, and user namespaces with all their consequences.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::house::{House, house, wait_until};

/// A process in new namespaces, to join them; killed at the end.
struct Holder(Child);

impl Holder {
    fn new(flags: &[&str]) -> Holder {
        let child = Command::new("unshare").args(flags).args(["sleep", "60"]).stdin(Stdio::null()).spawn().unwrap();
        let holder = Holder(child);
        wait_until("the holder is in its namespaces", || {
            fs::read(format!("/proc/{}/cmdline", holder.0.id())).is_ok_and(|line| line.starts_with(b"sleep"))
        });
        holder
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn open_to_all(house: &House) {
    for dir in [house.dir.clone(), house.dir.join("bundle"), house.rootfs()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn with_maps(house: &mut House, maps: &Value) {
    house.set("/linux/uidMappings", maps.clone()).set("/linux/gidMappings", maps.clone());
    house.push("/linux/namespaces", json!({ "type": "user" }));
    open_to_all(house);
}

#[test]
fn a_user_namespace_by_path_owns_what_is_made_in_it() {
    let mut first = house!("join-user");
    with_maps(&mut first, &json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]));
    first.sleeping();
    let user = format!("/proc/{}/ns/user", first.pid());
    let mut second = house!("join-user-second");
    open_to_all(&second);
    second.push("/linux/namespaces", json!({ "type": "user", "path": user }));
    second.push("/linux/namespaces", json!({ "type": "time" }));
    second.set("/linux/timeOffsets", json!({ "boottime": { "secs": 1_000_000 } }));
    for set in ["bounding", "effective", "permitted"] {
        second.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    // Only the owner of the mount and the UTS namespace can do the first two, and only its own sysfs and network.
    second.script(
        "mount -t tmpfs x /tmp && busybox hostname other && hostname; cat /proc/self/uid_map; echo $$; \
         cut -d. -f1 /proc/uptime; readlink /proc/self/ns/user; ls /sys/class/net",
    );
    let said = second.run();
    let words: Vec<&str> = said.out.split_whitespace().collect();
    assert_eq!(words[..5], ["other", "0", "100000", "65536", "1"], "{said:?}");
    assert!(words[5].parse::<u64>().unwrap() > 1_000_000, "{said:?}");
    assert_eq!(words[6..], [fs::read_link(&user).unwrap().to_str().unwrap(), "lo"], "{said:?}");
    // Engines write the mappings as well: they have to be the right ones.
    for (host, code) in [(100_000, 0), (200_000, 1)] {
        let map = json!([{ "containerID": 0, "hostID": host, "size": 65_536 }]);
        second.set("/linux/uidMappings", map);
        let said = second.run();
        assert_eq!(said.code, code, "{said:?}");
        assert!(code == 0 || said.err.contains("linux.uidMappings: not those of the user namespace"), "{said:?}");
    }
    second.config["linux"].as_object_mut().unwrap().remove("uidMappings");
    // A detached one can be executed in, and is the runtime's own child though another process made it.
    second.sleeping();
    let status = fs::read_to_string(format!("/proc/{}/status", second.pid())).unwrap();
    assert!(status.contains("\nUid:\t100000\t"), "{status}");
    assert_eq!(second.ok(&["exec", "c", "id", "-u"]), "0\n");
    second.ok(&["delete", "--force", "c"]);
    first.ok(&["delete", "--force", "c"]);
}

#[test]
fn namespaces_that_belong_to_another_user_namespace_are_joined_before_it() {
    let mut first = house!("join-owners");
    with_maps(&mut first, &json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]));
    first.sleeping();
    let network = Holder::new(&["-n"]);
    let mut second = house!("join-owners-second");
    open_to_all(&second);
    let spaces = json!([
        { "type": "user", "path": format!("/proc/{}/ns/user", first.pid()) },
        { "type": "network", "path": network.path("net") },
        { "type": "pid", "path": format!("/proc/{}/ns/pid", first.pid()) },
        { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }
    ]);
    second.set("/linux/namespaces", spaces);
    second.script("readlink /proc/self/ns/net; cat /proc/1/cmdline | tr '\\0' ' '; echo; readlink /proc/self/ns/pid");
    let said = second.run();
    let lines: Vec<&str> = said.out.lines().collect();
    let link = |path: String| fs::read_link(path).unwrap().display().to_string();
    assert_eq!(
        lines,
        [link(network.path("net")), "/bin/sleep 60 ".to_owned(), link(format!("/proc/{}/ns/pid", first.pid())),],
        "{said:?}"
    );
    first.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_failure_on_either_side_of_the_second_clone_is_told_and_leaves_nothing() {
    let mut first = house!("hop-fails");
    with_maps(&mut first, &json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]));
    first.sleeping();
    let mut second = house!("hop-fails-second");
    open_to_all(&second);
    second.push("/linux/namespaces", json!({ "type": "user", "path": format!("/proc/{}/ns/user", first.pid()) }));
    second.set("/process/args", json!(["/bin/no-such"]));
    let said = second.run();
    assert!(said.code == 1 && said.err.contains("no-such"), "{said:?}");
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    let last = second.config["linux"]["namespaces"].as_array().unwrap().len() - 1;
    second.set(&format!("/linux/namespaces/{last}/path"), json!("/proc/self/ns/user"));
    let said = second.run();
    assert!(said.code == 1 && said.err.contains("join user namespace"), "{own:?}: {said:?}");
    first.ok(&["delete", "--force", "c"]);
}

#[test]
fn a_mount_namespace_by_path_is_the_one_that_everything_is_mounted_in() {
    let mut house = house!("join-mount");
    let holder = Holder::new(&["-m", "--propagation", "private"]);
    let spaces = house.config["linux"]["namespaces"].as_array_mut().unwrap();
    spaces.retain(|space| space["type"] != "mount");
    house.push("/linux/namespaces", json!({ "type": "mount", "path": holder.path("mnt") }));
    house.script("readlink /proc/self/ns/mnt; ls /; grep -c ' / ' /proc/mounts");
    let said = house.run();
    let mut lines = said.out.lines();
    assert_eq!(lines.next(), fs::read_link(holder.path("mnt")).unwrap().to_str(), "{said:?}");
    assert_eq!(lines.collect::<Vec<_>>(), ["bin", "dev", "etc", "proc", "sys", "tmp", "1"], "{said:?}");
}

#[test]
fn namespaces_that_cannot_be_joined_are_named() {
    let mut house = house!("join-wrong");
    let config = house.config.clone();
    let gone = {
        // The namespace of a first process that has ended: nobody can be born into it any more.
        let mut child = Command::new("unshare").args(["-p", "-f", "sleep", "60"]).stdin(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        wait_until("the first process of the namespace", || {
            fs::read_to_string(&children).is_ok_and(|pids| !pids.is_empty())
        });
        let pid: i32 = fs::read_to_string(&children).unwrap().trim().parse().unwrap();
        let held = fs::File::open(format!("/proc/{pid}/ns/pid")).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        held
    };
    use std::os::fd::AsRawFd as _;
    let dead = format!("/proc/{}/fd/{}", std::process::id(), gone.as_raw_fd());
    for (kind, path, sentence) in [
        ("pid", "/proc/1/ns/gone", "open the pid namespace /proc/1/ns/gone: No such file"),
        ("network", "/proc/self/ns/uts", "/proc/self/ns/uts: it is not a namespace of this kind"),
        ("uts", "/etc/passwd", "/etc/passwd: it is not a namespace of this kind"),
        ("ipc", "relative", "path: must be absolute"),
        ("pid", &dead, "its first process has ended"),
    ] {
        house.config = config.clone();
        let spaces = house.config["linux"]["namespaces"].as_array_mut().unwrap();
        spaces.retain(|space| space["type"] != kind);
        spaces.push(json!({ "type": kind, "path": path }));
        house.set("/hostname", json!(""));
        let said = house.run();
        assert!(said.code == 1 && said.err.contains(sentence), "{sentence}: {said:?}");
    }
}

#[test]
fn time_offsets_are_seen_inside() {
    let mut house = house!("time");
    house.push("/linux/namespaces", json!({ "type": "time" }));
    house.set(
        "/linux/timeOffsets",
        json!({ "monotonic": { "secs": 86_400 }, "boottime": { "secs": 2_000_000, "nanosecs": 5 } }),
    );
    house.script("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime");
    let out = house.prints();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words[..6], ["monotonic", "86400", "0", "boottime", "2000000", "5"], "{out}");
    assert!(words[6].parse::<u64>().unwrap() > 2_000_000, "{out}");
}

#[test]
fn many_ranges_are_mapped_in_one_write() {
    let mut house = house!("ranges");
    let maps: Vec<Value> = (0..40).map(|n| json!({ "containerID": n, "hostID": 100_000 + 2 * n, "size": 1 })).collect();
    with_maps(&mut house, &json!(maps));
    house.set("/process/user", json!({ "uid": 30, "gid": 20, "additionalGids": [10, 11] }));
    house.script("id; busybox wc -l < /proc/self/uid_map; cat /proc/self/setgroups");
    assert_eq!(house.prints(), "uid=30 gid=20 groups=10,11\n40\nallow\n");
    let maps: Vec<Value> =
        (0..400).map(|n| json!({ "containerID": n, "hostID": 100_000 + 2 * n, "size": 1 })).collect();
    house.set("/linux/uidMappings", json!(maps));
    let said = house.run();
    assert!(said.code == 1 && said.err.contains("linux.uidMappings: "), "{said:?}");
}

/// The counters of a user namespace are the container's own, be it new or joined; the host's are left alone.
#[test]
fn sysctls_of_a_user_namespace_are_set_in_it() {
    let parameter = "/proc/sys/user/max_mnt_namespaces";
    let hosts = fs::read_to_string(parameter).unwrap();
    let mut first = house!("user-sysctl");
    with_maps(&mut first, &json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]));
    first.set("/linux/sysctl", json!({ "user.max_mnt_namespaces": "77", "user/max_uts_namespaces": "78" }));
    first.script(&format!("cat {parameter} /proc/sys/user/max_uts_namespaces"));
    assert_eq!(first.prints(), "77\n78\n");
    first.sleeping();
    let mut second = house!("user-sysctl-joined");
    open_to_all(&second);
    let user = format!("/proc/{}/ns/user", first.pid());
    second.push("/linux/namespaces", json!({ "type": "user", "path": user }));
    second.set("/linux/sysctl", json!({ "user.max_mnt_namespaces": "79" }));
    second.script(&format!("cat {parameter}"));
    assert_eq!(second.prints(), "79\n");
    assert_eq!(first.ok(&["exec", "c", "cat", parameter]), "79\n");
    first.ok(&["delete", "--force", "c"]);
    assert_eq!(fs::read_to_string(parameter).unwrap(), hosts);
}

/// Root of a user namespace has no rights over a file with a foreign group: only its owner may enter this directory.
#[test]
fn a_working_directory_that_only_the_user_may_enter_is_entered_as_the_user() {
    let mut house = house!("users-cwd");
    with_maps(&mut house, &json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]));
    let home = house.rootfs().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(101_000), Some(7)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    house.set("/process/cwd", json!("/home"));
    house.script("readlink /proc/self/cwd");
    for safe in [true, false] {
        house.set("/process/noNewPrivileges", json!(safe));
        house.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
        assert_eq!(house.prints(), "/home\n");
        house.set("/process/user", json!({ "uid": 0, "gid": 0 }));
        let said = house.run();
        assert!(said.code == 1 && said.err.contains("change to /home as the user: Permission denied"), "{said:?}");
    }
    house.set("/process/cwd", json!("/"));
    house.sleeping();
    let exec = |user: &str| house.call(&["exec", "--user", user, "--cwd", "/home", "c", "readlink", "/proc/self/cwd"]);
    assert_eq!(exec("1000:1000").out, "/home\n");
    let said = exec("0:0");
    assert!(said.code != 0 && said.err.contains("Permission denied"), "{said:?}");
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn the_containers_root_owns_what_is_made_for_it() {
    let mut house = house!("owners");
    with_maps(&mut house, &json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]));
    house.set("/process/terminal", json!(false));
    house.script(
        "stat -c '%n %u:%g' /dev /dev/pts /dev/pts/ptmx /dev/shm /dev/mqueue /tmp2; \
         stat -c '%n %t:%T' /dev/null; readlink /dev/ptmx; echo > /tmp2/x && stat -c %u /tmp2/x",
    );
    house.push("/mounts", json!({ "destination": "/tmp2", "type": "tmpfs", "source": "t" }));
    fs::create_dir(house.rootfs().join("tmp2")).unwrap();
    let out = house.prints();
    assert_eq!(
        out,
        "/dev 0:0\n/dev/pts 0:0\n/dev/pts/ptmx 0:0\n/dev/shm 0:0\n/dev/mqueue 0:0\n/tmp2 0:0\n\
         /dev/null 1:3\npts/ptmx\n0\n"
    );
    assert_eq!(fs::metadata(house.rootfs()).unwrap().uid(), 0, "the rootfs itself stays the host's");
}
