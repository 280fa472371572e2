//! Plans as text: what a specification comes to, without root and without a system call.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::spec::{self, TEMPLATE};

fn host() -> Host {
    let tree = |name: &str, v2| {
        let mount = PathBuf::from(format!("/sys/fs/cgroup/{name}"));
        CgroupMount { own: mount.join("box/web"), mount, v2 }
    };
    Host {
        cgroups: vec![tree("cpu,cpuacct", false), tree("pids", false)],
        permitted: u64::MAX,
        keyring: "_ses.web".into(),
        ..Host::default()
    }
}

/// The template with changes, as a plan.
fn planned(changes: &[(&str, Value)], host: &Host, wishes: Wishes) -> Result<Plan> {
    let mut json: Value = serde_json::from_str(TEMPLATE).unwrap();
    json["process"]["terminal"] = json!(false);
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    let spec: Spec = spec::parse(&json.to_string()).unwrap();
    spec::check(&spec).unwrap();
    create(&spec, Path::new("/bundle"), host, None, wishes)
}

fn text(changes: &[(&str, Value)]) -> String {
    planned(changes, &host(), Wishes { wait: true, ..Wishes::default() }).unwrap().to_string()
}

/// The part of a plan's text between two lines, without these.
fn between(text: &str, first: &str, last: &str) -> String {
    let lines = text.lines().skip_while(|line| !line.starts_with(first)).skip(1);
    lines.take_while(|line| !line.starts_with(last)).map(|line| format!("{line}\n")).collect()
}

/// What `gantry-runtime spec` writes, as a plan.
const TEMPLATE_PLAN: &str = "\
clone mount uts ipc pid network
enter the cgroup
run on every cpu
bring the loopback device up
start a session
unshare the cgroup namespace
make / rslave
clone rootfs /bundle/rootfs
mount proc on /proc
mount tmpfs on /dev mode=755 size=65536k set +22 -70
mount devpts on /dev/pts newinstance ptmxmode=0666 mode=0620 gid=5 set +a -0
mount tmpfs on /dev/shm mode=1777 size=65536k set +e -0
mount mqueue on /dev/mqueue set +e -0
mount sysfs on /sys set +f -0
mount tmpfs on /sys/fs/cgroup mode=755 set +e -0
make directory /sys/fs/cgroup/cpu,cpuacct
bind /sys/fs/cgroup/cpu,cpuacct/box/web on /sys/fs/cgroup/cpu,cpuacct set +f -0
link /sys/fs/cgroup/cpu to cpu,cpuacct
link /sys/fs/cgroup/cpuacct to cpu,cpuacct
make directory /sys/fs/cgroup/pids
bind /sys/fs/cgroup/pids/box/web on /sys/fs/cgroup/pids set +f -0
change the mount on /sys/fs/cgroup set +1 -0
make device /dev/null c 1:3 mode 666
make device /dev/zero c 1:5 mode 666
make device /dev/full c 1:7 mode 666
make device /dev/random c 1:8 mode 666
make device /dev/urandom c 1:9 mode 666
make device /dev/tty c 5:0 mode 666
link /dev/fd to /proc/self/fd
link /dev/stdin to /proc/self/fd/0
link /dev/stdout to /proc/self/fd/1
link /dev/stderr to /proc/self/fd/2
link /dev/core to /proc/kcore
link /dev/ptmx to pts/ptmx
make /proc/bus read-only
make /proc/fs read-only
make /proc/irq read-only
make /proc/sys read-only
make /proc/sysrq-trigger read-only
mask /proc/acpi
mask /proc/asound
mask /proc/kcore
mask /proc/keys
mask /proc/latency_stats
mask /proc/timer_list
mask /proc/timer_stats
mask /proc/sched_debug
mask /proc/scsi
mask /sys/devices/virtual/powercap
mask /sys/firmware
make / read-only
pivot to the rootfs
set hostname gantry
join session keyring _ses.web
limit RLIMIT_NOFILE to 1024:1024
place the standard streams
find HOME of uid 0
close descriptors from 3 on
set umask 0022
set no_new_privs
change to /
keep 3 capabilities in the bounding set
become uid 0 gid 0 groups []
change to / as the user
set capabilities effective 20000420 permitted 20000420 inheritable 0 ambient 0
find program /bin/sh
await Recorded
become undumpable
say Ready
await start
execute sh
";

#[test]
fn the_template_in_full() {
    assert_eq!(text(&[]), TEMPLATE_PLAN);
}

