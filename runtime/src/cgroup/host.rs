//! Tests on directories: a temporary tree in place of cgroupfs, and, as root, the real trees of this host.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;

use super::controller::{Controller, Version};
use super::layout::{Hierarchy, Layout};
use super::tree::Cgroup;
use crate::error::Kind;

pub(super) fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// A directory that is removed with everything in it.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("gantry-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(super) fn tree(&self, name: &str, version: Version, controllers: &[Controller]) -> Hierarchy {
        let mount = self.0.join(name);
        fs::create_dir_all(&mount).unwrap();
        let offered = if version == Version::V2 { vec!["cpu".to_owned(), "memory".to_owned()] } else { Vec::new() };
        Hierarchy { mount, version, controllers: controllers.to_vec(), offered }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(super) fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn v2_hands_missing_controllers_down_at_every_level() {
    let scratch = Scratch::new("hand-down");
    let layout = Layout::of(vec![scratch.tree("v2", Version::V2, &[Controller::Cpu, Controller::Memory])]);
    let root = scratch.0.join("v2");
    put(&root.join("cgroup.subtree_control"), "cpu");
    put(&root.join("pods/cgroup.subtree_control"), "cpu memory");
    put(&root.join("pods/pod1/cgroup.subtree_control"), "");
    Cgroup::at(&layout, Path::new("/pods/pod1/web")).unwrap().create().unwrap();
    let control = |level: &str| fs::read_to_string(root.join(level).join("cgroup.subtree_control")).unwrap();
    assert_eq!(control(""), "+memory", "only what is missing is written");
    assert_eq!(control("pods"), "cpu memory", "nothing to write");
    assert_eq!(control("pods/pod1"), "+cpu +memory");
    assert!(root.join("pods/pod1/web").is_dir());
    assert!(!root.join("pods/pod1/web/cgroup.subtree_control").exists(), "the container's own level is its own");
}

#[test]
fn v1_cpusets_are_inherited_level_by_level() {
    let scratch = Scratch::new("cpuset");
    let layout = Layout::of(vec![scratch.tree("cpuset", Version::V1, &[Controller::Cpuset])]);
    let root = scratch.0.join("cpuset");
    for (level, cpus) in [("", "0-3\n"), ("a", "1\n"), ("a/b", "\n")] {
        put(&root.join(level).join("cpuset.cpus"), cpus);
        put(&root.join(level).join("cpuset.mems"), "0\n");
    }
    Cgroup::at(&layout, Path::new("a/b")).unwrap().create().unwrap();
    assert_eq!(fs::read_to_string(root.join("a/cpuset.cpus")).unwrap(), "1\n", "set already");
    assert_eq!(fs::read_to_string(root.join("a/b/cpuset.cpus")).unwrap(), "1");
}

