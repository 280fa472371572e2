//! Case 05: device nodes that the image brings are not what they seem to be.
//!
//! The goal stands for core_pattern, but belongs to the container's own UTS namespace: where an attack succeeds, a
//! runtime may make the file the program's standard output (runc 1.1.5 and crun 1.8 do), and whatever that prints is
//! written.

use crate::scene::{Outcome, Runtime, Scene, Verdict, unless};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

const GOAL: &str = "/proc/sys/kernel/domainname";

/// A rootfs that keeps its own `/dev`, in which the null device is a way to the goal.
pub(super) fn null(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("05-null", runtime)?;
    scene.without_mounts("/dev");
    // What is masked with the fake would open for writing.
    scene.config["linux"]["readonlyPaths"] = json!(["/proc/bus"]);
    scene.config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/kcore"]);
    symlink(GOAL, scene.rootfs().join("dev/null")).map_err(|e| format!("link: {e}"))?;
    let script = format!("/attack same /proc/keys {GOAL}; /attack writable /proc/keys; echo ran");
    let said = scene.script(&script).run()?;
    if said.failed() && !said.out.contains("ran") {
        return Ok(Verdict::Refuses);
    }
    if !said.out.contains("ran") {
        return Ok(Verdict::Vulnerable("the goal is the program's standard output".into()));
    }
    let door = said.out.lines().next() == Some("same");
    Ok(unless(door.then(|| "a masked path is the goal".to_owned())))
}

/// Runs with a terminal that goes to a socket; what the container wrote to a file of its rootfs.
fn with_terminal(scene: &mut Scene, script: &str) -> Result<(bool, String), String> {
    let socket = scene.house.path("console.sock");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(|e| format!("listen: {e}"))?;
    scene.config["process"]["terminal"] = json!(true);
    scene.script(&format!("( {script} ) > /result 2>&1; sleep 0.1"));
    let text = socket.display().to_string();
    let said = scene.call(&["run", "--detach", "--console-socket", &text, &scene.id])?;
    drop(listener);
    let file = scene.rootfs().join("result");
    let ran = !said.failed();
    for _ in 0..200 {
        if !ran || fs::read_to_string(&file).is_ok_and(|text| text.contains("ran")) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    scene.delete();
    Ok((ran, found))
}

/// Where the terminal lies, the image has links to the goal.
pub(super) fn terminal(runtime: &Runtime) -> Outcome {
    for bare in [true, false] {
        let mut scene = Scene::new(if bare { "05-pts-bare" } else { "05-pts" }, runtime)?;
        let pts = scene.rootfs().join("dev/pts");
        fs::create_dir_all(&pts).map_err(|e| format!("make: {e}"))?;
        for name in ["pts/0", "pts/1", "pts/ptmx", "ptmx"] {
            symlink(GOAL, scene.rootfs().join("dev").join(name)).map_err(|e| format!("link: {e}"))?;
        }
        if bare {
            scene.without_mounts("/dev");
        }
        scene.config["linux"]["readonlyPaths"] = json!([]);
        let script = format!("/attack same /dev/console {GOAL}; grep domainname /proc/self/mountinfo; echo ran");
        let (ran, found) = with_terminal(&mut scene, &script)?;
        if ran && (found.lines().next() == Some("same") || found.contains("/sys/kernel/domainname ")) {
            return Ok(Verdict::Vulnerable("the terminal is the goal".into()));
        }
    }
    Ok(Verdict::Defended)
}

/// `/dev/console` is a link: the terminal would be mounted on what it names, or that would be opened.
pub(super) fn console(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("05-console", runtime)?;
    scene.without_mounts("/dev");
    scene.mount(json!({ "type": "devpts", "source": "devpts", "destination": "/dev/pts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"] }));
    fs::create_dir_all(scene.rootfs().join("dev")).map_err(|e| format!("make: {e}"))?;
    symlink(GOAL, scene.rootfs().join("dev/console")).map_err(|e| format!("link: {e}"))?;
    let script = format!("/attack same /dev/console {GOAL}; grep domainname /proc/self/mountinfo; echo ran");
    let (ran, found) = with_terminal(&mut scene, &script)?;
    if !ran {
        return Ok(Verdict::Refuses);
    }
    Ok(unless(found.contains("/sys/kernel/domainname ").then(|| "it is mounted on the goal".to_owned())))
}