#[test]
fn run_does_not_wait() {
    let plan = planned(&[], &host(), Wishes::default()).unwrap().to_string();
    assert!(plan.ends_with("await Recorded\nexecute sh\n"), "{plan}");
}

#[test]
fn with_systemd_the_child_waits_for_its_cgroup_before_anything_depends_on_it() {
    let plan = planned(&[], &host(), Wishes { placed: true, ..Wishes::default() }).unwrap().to_string();
    assert!(!plan.contains("enter the cgroup"), "{plan}");
    let between = between(&plan, "await Placed", "make / r");
    let expected = "run on every cpu\nbring the loopback device up\nstart a session\nunshare the cgroup namespace\n";
    assert_eq!(between, expected);
}

#[test]
fn while_the_cgroups_are_made_the_child_builds_what_does_not_show_them() {
    let plan = planned(&[], &host(), Wishes { overlap: true, ..Wishes::default() }).unwrap().to_string();
    let expected = "clone pid\nunshare mount uts ipc network\nbring the loopback device up\nstart a session\n\
                    make / rslave\nclone rootfs /bundle/rootfs\nmount proc on /proc\n";
    assert!(plan.starts_with(expected), "{plan}");
    let tree = "bind /sys/fs/cgroup/cpu,cpuacct";
    let entered = "enter the cgroup\nrun on every cpu\nunshare the cgroup namespace\n";
    assert_eq!(between(&plan, "await Limited", tree), entered);
    let usual = TEMPLATE_PLAN.replace("clone mount uts ipc pid network\n", "clone pid\n");
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with("await") && !line.starts_with("unshare mount"));
        lines.retain(|line| !matches!(line.as_str(), "become undumpable" | "say Ready"));
        lines.sort();
        lines
    };
    assert_eq!(lines(&plan), lines(&usual), "the same steps otherwise");
}

#[test]
fn hooks_and_what_shows_a_cgroup_come_after_it_was_entered() {
    let overlapping = |changes: &[(&str, Value)]| {
        planned(changes, &host(), Wishes { overlap: true, ..Wishes::default() }).unwrap().to_string()
    };
    let before = |plan: &str, first: &str, then: &str| {
        let at = |part: &str| plan.find(part).unwrap_or_else(|| panic!("{part} in {plan}"));
        assert!(at(first) < at(then), "{then} before {first} in {plan}");
    };
    before(&overlapping(&[("/mounts", json!([]))]), "enter the cgroup", "pivot");
    let hooks = json!({ "createContainer": [{ "path": "/bin/hook" }], "createRuntime": [{ "path": "/bin/hook" }] });
    let plan = overlapping(&[("/mounts", json!([])), ("/hooks", hooks)]);
    before(&plan, "enter the cgroup", "say Hooks");
    before(&plan, "enter the cgroup", "run createContainer hook");
    let view = json!([{ "destination": "/c", "source": "/sys/fs/cgroup", "options": ["rbind"] }]);
    let shown = json!([{ "destination": "/c", "source": "/sys/fs/cgroup/pids/box/web", "options": ["bind"] }]);
    before(&overlapping(&[("/mounts", shown)]), "enter the cgroup", "bind /sys/fs/cgroup/pids");
    assert!(overlapping(&[("/mounts", view)]).contains("enter the cgroup"));
}

