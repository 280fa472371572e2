//! podman of Debian drives our runtime as it would runc: run, exec, stats, pause, limits, kill, remove.
//!
//! It keeps everything (images, state, locks) below the test's own directory; its containers have no network.
#![allow(clippy::unwrap_used)]

use gantry_tests::enclosure::{Enclosure, Said};
use gantry_tests::house::House;
use gantry_tests::{bundle, need, tools};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

const IMAGE: &str = "localhost/busybox:1";

struct Podman {
    place: Enclosure,
    podman: PathBuf,
    flags: Vec<String>,
    house: House,
}

impl Podman {
    /// podman with a storage of its own and one image; `None`, said loudly, where it is not installed.
    fn start(title: &str) -> Option<Self> {
        let found = (tools::find("podman"), tools::ours("gantry-runtime"));
        let (Some(podman), Some(runtime)) = found else {
            eprintln!("SKIPPED {title}: needs podman (Debian: podman) and a built gantry-runtime");
            return None;
        };
        let house = House::new(title);
        let place = Enclosure::new(&house);
        let below = |name: &str| house.path(name).display().to_string();
        let mut flags = Vec::new();
        for (flag, value) in [("root", below("root")), ("runroot", below("runroot")), ("tmpdir", below("state"))] {
            flags.extend([format!("--{flag}"), value]);
        }
        let fixed = ["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"];
        flags.extend(fixed.map(str::to_owned));
        flags.extend(["--runtime".to_owned(), runtime.display().to_string()]);
        let made = Self { place, podman, flags, house };
        bundle::rootfs(&made.house.path("tree")).unwrap();
        fs::set_permissions(made.house.path("tree/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        tools::output("tar", &["-C", &made.below("tree"), "-cf", &made.below("image.tar"), "."]).unwrap();
        made.ok(&["import", "--quiet", &made.below("image.tar"), IMAGE]);
        Some(made)
    }

    fn below(&self, name: &str) -> String {
        self.house.path(name).display().to_string()
    }

    fn call(&self, args: &[&str]) -> Said {
        let flags = self.flags.iter().map(String::as_str);
        self.place.run(&self.podman, &flags.chain(args.iter().copied()).collect::<Vec<_>>())
    }

    /// Runs a command that has to succeed, and returns what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let said = self.call(args);
        assert_eq!(said.code, 0, "podman {}: {said:?}", args.join(" "));
        said.out
    }

    /// `podman run` without a network, its cgroup named after the house.
    fn run(&self, args: &[&str]) -> Said {
        let parent = format!("--cgroup-parent=/{}", self.house.name());
        let mut all = vec!["run", "--network=none", &parent];
        all.extend(args);
        self.call(&all)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time=0"]);
        // The parent that its containers shared, with conmon's beside them, is podman's, which leaves both behind with any
        // runtime; one that is not empty is a leak that the house finds.
        for parent in gantry_tests::house::cgroups(self.house.name()) {
            for child in fs::read_dir(&parent).into_iter().flatten().flatten() {
                let gone = || fs::remove_dir(child.path()).is_ok();
                if child.file_name() == "conmon" && !gone() {
                    // conmon itself ends a moment after its container.
                    (0..100).any(|_| {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        gone()
                    });
                }
            }
            let _ = fs::remove_dir(parent);
        }
    }
}

#[test]
fn a_container_runs_and_gives_back_its_output_and_code() {
    let Some(podman) = Podman::start("podman-run") else { return };
    let said = podman.run(&["--rm", IMAGE, "/bin/sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.code, said.out.as_str()), (7, "out\n"), "{said:?}");
    assert!(said.err.contains("err\n"), "{said:?}");
    let said = podman.run(&["--rm", IMAGE, "no-such-program"]);
    assert_eq!(said.code, 127, "{said:?}");
    assert!(said.err.contains("not found"), "{said:?}");
    let said = podman.run(&["--rm", IMAGE, "/etc/passwd"]);
    assert_eq!(said.code, 126, "{said:?}");
    let said = podman.run(&["--rm", "--tty", IMAGE, "/bin/sh", "-c", "test -t 1 && echo a terminal"]);
    assert_eq!((said.code, said.out.trim_end()), (0, "a terminal"), "{said:?}");
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn what_podman_asks_for_holds_inside() {
    let Some(podman) = Podman::start("podman-options") else { return };
    fs::create_dir(podman.house.path("data")).unwrap();
    let volume = format!("{}:/data:ro", podman.below("data"));
    let script = "id -u; id -g; grep CapEff /proc/self/status; touch /data/x || echo data; touch /x || echo root; \
                  grep Seccomp: /proc/self/status; hostname; touch /tmp/x && echo tmp; ulimit -n; cat /dev/null";
    let said = podman.run(&[
        "--rm",
        "--user=1000:1001",
        "--read-only",
        "--cap-drop=all",
        "--hostname=web",
        "--ulimit=nofile=64:64",
        "--volume",
        &volume,
        IMAGE,
        "/bin/sh",
        "-c",
        script,
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    let wanted = "1000\n1001\nCapEff:\t0000000000000000\ndata\nroot\nSeccomp:\t2\nweb\ntmp\n64\n";
    assert_eq!(said.out, wanted, "{said:?}");
}

#[test]
fn a_running_container_is_entered_limited_frozen_and_ended() {
    let Some(podman) = Podman::start("podman-life") else { return };
    let limits = ["--memory=64m", "--pids-limit=50", "--cpus=0.5"];
    let said = podman.run(&[&["--detach", "--name=web"], &limits[..], &[IMAGE, "/bin/sleep", "600"]].concat());
    assert_eq!(said.code, 0, "{said:?}");

    let said = podman.call(&["exec", "web", "/bin/sh", "-c", "echo inside; exit 3"]);
    assert_eq!((said.code, said.out.as_str()), (3, "inside\n"), "{said:?}");
    let said = podman.call(&["exec", "web", "no-such-program"]);
    assert_eq!(said.code, 127, "{said:?}");
    assert_eq!(podman.ok(&["exec", "--user=1000", "--env=A=b", "web", "/bin/sh", "-c", "id -u; echo $A"]), "1000\nb\n");

    let stats = podman.ok(&["stats", "--no-stream", "--format={{.MemUsage}} {{.PIDs}}", "web"]);
    assert!(stats.contains("67.11MB") && stats.trim_end().ends_with(" 1"), "{stats}");
    assert!(podman.ok(&["top", "web"]).contains("/bin/sleep 600"));

    podman.ok(&["pause", "web"]);
    let status = || podman.ok(&["inspect", "--format={{.State.Status}}", "web"]);
    assert_eq!(status(), "paused\n");
    podman.ok(&["unpause", "web"]);
    assert_eq!(status(), "running\n");

    podman.ok(&["kill", "--signal=KILL", "web"]);
    assert_eq!(podman.ok(&["wait", "web"]), "137\n");
    podman.ok(&["rm", "web"]);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}

#[test]
fn the_fixture_is_possible_here() {
    need!(tools::is_root(), "needs root: without it every test above is skipped");
    assert!(tools::find("tar").is_some(), "tar is part of every Debian");
}
