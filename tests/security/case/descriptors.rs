//! Case 02: descriptors of the runtime, or of its caller, within reach of a container.

use crate::scene::{Outcome, Runtime, Scene, Verdict, unless};
use gantry_tests::tools;
use serde_json::json;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// The highest descriptor that is tried; a runtime has some dozen open.
fn most() -> u32 {
    let asked = std::env::var("GANTRY_SECURITY_FDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(40)
}

pub(super) fn cwd_of_run(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("02-cwd-run", runtime)?;
    let secret = scene.canary()?.join("secret");
    fs::write(&secret, "secret").map_err(|e| format!("write: {e}"))?;
    for number in 0..most() {
        scene.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        scene.script(&format!("for up in . .. ../.. ../../.. ../../../..; do cat $up{} ; done", secret.display()));
        let said = scene.run()?;
        if said.out.contains("secret") {
            return Ok(Verdict::Vulnerable(format!("/proc/self/fd/{number} leads to the host")));
        }
        if said.code == 0 {
            return Ok(Verdict::Vulnerable(format!("starts in /proc/self/fd/{number}")));
        }
    }
    Ok(Verdict::Defended)
}

pub(super) fn cwd_of_exec(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("02-cwd-exec", runtime)?;
    scene.sleeping()?;
    let mut reached = None;
    for number in 0..most() {
        // A link in the container, so that nobody can refuse by the text alone.
        let link = scene.rootfs().join("way");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), &link).map_err(|e| format!("link: {e}"))?;
        for cwd in [format!("/proc/self/fd/{number}"), "/way".into()] {
            let said = scene.exec(&["--cwd", &cwd, "/bin/sh", "-c", "pwd; ls -d ../../../../bin"]);
            let said = said.or_else(|_| scene.call(&["exec", "--cwd", &cwd, &scene.id, "/bin/true"]))?;
            let said = if said.failed() { scene.call(&["exec", "--cwd", &cwd, &scene.id, "/bin/true"])? } else { said };
            if said.code == 0 {
                reached = Some(format!("starts in {cwd}"));
            }
        }
    }
    Ok(unless(reached))
}

/// A program of the host, which only a directory of the host leads to.
pub(super) fn program(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("02-program", runtime)?;
    let host = scene.canary()?.join("busybox");
    fs::copy("/bin/busybox", &host).map_err(|e| format!("copy busybox: {e}"))?;
    scene.add_capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"]);
    let (own, path) = (std::process::id(), host.display().to_string());
    for number in 3..most() {
        for way in ["1/root".into(), format!("{own}/root"), "../../../..".into(), "..".into()] {
            scene.args(&[&format!("/proc/self/fd/{number}/{way}{path}"), "echo", "outside"]);
            if scene.run()?.out.contains("outside") {
                return Ok(Verdict::Vulnerable(format!("runs /proc/self/fd/{number}/{way}{path}")));
            }
        }
    }
    Ok(Verdict::Defended)
}

/// The caller's own descriptors stay outside.
pub(super) fn inherited(runtime: &Runtime) -> Outcome {
    let Some(bash) = tools::find("bash") else { return Ok(Verdict::NotApplicable("no bash to open them".into())) };
    let mut scene = Scene::new("02-inherited", runtime)?;
    let mut seen = Vec::new();
    let list = "cd /proc/self/fd; for fd in *; do [ $fd -gt 2 ] && readlink $fd; done; true";
    scene.script(list);
    let open = "for fd in {10..59}; do eval \"exec $fd</\"; done; exec \"$@\"";
    let through = |scene: &Scene, args: &[&str]| -> Result<String, String> {
        let plain = scene.command(args)?;
        let mut command = std::process::Command::new(&bash);
        command.args(["-c", open, "bash"]).arg(plain.get_program()).args(plain.get_args());
        command.current_dir(scene.house.path("bundle"));
        let said = crate::scene::finish(&mut command, scene.house.dir())?;
        if said.failed() { Err(said.err) } else { Ok(said.out) }
    };
    seen.push(through(&scene, &["run", &scene.id])?);
    scene.delete();
    scene.sleeping()?;
    seen.push(through(&scene, &["exec", &scene.id, "/bin/sh", "-c", list])?);
    // The shell's own handle on the directory that it lists is no leak.
    let leaked = seen.iter().flat_map(|text| text.lines()).find(|line| *line == "/" || line.starts_with("/sys"));
    Ok(unless(leaked.map(|line| format!("{line} is open inside"))))
}

/// A container that waits for its start, and a process beside it.
pub(super) fn waiting(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("02-waiting", runtime)?;
    scene.add_capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
    let made = scene.args(&["/bin/sleep", "100"]).detach(false)?;
    if made.failed() {
        return Err(format!("create: {}", made.err));
    }
    let said = scene.exec(&["/attack", "descriptors"])?;
    if !said.out.contains("looked") {
        return Ok(Verdict::NotApplicable("no exec before start".into()));
    }
    let found = said.out.lines().find(|line| line.contains("writable") || line.contains("is a directory"));
    Ok(unless(found.map(str::to_owned)))
}

/// A hook holds `run` up before paths are masked and the pivot; an exec that comes meanwhile must not profit.
pub(super) fn early(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("02-early", runtime)?;
    let (dir, here) = (scene.canary()?, scene.house.dir().to_owned());
    let (begun, go, secret) = (here.join("begun"), here.join("go"), dir.join("secret"));
    fs::write(&secret, "").map_err(|e| format!("write: {e}"))?;
    let wait = format!(
        ": > {}; for i in 0 1 2 3 4 5 6 7 8 9; do [ -e {} ] && exit 0; sleep 0.2; done",
        begun.display(),
        go.display()
    );
    scene.config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", wait] }] });
    scene.args(&["/bin/sleep", "100"]);
    let mut run = scene.command(&["run", "--detach", &scene.id])?;
    run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().map_err(|e| format!("start: {e}"))?;
    for _ in 0..500 {
        if begun.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Opened for writing at most, never written.
    let test =
        format!("[ -e {} ] && echo outside; ( : >> /proc/sys/kernel/domainname ) && echo open", secret.display());
    let said = scene.exec(&["/bin/sh", "-c", &test]);
    let _ = fs::write(&go, "");
    let _ = run.wait();
    let said = said?;
    if said.out.contains("outside") {
        return Ok(Verdict::Vulnerable("exec runs on the host's files".into()));
    }
    Ok(unless(said.out.contains("open").then(|| "exec runs before /proc/sys is read-only".to_owned())))
}