#[test]
fn who_may_begin_before_its_cgroups_are_made() {
    let may = |changes: &[(&str, Value)]| {
        let mut json: Value = serde_json::from_str(TEMPLATE).unwrap();
        for (pointer, value) in changes {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        may_overlap(&spec::parse::<Spec>(&json.to_string()).unwrap())
    };
    assert!(may(&[]));
    let spaces = |list: Value| may(&[("/linux/namespaces", list)]);
    assert!(spaces(json!([{ "type": "mount" }, { "type": "network", "path": "/run/net" }])));
    assert!(!spaces(json!([{ "type": "mount" }, { "type": "user" }])));
    assert!(!spaces(json!([{ "type": "mount", "path": "/proc/1/ns/mnt" }])));
    assert!(!spaces(json!([{ "type": "mount" }, { "type": "cgroup", "path": "/proc/1/ns/cgroup" }])));
    assert!(!spaces(json!([{ "type": "pid" }])));
    assert!(!may(&[("/linux/netDevices", json!({ "eth0": {} }))]));
}

#[test]
fn a_user_namespace_is_mapped_first_and_gets_devices_by_bind() {
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    let spaces = json!([
        { "type": "user" }, { "type": "mount" }, { "type": "uts" }, { "type": "network", "path": "/run/net" }
    ]);
    let mounts = json!([{ "destination": "/data", "source": "vol", "options": ["rbind", "rprivate", "nosuid"] }]);
    let plan = planned(
        &[
            ("/linux/uidMappings", map.clone()),
            ("/linux/gidMappings", map),
            ("/linux/namespaces", spaces),
            ("/mounts", mounts),
        ],
        &host(),
        Wishes::default(),
    )
    .unwrap();
    let tree = Tree { path: c"/bundle/vol".into(), depth: Depth::All, follow: true, slave: true, idmap: None };
    assert_eq!(plan.opens.list(), [Open::Namespace(flags::NETWORK, c"/run/net".into()), Open::Tree(tree)]);
    let text = plan.to_string();
    assert!(
        text.starts_with(
            "around the clone: join network\nclone mount uts user\nmap uids 0 100000 65536, gids 0 100000 65536\n\
             become undumpable\nenter the cgroup\nrun on every cpu\nawait Mapped\nbecome root of the user namespace\nstart a session\nmake / rslave\n"
        ),
        "{text}"
    );
    assert!(
        text.contains(
            "rbind /bundle/vol on /data set +2 -0 drop 20000d rprivate\nbind device /dev/null on /dev/null\n"
        ),
        "{text}"
    );
}

#[test]
fn joined_namespaces_are_entered_by_the_child_pid_by_the_parent() {
    let spaces = json!([
        { "type": "pid", "path": "/proc/1/ns/pid" }, { "type": "network", "path": "/run/net" },
        { "type": "ipc", "path": "/run/ipc" }, { "type": "uts", "path": "/run/uts" }, { "type": "mount" }
    ]);
    let text = text(&[("/linux/namespaces", spaces)]);
    assert!(
        text.starts_with(
            "around the clone: join pid\nclone mount\nbecome undumpable\nenter the cgroup\nrun on every cpu\njoin network namespace /run/net\n\
             join ipc namespace /run/ipc\njoin uts namespace /run/uts\nstart a session\nmake / rslave\n"
        ),
        "{text}"
    );
}

#[test]
fn a_pure_v2_host_has_one_cgroup_mount() {
    let only = CgroupMount { mount: "/sys/fs/cgroup".into(), own: "/sys/fs/cgroup/box/web".into(), v2: true };
    let host = Host { cgroups: vec![only], ..host() };
    let text = planned(&[], &host, Wishes::default()).unwrap().to_string();
    assert_eq!(
        between(&text, "mount sysfs", "make device"),
        "bind /sys/fs/cgroup/box/web on /sys/fs/cgroup set +f -0\n"
    );
}

#[test]
fn without_no_new_privs_the_filter_comes_before_the_capabilities_go() {
    let step = libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 };
    let filter = Some(Filter { program: vec![step], flags: 0 });
    for (safe, last) in [(true, "await Recorded\n"), (false, "set umask 0022\n")] {
        let mut json: Value = serde_json::from_str(TEMPLATE).unwrap();
        json["process"]["noNewPrivileges"] = json!(safe);
        let spec: Spec = spec::parse(&json.to_string()).unwrap();
        let plan = create(&spec, Path::new("/b"), &host(), filter.clone(), Wishes::default()).unwrap().to_string();
        assert!(plan.contains(&format!("{last}install seccomp filter of 1 instructions, flags 0\n")), "{plan}");
    }
}

#[test]
fn hooks_stand_at_their_points() {
    let hook = |name: &str| json!([{ "path": format!("/{name}") }]);
    let hooks = json!({
        "prestart": hook("a"), "createRuntime": hook("b"), "createContainer": hook("c"),
        "startContainer": hook("d"), "poststart": hook("e"), "poststop": hook("f")
    });
    let mut json: Value = serde_json::from_str(TEMPLATE).unwrap();
    json["hooks"] = hooks;
    json["process"]["terminal"] = json!(false);
    let spec: Spec = spec::parse(&json.to_string()).unwrap();
    let wishes = Wishes { wait: true, ..Wishes::default() };
    let plan = create(&spec, Path::new("/b"), &host(), None, wishes).unwrap().to_string();
    assert_eq!(
        between(&plan, "link /dev/ptmx", "make /proc/bus"),
        "say Hooks\nawait Hooked\nawait Recorded\nrun createContainer hook /c\n"
    );
    assert_eq!(between(&plan, "await start", "execute"), "run startContainer hook /d\n");
}

