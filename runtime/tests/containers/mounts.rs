//! Mounts: attributes, access times, id maps, tmpfs and what it is filled with, destinations.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

use serde_json::{Value, json};

use crate::house::{House, Said, house, said};

/// `run` in a mount namespace of its own, in which `setup` has been done first; nothing of it reaches the host.
pub(crate) fn run_after(house: &House, setup: &str) -> Said {
    house.write_config();
    let runtime = format!("{} --root {}", env!("CARGO_BIN_EXE_gantry-runtime"), house.dir.join("state").display());
    let line = format!("mount --make-rprivate / && {setup} && exec {runtime} run c");
    let mut unshare = Command::new("unshare");
    said(unshare.args(["-m", "sh", "-c", &line]).current_dir(house.dir.join("bundle")).output().unwrap())
}

pub(crate) fn with_user_namespace(house: &mut House) {
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    house.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    house.push("/linux/namespaces", json!({ "type": "user" }));
    // Everything above the rootfs has to be passable for the mapped root.
    for dir in [house.dir.clone(), house.dir.join("bundle"), house.rootfs()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

pub(crate) fn is_busybox(tool: &str) -> bool {
    Command::new(tool).arg("--help").output().is_ok_and(|output| {
        [output.stdout, output.stderr].iter().any(|said| String::from_utf8_lossy(said).contains("BusyBox"))
    })
}

pub(crate) fn bound(source: &std::path::Path, words: &[&str]) -> Value {
    json!({ "destination": "/mnt", "source": source, "type": "bind", "options": words })
}

/// Options of the source's mount, words of the bind mount, what /proc/mounts then says of it first (user namespace or
/// not); `None`: refused.
type Row = (&'static str, &'static [&'static str], Option<&'static str>, Option<&'static str>);

/// Taken from runc's own expectations (tests/integration/mounts_sshfs.bats).
const ROWS: &[Row] = &[
    ("ro,noexec,nosymfollow,nodiratime", &["bind"], Some("ro,noexec,nodiratime,relatime,nosymfollow"), Some("same")),
    (
        "ro,noexec,nosymfollow,nodiratime",
        &["bind", "dev"],
        Some("rw,nodiratime,relatime"),
        Some("ro,noexec,nodiratime,relatime"),
    ),
    (
        "ro",
        &["bind", "nosuid", "nodev", "rprivate"],
        Some("rw,nosuid,nodev,relatime"),
        Some("ro,nosuid,nodev,relatime"),
    ),
    ("ro", &["bind", "rw", "nosuid"], Some("rw,nosuid,relatime"), None),
    ("nosuid,nodev,noexec,noatime", &["bind", "dev", "suid", "exec", "atime"], Some("rw,noatime"), None),
    ("nodev,nosuid,noexec,noatime", &["bind", "ro"], Some("ro,noatime"), Some("ro,nosuid,nodev,noexec,noatime")),
    ("nodev,nosymfollow", &["bind", "ro", "symfollow"], Some("ro,relatime"), Some("ro,nodev,relatime")),
    ("nodev,nosymfollow", &["bind", "rw"], Some("rw,relatime"), Some("rw,nodev,relatime")),
    ("nodev,nosuid,noatime", &["bind", "ro", "exec"], Some("ro,noatime"), Some("ro,nosuid,nodev,noatime")),
    ("noatime", &["bind", "norelatime"], Some("rw,noatime"), Some("rw,noatime")),
    ("noatime", &["bind", "relatime"], Some("rw,relatime"), None),
    ("noatime", &["bind", "nodiratime"], Some("rw,nodiratime,relatime"), None),
    ("nodiratime", &["bind", "strictatime"], Some("rw"), None),
    ("noatime", &["bind", "nodiratime", "strictatime"], Some("rw,nodiratime"), None),
    ("relatime", &["bind", "noatime"], Some("rw,noatime"), None),
    ("strictatime", &["bind", "strictatime", "ro"], Some("ro"), Some("ro")),
    ("noatime", &["rbind", "ratime"], Some("rw,relatime"), Some("rw,relatime")),
    ("nosuid", &["rbind", "rro", "rnoexec"], Some("ro,nosuid,noexec,relatime"), Some("ro,nosuid,noexec,relatime")),
    ("nosuid", &["rbind", "rsuid"], Some("rw,relatime"), Some("rw,relatime")),
];

#[test]
fn a_bind_mount_has_the_attributes_that_runc_gives_it() {
    let mut house = house!("attributes");
    let source = house.dir.join("source");
    fs::create_dir(&source).unwrap();
    house.push("/mounts", bound(&source, &[]));
    let last = house.config["mounts"].as_array().unwrap().len() - 1;
    house.script("grep ' /mnt ' /proc/mounts");
    for user in [false, true] {
        if user {
            with_user_namespace(&mut house);
        }
        for (of_source, words, plain, mapped) in ROWS {
            if of_source.contains("nosymfollow") && is_busybox("mount") {
                eprintln!("SKIPPED the row {of_source}: busybox' mount does not know nosymfollow");
                continue;
            }
            let mapped = if *mapped == Some("same") { plain } else { mapped };
            let wanted = if user { mapped } else { plain };
            house.set(&format!("/mounts/{last}/options"), json!(words));
            let setup = format!(
                "mount -t tmpfs -o mode=755 source {0} && mount -o remount,bind,{of_source} {0}",
                source.display()
            );
            let said = run_after(&house, &setup);
            let row = format!("user namespace {user}: {of_source} {words:?}: {said:?}");
            let Some(wanted) = wanted else {
                assert!(said.code != 0 && said.err.contains("(EPERM)") | said.err.contains("locked"), "{row}");
                continue;
            };
            assert_eq!(said.code, 0, "{row}");
            let options = said.out.split(' ').nth(3).unwrap();
            let options = options.split(",size=").next().unwrap().split(",inode64").next().unwrap();
            let of_mount = options.split(",mode=").next().unwrap();
            assert_eq!(of_mount, *wanted, "{row}");
        }
    }
}

#[test]
fn a_shared_root_locks_nothing() {
    let mut house = house!("shared-attributes");
    let source = house.dir.join("source");
    fs::create_dir(&source).unwrap();
    house.push("/mounts", bound(&source, &["rbind", "rw", "suid", "rshared"]));
    house.set("/linux/rootfsPropagation", json!("rshared"));
    house.script("grep ' /mnt ' /proc/mounts");
    let setup = format!("mount -t tmpfs source {0} && mount -o remount,bind,ro,nosuid,nodev {0}", source.display());
    let said = run_after(&house, &setup);
    assert!(said.out.starts_with("source /mnt tmpfs rw,relatime"), "{said:?}");
}

#[test]
fn recursive_attributes_reach_what_is_mounted_below() {
    let mut house = house!("recursive");
    let source = house.dir.join("source");
    fs::create_dir_all(source.join("below")).unwrap();
    let setup = format!("mount -t tmpfs top {0} && mkdir {0}/below && mount -t tmpfs sub {0}/below", source.display());
    house.push("/mounts", bound(&source, &[]));
    let last = house.config["mounts"].as_array().unwrap().len() - 1;
    house.script("grep ' /mnt' /proc/mounts");
    for (words, top, sub) in [
        (&["rbind", "ro"][..], "ro", "rw"),
        (&["rbind", "rro"], "ro", "ro"),
        (&["rbind", "rro", "rnosuid", "rnoatime"], "ro,nosuid,noatime", "ro,nosuid,noatime"),
        (&["rbind", "ro", "rro"], "ro", "ro"),
    ] {
        house.set(&format!("/mounts/{last}/options"), json!(words));
        let said = run_after(&house, &setup);
        let lines: Vec<Vec<&str>> = said.out.lines().map(|line| line.split(' ').collect()).collect();
        assert_eq!(lines.len(), 2, "{said:?}");
        assert!(lines[0][3].starts_with(top) && lines[1][3].starts_with(sub), "{words:?}: {said:?}");
    }
}

#[test]
fn what_a_bind_mount_cannot_have_is_refused_by_its_path() {
    let mut house = house!("bind-data");
    let source = house.dir.clone();
    let at = house.config["mounts"].as_array().unwrap().len();
    for (mount, sentence) in [
        (json!({ "destination": "/mnt", "type": "bind" }), "source: is missing"),
        (
            json!({ "destination": "/mnt", "source": "/nowhere/at/all", "options": ["bind"] }),
            "the source does not exist",
        ),
        (json!({ "destination": "/mnt", "type": "tmpfs", "options": ["idmap"] }), "only a bind mount can be id-mapped"),
        (bound(&source, &["bind", "idmap"]), "the container has no user namespace"),
    ] {
        house.config["mounts"].as_array_mut().unwrap().truncate(at);
        house.push("/mounts", mount);
        let said = house.run();
        assert!(said.code == 1 && said.err.contains(sentence), "{sentence}: {said:?}");
        if !sentence.contains("does not exist") {
            assert!(said.err.contains(&format!("mounts[{at}]")), "{said:?}");
        }
    }
    // runc and crun leave this aside, too, but do not say so.
    house.config["mounts"].as_array_mut().unwrap().truncate(at);
    house.push("/mounts", bound(&source, &["bind", "size=4k"]));
    let said = house.run();
    let sentence = format!("mounts[{at}].options: \"size\" is a file system's own");
    assert!(said.code == 0 && said.err.contains(&sentence), "{said:?}");
}

#[test]
fn a_relative_destination_is_taken_from_the_root_with_a_warning() {
    let mut house = house!("relative");
    house.push("/mounts", json!({ "destination": "tmp/here", "type": "tmpfs", "source": "x" }));
    house.script("grep -c ' /tmp/here ' /proc/mounts");
    let said = house.run();
    assert_eq!(said.out, "1\n", "{said:?}");
    assert!(said.err.contains("\"tmp/here\" is not absolute"), "{said:?}");
}

#[test]
fn tmpfs_takes_the_mode_of_what_it_covers_and_may_be_read_only() {
    let mut house = house!("tmpfs");
    fs::create_dir(house.rootfs().join("private")).unwrap();
    fs::set_permissions(house.rootfs().join("private"), fs::Permissions::from_mode(0o710)).unwrap();
    let tmpfs =
        |to: &str, words: &[&str]| json!({ "destination": to, "type": "tmpfs", "source": "t", "options": words });
    house.push("/mounts", tmpfs("/private", &["nosuid"]));
    house.push("/mounts", tmpfs("/private/deeper", &["mode=1500", "sync"]));
    house.push("/mounts", tmpfs("/new/one", &["ro", "nodev"]));
    house.push("/mounts", json!({ "destination": "/new/one/file", "source": "config.json", "options": ["bind"] }));
    let dev = house.config["mounts"].as_array().unwrap().iter().position(|mount| mount["destination"] == "/dev");
    house.push(&format!("/mounts/{}/options", dev.unwrap()), json!("ro"));
    house.script(
        "stat -c %a /private /private/deeper /new/one; ls /new/one; grep -E ' (/new/one|/dev) ' /proc/mounts; \
         echo > /dev/null; echo > /dev/x",
    );
    let said = house.run();
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines[..4], ["710", "1500", "1777", "file"], "{said:?}");
    assert!(lines[4].contains(" /dev tmpfs ro,nosuid,") && lines[5].contains(" /new/one tmpfs ro,nodev"), "{said:?}");
    assert!(said.err.contains("can't create /dev/x: Read-only file system"), "{said:?}");
    assert_eq!(fs::metadata(house.rootfs().join("private")).unwrap().mode() & 0o7777, 0o710);
}

#[test]
fn remount_changes_the_mount_that_is_there_or_its_super_block() {
    let mut house = house!("remount");
    let mount = |words: &[&str]| json!({ "destination": "/run", "type": "tmpfs", "source": "t", "options": words });
    house.push("/mounts", mount(&["size=64k"]));
    house.push("/mounts", mount(&["remount", "size=128k", "noexec"]));
    house.push("/mounts", mount(&["remount", "bind", "noexec", "nodev"]));
    house.script("grep ' /run ' /proc/mounts");
    let out = house.prints();
    assert!(out.starts_with("t /run tmpfs rw,nodev,noexec,relatime,size=128k"), "{out}");
}

/// A rootfs directory with one of everything.
fn furnish(dir: &std::path::Path) {
    fs::create_dir_all(dir.join("sub/empty")).unwrap();
    fs::write(dir.join("file"), "content\n").unwrap();
    fs::write(dir.join("sub/program"), "x").unwrap();
    symlink("/etc/nowhere", dir.join("link")).unwrap();
    std::os::unix::fs::chown(dir.join("file"), Some(7), Some(8)).unwrap();
    std::os::unix::fs::lchown(dir.join("link"), Some(5), Some(6)).unwrap();
    fs::set_permissions(dir.join("sub/program"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(dir.join("sub/empty"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o751)).unwrap();
    nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
    nix::sys::stat::mknod(
        &dir.join("null"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        libc::makedev(1, 3),
    )
    .unwrap();
    fs::set_permissions(dir.join("null"), fs::Permissions::from_mode(0o666)).unwrap();
    let set = Command::new("setfattr").args(["-n", "trusted.gantry", "-v", "kept"]).arg(dir.join("file")).status();
    assert!(set.is_ok_and(|status| status.success()), "setfattr (package attr) is needed");
}

#[test]
fn tmpcopyup_copies_everything_as_it_is() {
    let mut house = house!("copy-up");
    if Command::new("setfattr").arg("--version").output().is_err() {
        eprintln!("SKIPPED tmpcopyup_copies_everything_as_it_is: needs setfattr (apt-get install attr)");
        return;
    }
    let dir = house.rootfs().join("data");
    furnish(&dir);
    house.push("/mounts", json!({ "destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"] }));
    house.script(
        "cd /data; stat -c '%n %a %u:%g %s' . file sub/program sub/empty; stat -c '%n %u:%g %N' link; \
         stat -c '%n %F %a' pipe; stat -c '%n %t:%T %a' null; cat file; echo more >> file; grep -c ' /data ' /proc/mounts",
    );
    let out = house.prints();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with(". 751 0:0 "), "{out}");
    assert_eq!(lines[1..3], ["file 644 7:8 8", "sub/program 4751 0:0 1"]);
    assert!(lines[3].starts_with("sub/empty 777 0:0 "), "{out}");
    assert_eq!(lines[4..], ["link 5:6 'link' -> '/etc/nowhere'", "pipe fifo 640", "null 1:3 666", "content", "1"]);
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "content\n", "the rootfs stays as it was");
}

#[test]
fn tmpcopyup_is_bounded_and_leaves_the_one_mount_to_nobody() {
    let mut house = house!("copy-up-bounds");
    let dir = house.rootfs().join("data");
    fs::create_dir(&dir).unwrap();
    let outside = house.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret\n").unwrap();
    symlink(&outside, dir.join("way")).unwrap();
    fs::create_dir(dir.join("volume")).unwrap();
    house.push("/mounts", json!({ "destination": "/data/volume", "source": outside, "options": ["bind"] }));
    let words = ["tmpcopyup", "size=1m"];
    house.push("/mounts", json!({ "destination": "/data", "type": "tmpfs", "source": "t", "options": words }));
    house.script("ls -A /data/volume; readlink /data/way; cat /data/way/secret");
    let said = house.run();
    assert_eq!(said.out, format!("{}\n", outside.display()), "{said:?}");
    assert!(said.code != 0, "{said:?}");
    // A file larger than the tmpfs, and directories deeper than anybody needs.
    fs::write(dir.join("large"), vec![1; 2 << 20]).unwrap();
    let said = house.run();
    assert!(said.code == 1 && said.err.contains("(ENOSPC)"), "{said:?}");
    fs::remove_file(dir.join("large")).unwrap();
    fs::create_dir_all(dir.join("d/".repeat(200))).unwrap();
    let said = house.run();
    assert!(said.code == 1 && said.err.contains("deeper than"), "{said:?}");
    // A sparse file costs nothing.
    fs::remove_dir_all(dir.join("d")).unwrap();
    fs::File::create(dir.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    house.script("stat -c %s /data/sparse");
    assert_eq!(house.prints(), "1099511627776\n");
}

#[test]
fn links_to_nowhere_are_followed_inside_of_the_rootfs() {
    let mut house = house!("dangling");
    let root = house.rootfs();
    fs::create_dir_all(root.join("etc")).unwrap();
    symlink("/tmp/foo/bar", root.join("jump")).unwrap();
    symlink("/jump/baz/hosts", root.join("etc/hosts")).unwrap();
    symlink("../../../../tmp/up", root.join("etc/up")).unwrap();
    house.push("/mounts", json!({ "destination": "/etc/hosts", "source": "config.json", "options": ["bind"] }));
    house.push("/mounts", json!({ "destination": "/etc/up/deep", "type": "tmpfs", "source": "t" }));
    house.script("grep -oE ' /tmp/[^ ]* ' /proc/mounts; grep -c ociVersion /etc/hosts");
    let out = house.prints();
    assert_eq!(out, " /tmp/foo/bar/baz/hosts \n /tmp/up/deep \n1\n");
    assert!(root.join("tmp/foo/bar/baz/hosts").is_file() && root.join("tmp/up/deep").is_dir());
}

#[test]
fn the_root_itself_is_not_covered_by_a_link_to_it() {
    let mut house = house!("root-link");
    symlink("/", house.rootfs().join("self")).unwrap();
    for destination in ["/self", "/self/self"] {
        house.push("/mounts", json!({ "destination": destination, "type": "tmpfs", "source": "t" }));
        let said = house.run();
        assert!(said.code == 1 && said.err.contains("is the root"), "{said:?}");
        house.config["mounts"].as_array_mut().unwrap().pop();
    }
}

#[test]
fn sources_that_the_container_itself_mounted_are_taken_in_order() {
    for user in [false, true] {
        let mut house = house!(if user { "order-user" } else { "order" });
        let source = house.dir.join("source");
        for dir in ["a/x", "b/y", "c/z"] {
            fs::create_dir_all(source.join(dir)).unwrap();
            fs::write(source.join(dir).join("file"), dir).unwrap();
        }
        symlink("b", source.join("sym-b")).unwrap();
        for dir in ["mnt", "final"] {
            fs::create_dir_all(house.rootfs().join(dir)).unwrap();
        }
        if user {
            with_user_namespace(&mut house);
        }
        let mnt = house.rootfs().join("mnt");
        let bind = |from: std::path::PathBuf, to: &str| json!({ "destination": to, "source": from, "type": "bind", "options": ["rbind", "rprivate"] });
        house.push("/mounts", bind(source.join("a"), "/mnt"));
        house.push("/mounts", bind(source.join("sym-b"), "/mnt/x"));
        house.push("/mounts", bind(source.join("c"), "/mnt/x/y"));
        house.push("/mounts", bind(source.join("a"), "/mnt/x/y/z"));
        house.push("/mounts", bind(mnt.clone(), "/final"));
        house.script("cat /final/x/y/z/x/file");
        let said = house.run();
        assert_eq!(said.out, "a/x", "user namespace {user}: {said:?}");
    }
}

#[test]
fn sockets_pipes_and_files_can_be_bound() {
    let mut house = house!("sockets");
    let socket = house.dir.join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let pipe = house.dir.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    house.push("/mounts", json!({ "destination": "/run/socket", "source": socket, "options": ["bind"] }));
    house.push("/mounts", json!({ "destination": "/run/pipe", "source": pipe, "options": ["bind", "ro"] }));
    house.push("/mounts", json!({ "destination": "/run/null", "source": "/dev/null", "options": ["bind"] }));
    house.script("stat -c %F /run/socket /run/pipe /run/null");
    assert_eq!(house.prints(), "socket\nfifo\ncharacter special file\n");
}

#[test]
fn file_system_options_reach_the_file_system() {
    let mut house = house!("fs-options");
    let lower = house.dir.join("lower");
    for dir in [&lower, &house.dir.join("upper"), &house.dir.join("work")] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(lower.join("below"), "").unwrap();
    let path = |name: &str| house.dir.join(name).display().to_string();
    let overlay = [
        format!("lowerdir={}", path("lower")),
        format!("upperdir={}", path("upper")),
        format!("workdir={}", path("work")),
    ];
    house.push("/mounts", json!({ "destination": "/over", "type": "overlay", "source": "o", "options": overlay }));
    house.push(
        "/mounts",
        json!({ "destination": "/proc2", "type": "proc", "source": "p", "options": ["hidepid=2", "subset=pid", "noexec"] }),
    );
    house.script("ls /over; echo > /over/new; ls /proc2 | grep -v '^[0-9]'; grep ' /proc2 ' /proc/mounts");
    let said = house.run();
    assert!(said.out.starts_with("below\n"), "{said:?}");
    assert!(house.dir.join("upper/new").is_file());
    assert!(said.out.contains("noexec") && said.out.contains("hidepid=invisible,subset=pid"), "{said:?}");
    assert!(!said.out.contains("meminfo"), "{said:?}");
}
