//! Case 03: what is meant for procfs goes to procfs, whatever the container's `/proc` is.

use crate::scene::{Outcome, Runtime, Scene, Verdict, unless};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The score that the container asks for.
const SCORE: i32 = 77;

/// A parameter and a score to be set.
fn with_wishes(title: &str, runtime: &Runtime) -> Result<Scene, String> {
    let mut scene = Scene::new(title, runtime)?;
    scene.config["linux"]["sysctl"] = json!({ "kernel.shm_rmid_forced": "1" });
    scene.config["process"]["oomScoreAdj"] = json!(SCORE);
    Ok(scene)
}

/// Fake files for everything that a runtime writes below `/proc`.
fn fake(dir: &Path) -> Result<(), String> {
    for file in ["sys/kernel/shm_rmid_forced", "self/oom_score_adj", "self/attr/exec", "self/attr/apparmor/exec"] {
        for file in [file.to_owned(), file.replace("self/", "thread-self/"), file.replace("self/", "1/")] {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().expect("a file")).map_err(|e| format!("fake: {e}"))?;
            fs::write(&path, "fake").map_err(|e| format!("fake: {e}"))?;
        }
    }
    Ok(())
}

/// The score and the parameter as the kernel has them for the container's process, asked from outside.
fn wishes_held(scene: &Scene) -> Result<Option<String>, String> {
    let pid = scene.pid()?;
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default();
    if score.trim() != SCORE.to_string() {
        return Ok(Some(format!("oom_score_adj is {} in truth", score.trim())));
    }
    let enter = std::process::Command::new("nsenter")
        .arg(format!("--ipc=/proc/{pid}/ns/ipc"))
        .args(["cat", "/proc/sys/kernel/shm_rmid_forced"])
        .output();
    let forced = enter.map_err(|e| format!("nsenter: {e}"))?;
    let forced = String::from_utf8_lossy(&forced.stdout).trim().to_owned();
    Ok((forced != "1").then(|| format!("the parameter is {forced} in truth")))
}

/// Starts a sleeping container; refused is as good as done right.
fn judge(scene: &mut Scene) -> Outcome {
    let said = scene.args(&["/bin/sleep", "100"]).detach(true)?;
    if said.failed() {
        return Ok(Verdict::Refuses);
    }
    Ok(unless(wishes_held(scene)?))
}

pub(super) fn fake_directory(runtime: &Runtime) -> Outcome {
    let mut scene = with_wishes("03-fake", runtime)?;
    scene.without_mounts("/proc");
    scene.config["linux"]["maskedPaths"] = json!([]);
    scene.config["linux"]["readonlyPaths"] = json!([]);
    fake(&scene.rootfs().join("proc"))?;
    judge(&mut scene)
}

/// `/proc` leads to a directory of fakes, on which procfs is not to be mounted.
pub(super) fn link(runtime: &Runtime) -> Outcome {
    let mut scene = with_wishes("03-link", runtime)?;
    fake(&scene.rootfs().join("tmp/proc"))?;
    fs::remove_dir(scene.rootfs().join("proc")).map_err(|e| format!("remove proc: {e}"))?;
    symlink("tmp/proc", scene.rootfs().join("proc")).map_err(|e| format!("link: {e}"))?;
    judge(&mut scene)
}

/// Mounts over files of procfs that a runtime writes to, by their names and over a link.
pub(super) fn cover(runtime: &Runtime) -> Outcome {
    for (at, target) in ["/proc/self/attr", "/proc/sys/kernel", "/proc/self", "/way/self/attr"].iter().enumerate() {
        for kind in ["tmpfs", "bind"] {
            let mut scene = with_wishes(&format!("03-cover-{at}-{kind}"), runtime)?;
            symlink("/proc", scene.rootfs().join("way")).map_err(|e| format!("link: {e}"))?;
            let dir = scene.canary()?;
            fake(&dir)?;
            match kind {
                "tmpfs" => scene.mount(json!({ "type": "tmpfs", "source": "tmpfs", "destination": target })),
                _ => scene.bind(&dir.join("self/attr"), target, &["bind"]),
            }
            match judge(&mut scene)? {
                Verdict::Vulnerable(how) => return Ok(Verdict::Vulnerable(format!("{kind} on {target}: {how}"))),
                Verdict::Defended => return Ok(Verdict::Vulnerable(format!("{kind} on {target} is mounted"))),
                _ => {}
            }
        }
    }
    Ok(Verdict::Refuses)
}

/// The helper outside, which exchanges two entries of a directory.
pub(super) fn exchanging(dir: &Path, one: &str, other: &str, time: Duration) -> Result<Child, String> {
    let own = std::env::current_exe().map_err(|e| format!("find the own program: {e}"))?;
    let mut command = std::process::Command::new(own);
    command.args(["attack", "exchange"]).arg(dir).args([one, other, &time.as_secs().max(1).to_string()]);
    command.stdin(Stdio::null()).spawn().map_err(|e| format!("start the racer: {e}"))
}

/// Ends it and waits.
pub(super) fn stop(mut racer: Child, dir: &Path) {
    let _ = fs::write(dir.join("stop"), "");
    let _ = racer.wait();
}

/// How long a race lasts, and how many starts it has at most.
pub(super) fn limits() -> (Duration, usize) {
    let asked = std::env::var("GANTRY_SECURITY_SECONDS").ok().and_then(|text| text.parse().ok());
    (Duration::from_secs(asked.unwrap_or(3)), 100_000)
}

/// The rootfs' `/proc` is exchanged with a link to fakes all the while: it may be refused or mounted, but what is set is
/// set in the kernel.
pub(super) fn race(runtime: &Runtime) -> Outcome {
    let mut scene = with_wishes("03-race", runtime)?;
    let root = scene.rootfs();
    fake(&root.join("fake"))?;
    symlink("fake", root.join("other")).map_err(|e| format!("link: {e}"))?;
    let (time, most) = limits();
    let racer = exchanging(&root, "proc", "other", time + Duration::from_secs(60))?;
    let end = Instant::now() + time;
    let (mut ran, mut verdict) = (0, Ok(Verdict::Refuses));
    for _ in 0..most {
        verdict = judge(&mut scene);
        scene.delete();
        ran += usize::from(verdict == Ok(Verdict::Defended));
        if Instant::now() > end || !matches!(verdict, Ok(Verdict::Refuses | Verdict::Defended)) {
            break;
        }
    }
    stop(racer, &root);
    match verdict {
        Ok(Verdict::Refuses) if ran > 0 => Ok(Verdict::Defended),
        verdict => verdict,
    }
}

/// A profile that cannot hold is an error, not a container without it.
pub(super) fn label(runtime: &Runtime) -> Outcome {
    if Path::new("/sys/kernel/security/apparmor").exists() {
        return Ok(Verdict::NotApplicable("this kernel has AppArmor".into()));
    }
    let mut scene = Scene::new("03-label", runtime)?;
    scene.config["process"]["apparmorProfile"] = json!("gantry-test");
    let said = scene.run()?;
    Ok(if said.failed() { Verdict::Refuses } else { Verdict::Vulnerable("runs without its profile".into()) })
}