#[test]
fn a_terminal_is_opened_and_mounted_before_the_pivot() {
    let text = text(&[("/process/terminal", json!(true)), ("/process/cwd", json!("/work/dir"))]);
    assert_eq!(
        between(&text, "link /dev/ptmx", "make /proc/bus"),
        "open a terminal\nmount the terminal on /dev/console\nmake directory /work/dir\n"
    );
}

#[test]
fn propagation_of_the_root() {
    for (word, first, last) in [
        ("rshared", "make / rshared\n", "make the new / rshared\n"),
        ("slave", "make / rslave\n", "make the new / slave\n"),
        ("unbindable", "make / rprivate\n", "make the new / unbindable\n"),
    ] {
        let text = text(&[("/linux/rootfsPropagation", json!(word))]);
        assert!(text.contains(first) && text.contains(&format!("pivot to the rootfs\n{last}")), "{text}");
    }
}

#[test]
fn what_may_not_be_covered_is_refused() {
    let refused = |destination: &str, options: Value| {
        let mounts = json!([{ "destination": destination, "source": "/x", "type": "none", "options": options }]);
        planned(&[("/mounts", mounts)], &host(), Wishes::default()).unwrap_err().to_string()
    };
    assert_eq!(refused("/proc/sys", json!(["bind"])), "mounts[0].destination: /proc/sys must not be covered");
    assert_eq!(refused("/a/../proc/self/", json!(["rbind"])), "mounts[0].destination: /proc/self must not be covered");
    assert_eq!(refused("//", json!(["bind"])), "mounts[0].destination: must not be the root");
}

#[test]
fn capabilities_that_the_runtime_lacks_are_left_out_with_a_warning() {
    let host = Host { permitted: u64::MAX ^ 1 << 10, ..host() };
    let plan = planned(&[], &host, Wishes::default()).unwrap();
    assert_eq!(plan.warnings, ["ignoring unknown or unavailable capabilities: [CAP_NET_BIND_SERVICE]"]);
    assert!(plan.to_string().contains("set capabilities effective 20000020 permitted 20000020"));
}

#[test]
fn ambient_needs_inheritable_and_permitted() {
    let sets = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "effective": ["CAP_KILL", "CAP_SYS_ADMIN"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL", "CAP_CHOWN"]
    });
    let text = text(&[("/process/capabilities", sets)]);
    assert!(text.contains("set capabilities effective 20 permitted 21 inheritable 20 ambient 20\n"), "{text}");
}

#[test]
fn a_program_is_looked_for_in_its_own_path() {
    let plan = planned(&[("/process/env", json!(["PATH=/a:/b/::", "HOME=/h"]))], &host(), Wishes::default()).unwrap();
    let places = plan.steps.iter().find_map(|step| match step {
        Step::Program(places) => Some(places.clone()),
        _ => None,
    });
    let places: Vec<String> = places.unwrap().iter().map(|place| place.to_string_lossy().into_owned()).collect();
    assert_eq!(places, ["/a/sh", "/b/sh", "./sh", "./sh"]);
    assert!(!plan.to_string().contains("find HOME"));
}

#[test]
fn exec_hides_before_it_joins() {
    let mut spec: Spec = spec::parse(TEMPLATE).unwrap();
    let process = spec.process_mut().as_mut().unwrap();
    process.set_terminal(Some(true)).set_oom_score_adj(Some(100));
    let inside =
        Inside { spaces: flags::MOUNT | flags::USER | flags::NETWORK, around: flags::PID, ..Inside::default() };
    let plan = exec(process, inside, &host(), None, Wishes::default()).unwrap().to_string();
    assert!(
        plan.starts_with(
            "around the clone: join pid\nclone \nbecome undumpable\nset oom_score_adj 100\nenter the cgroup\nrun on every cpu\n\
             join mount user network namespace of the container\nbecome root of the user namespace\nstart a session\n\
             open a terminal\njoin session keyring _ses.web\n"
        ),
        "{plan}"
    );
    assert!(plan.ends_with("await Recorded\nexecute sh\n"), "{plan}");
}

#[test]
fn a_joined_user_namespace_owns_what_is_made_after_it() {
    let spaces = json!([
        { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "network", "path": "/run/net" },
        { "type": "uts" }, { "type": "user", "path": "/run/user" }, { "type": "time" }
    ]);
    let changes =
        [("/linux/namespaces", spaces), ("/linux/timeOffsets", json!({ "boottime": { "secs": 7, "nanosecs": 0 } }))];
    let text = text(&changes);
    let order = "clone \nbecome undumpable\nenter the cgroup\nrun on every cpu\n\
         join network namespace /run/net if permitted\njoin user namespace /run/user\njoin network namespace /run/net\n\
         become root of the user namespace\nunshare time boottime 7 0\nclone mount uts ipc pid and go on there\n\
         start a session\nmake / rslave\n";
    assert!(text.starts_with(order), "{text}");
}