#[test]
fn limits_go_to_the_tree_of_their_controller() {
    let scratch = Scratch::new("apply");
    let layout = Layout::of(vec![
        scratch.tree("memory", Version::V1, &[Controller::Memory]),
        scratch.tree("v2", Version::V2, &[Controller::Pids]),
    ]);
    for file in ["memory/web/memory.limit_in_bytes", "v2/web/pids.max", "v2/web/pids.peak"] {
        put(&scratch.0.join(file), "");
    }
    let web = Cgroup::at(&layout, Path::new("web")).unwrap();
    web.apply(&resources(r#"{"memory":{"limit":4096},"pids":{"limit":7},"unified":{"pids.peak":"x"}}"#)).unwrap();
    let read = |file: &str| fs::read_to_string(scratch.0.join(file)).unwrap();
    assert_eq!(read("memory/web/memory.limit_in_bytes"), "4096");
    assert_eq!(read("v2/web/pids.max"), "7");
    assert_eq!(read("v2/web/pids.peak"), "x");

    let error = web.apply(&resources(r#"{"memory":{"swap":8192}}"#)).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("memory.memsw.limit_in_bytes to 8192"), "{error}");
    let error = web.apply(&resources(r#"{"cpu":{"shares":2}}"#)).unwrap_err();
    assert!(error.to_string().contains("no cpu cgroup controller"), "{error}");
}

/// A cgroup on the real trees that is emptied and removed whatever happens.
pub(super) struct Real(pub(super) Cgroup);

impl Real {
    /// `None`, loudly, where this cannot be tried.
    pub(super) fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED {name}: needs root");
            return None;
        }
        let layout = Layout::discover().unwrap();
        let cgroup = Cgroup::at(&layout, Path::new(&format!("/gantry-{name}-{}", std::process::id()))).unwrap();
        match cgroup.create() {
            Ok(()) => Some(Self(cgroup)),
            Err(why) => {
                let _ = cgroup.delete(Duration::ZERO);
                eprintln!("SKIPPED {name}: cgroups cannot be made here: {why}");
                None
            }
        }
    }

    /// A shell that enters through the doors by itself, as a container does, and then runs `script`.
    pub(super) fn shell(&self, script: &str) -> Child {
        let doors = self.0.doors().unwrap();
        let mut files: Vec<String> =
            doors.tasks.iter().map(|fd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())).collect();
        // A shell is not cloned into the v2 tree.
        files.extend(self.0.unified_dir().map(|dir| dir.join("cgroup.procs").display().to_string()));
        let enter: String = files.iter().map(|file| format!("echo 0 > {file}; ")).collect();
        let mut child = Command::new("sh")
            .args(["-c", &format!("{enter} echo in; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        child
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.0.kill_all().unwrap();
        self.0.delete(Duration::from_secs(5)).unwrap();
        assert!(!self.0.exists());
    }
}

#[test]
fn real_limits_are_taken_and_changed_in_both_directions() {
    let Some(real) = Real::new("limits") else { return };
    let set = |json: &str| real.0.apply(&resources(json)).unwrap();
    set(
        r#"{"memory":{"limit":8388608,"swap":8388608},"cpu":{"shares":512,"quota":20000,"period":50000},"pids":{"limit":9}}"#,
    );
    assert_eq!(real.0.usage().unwrap().memory.unwrap().limit, Some(8_388_608));
    assert_eq!(real.0.usage().unwrap().pids_limit, Some(9));
    // Each would be refused if the writes went in one fixed order.
    set(r#"{"memory":{"limit":33554432,"swap":33554432}}"#);
    set(r#"{"memory":{"limit":8388608,"swap":8388608}}"#);
    set(r#"{"memory":{"limit":-1}}"#);
    assert_eq!(real.0.usage().unwrap().memory.unwrap().limit, None);
}

#[test]
fn a_process_enters_by_itself_and_all_are_killed() {
    let Some(real) = Real::new("enter") else { return };
    let mut child = real.shell("sleep 1000 & sleep 1000 & wait");
    let until = Instant::now() + Duration::from_secs(5);
    while real.0.pids().unwrap().len() < 3 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mine = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let name = real.0.path().display().to_string();
    assert!(mine.lines().all(|line| line.ends_with(&name)), "in every tree: {mine}");
    assert_eq!(real.0.pids().unwrap().len(), 3);
    assert!(real.0.usage().unwrap().pids.unwrap_or(3) >= 3);
    real.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
    real.0.delete(Duration::from_secs(5)).unwrap();
    assert!(!real.0.is_populated().unwrap());
}

#[test]
fn frozen_processes_stand_still_and_can_still_be_killed() {
    let Some(real) = Real::new("freeze") else { return };
    let mut child = real.shell("while read line; do echo $line; done");
    real.0.freeze().unwrap();
    assert!(real.0.is_frozen().unwrap());
    child.stdin.as_mut().unwrap().write_all(b"hi\n").unwrap();
    let out = child.stdout.as_ref().unwrap();
    let mut ready = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(out), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut ready, 100u16).unwrap(), 0, "it must not run");
    real.0.thaw().unwrap();
    assert!(!real.0.is_frozen().unwrap());
    assert_eq!(nix::poll::poll(&mut ready, 5000u16).unwrap(), 1, "it runs again");
    real.0.freeze().unwrap();
    real.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn who_froze_a_part_of_it_is_killed_too() {
    let Some(real) = Real::new("inner-freeze") else { return };
    let Some(dir) = real.0.dir(Controller::Freezer) else { return };
    let inner = dir.join("inner");
    fs::create_dir(&inner).unwrap();
    let mut child = real.shell("sleep 1000 & sleep 1000 & wait");
    let pid = real.0.pids().unwrap().into_iter().find(|pid| *pid != child.id() as i32);
    let until = Instant::now() + Duration::from_secs(5);
    let mut sleeper = pid;
    while sleeper.is_none() && Instant::now() < until {
        sleeper = real.0.pids().unwrap().into_iter().find(|pid| *pid != child.id() as i32);
    }
    put(&inner.join("cgroup.procs"), &sleeper.unwrap().to_string());
    let v1 = real.0.layout().version_of(Controller::Freezer) == Some(Version::V1);
    let (file, on) = if v1 { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
    put(&inner.join(file), on);
    assert!(!real.0.is_frozen().unwrap(), "it is the inner one");
    real.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
    real.0.delete(Duration::from_secs(5)).unwrap();
}

#[test]
fn a_cgroup_in_which_processes_come_and_go_still_freezes() {
    let Some(real) = Real::new("forks") else { return };
    real.0.apply(&resources(r#"{"pids":{"limit":60}}"#)).unwrap();
    let mut child = real.shell("for i in 1 2 3 4; do (while :; do sleep 0.001 & wait; done) & done; wait");
    for _ in 0..5 {
        real.0.freeze().unwrap();
        let mut before = real.0.pids().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let mut after = real.0.pids().unwrap();
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(before, after, "nobody is born and nobody dies");
        real.0.thaw().unwrap();
    }
    real.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_signal_reaches_all_and_leaves_them_as_they_were() {
    let Some(real) = Real::new("signal-all") else { return };
    let mut child = real.shell("trap 'echo got' USR1; echo set; read go; read end");
    let mut line = [0; 4];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    assert_eq!(&line, b"set\n");
    real.0.freeze().unwrap();
    real.0.signal_all(libc::SIGUSR1).unwrap();
    assert!(real.0.is_frozen().unwrap(), "who was frozen stays so");
    real.0.thaw().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    assert_eq!(&line, b"got\n");
    real.0.signal_all(libc::SIGKILL).unwrap();
    assert!(!real.0.is_frozen().unwrap());
    assert!(!child.wait().unwrap().success());
}

#[test]
fn an_oom_kill_is_counted_and_told() {
    let Some(real) = Real::new("oom") else { return };
    real.0.apply(&resources(r#"{"memory":{"limit":8388608,"swap":8388608}}"#)).unwrap();
    assert_eq!(real.0.oom_kills(), 0);
    let watch = real.0.oom_watch().unwrap();
    let mut child = real.shell("read go; x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(real.0.oom_kills(), 1);
    let flags = nix::poll::PollFlags::from_bits_truncate(watch.events());
    let mut ready = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&watch), flags)];
    assert_eq!(nix::poll::poll(&mut ready, 5000u16).unwrap(), 1);
    assert!(watch.seen());
    // v2 tells of each of the counts in the file, some of them 10 ms later.
    let quiet = (0..100).any(|_| nix::poll::poll(&mut ready, 20u16).unwrap() == 0 || !watch.seen());
    assert!(quiet && watch.seen());
}

#[test]
fn device_rules_hold() {
    let Some(real) = Real::new("devices") else { return };
    real.0.apply_devices(Some(&resources(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#))).unwrap();
    // Kernel log: a character device that is on every host and in no default.
    let mut child = real.shell("echo x > /dev/null && ! head -c 0 /dev/kmsg 2>/dev/null");
    assert!(child.wait().unwrap().success(), "null is open and kmsg is not");
    real.0
        .apply_devices(Some(&resources(r#"{"devices":[{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#)))
        .unwrap();
    let mut child = real.shell("head -c 0 /dev/kmsg");
    assert!(child.wait().unwrap().success(), "an update opens it");
}

#[test]
fn deleting_takes_what_the_container_made_below_and_what_is_missing() {
    let Some(real) = Real::new("delete") else { return };
    for tree in real.0.layout().hierarchies() {
        if tree.version == Version::V2 || !tree.controllers.contains(&Controller::Cpuset) {
            fs::create_dir_all(tree.mount.join(real.0.path()).join("inner/deeper")).unwrap();
        }
    }
    real.0.delete(Duration::from_secs(5)).unwrap();
    real.0.delete(Duration::ZERO).unwrap();
    assert!(!real.0.exists());
    assert_eq!(real.0.pids().unwrap(), Vec::<i32>::new());
}

#[test]
fn a_busy_cgroup_is_named_after_the_patience() {
    let Some(real) = Real::new("busy") else { return };
    let child = real.shell("sleep 1000");
    let error = real.0.delete(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.errno().map(|errno| errno.raw()), Some(libc::EBUSY));
    assert!(error.to_string().contains(&real.0.path().display().to_string()), "{error}");
    drop(real);
    drop(child);
}