#[test]
fn an_ordinary_user_execs_from_inside_of_the_user_namespace() {
    let spec: Spec = spec::parse(TEMPLATE).unwrap();
    let process = spec.process().as_ref().unwrap();
    let inside = Inside { spaces: flags::MOUNT | flags::USER, around: flags::PID, ..Inside::default() };
    let host = Host { rootless: true, ..host() };
    let plan = exec(process, inside, &host, None, Wishes::default()).unwrap().to_string();
    assert!(plan.starts_with("clone \nbecome undumpable\n"), "{plan}");
    assert!(
        plan.contains(
            "join mount user pid namespace of the container\nbecome root of the user namespace\n\
             clone  and go on there\nstart a session\n"
        ),
        "{plan}"
    );
}

#[test]
fn an_ordinary_user_binds_from_inside_and_sees_cgroups_read_only() {
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 1 }]);
    let spaces = json!([{ "type": "user" }, { "type": "mount" }, { "type": "ipc" }]);
    let mounts = json!([
        { "destination": "/sys", "source": "/sys", "options": ["rbind", "ro"] },
        { "destination": "/sys/fs/cgroup", "type": "cgroup" }
    ]);
    let changes = [
        ("/linux/uidMappings", map.clone()),
        ("/linux/gidMappings", map),
        ("/linux/namespaces", spaces),
        ("/hostname", json!("")),
        ("/mounts", mounts),
    ];
    let host = Host { rootless: true, lesser: true, cgroups: Vec::new(), ..host() };
    let plan = planned(&changes, &host, Wishes::default()).unwrap();
    assert_eq!(plan.opens.list(), []);
    let text = plan.to_string();
    assert!(text.contains("become root of the user namespace\nunshare ipc\nstart a session\n"), "{text}");
    assert!(text.contains("await Mapped\nbecome undumpable\n"), "the maps of a hidden process are root's: {text}");
    assert_eq!(
        between(&text, "clone rootfs", "bind device"),
        "rbind /sys on /sys set +1 -0 recursively +1 -0 drop 20000e\n\
         mount tmpfs on /sys/fs/cgroup mode=755\nchange the mount on /sys/fs/cgroup set +1 -0\n"
    );
}

#[test]
fn mounts_in_full() {
    let map = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    let mounts = json!([
        { "destination": "/a", "source": "v", "options": ["rbind", "ro", "rnoexec", "rslave"] },
        { "destination": "/b", "source": "/v", "options": ["bind", "ridmap"], "uidMappings": map, "gidMappings": map },
        { "destination": "/c", "source": "rootfs/a", "options": ["bind", "relatime", "src-nofollow"] },
        { "destination": "/d", "type": "tmpfs", "source": "t", "options": ["ro", "size=1k", "tmpcopyup", "lazytime"] },
        { "destination": "/d", "type": "tmpfs", "source": "t", "options": ["remount", "size=2k"] },
        { "destination": "e", "type": "ext4", "source": "/dev/vda", "options": ["ro", "noload", "nosymfollow"] }
    ]);
    let plan = planned(&[("/mounts", mounts)], &host(), Wishes::default()).unwrap();
    let maps = IdMaps { uid: "0 1000 10\n".into(), gid: "0 1000 10\n".into() };
    assert_eq!(plan.opens.list(), [Open::Mapping(maps)]);
    assert_eq!(plan.warnings, ["mounts[5].destination: \"e\" is not absolute; it is taken from the root (deprecated)"]);
    let text = plan.to_string();
    assert_eq!(
        between(&text, "clone rootfs", "make device"),
        "rbind /bundle/v on /a set +1 -0 recursively +8 -0 drop 20000e rslave\n\
         bind /v on /b ids mapped recursively by slot 0\n\
         bind /bundle/rootfs/a on /c set +0 -70 drop 20008f\n\
         mount tmpfs on /d lazytime size=1k with a copy of what is there\n\
         change the mount on /d size=2k\n\
         mount ext4 on /e noload ro set +200001 -0\n"
    );
    assert!(text.contains("change the mount on /d set +1 -0\nmake / read-only\n"), "{text}");
}
