//! Case 01: the runtime's binary, executed inside of a container, must not be writable from there.
//!
//! The runtime under attack is a copy, so that a success harms nobody.

use crate::scene::{Outcome, Runtime, Scene, unless};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

/// How many times the runtime comes by.
const VISITS: usize = 20;

/// A container whose process waits for the runtime with every capability that helps, and the copy's bytes.
fn trap(title: &str, runtime: &Runtime) -> Result<(Scene, Vec<u8>), String> {
    let mut scene = Scene::new(title, runtime)?;
    let copy = scene.house.path("runtime-under-attack");
    let bytes = fs::read(&runtime.program).map_err(|e| format!("read the runtime: {e}"))?;
    fs::write(&copy, &bytes).map_err(|e| format!("copy the runtime: {e}"))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).map_err(|e| format!("copy the runtime: {e}"))?;
    scene.runtime.program = copy;
    scene.add_capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"]);
    Ok((scene, bytes))
}

/// Starts the attacker as the container's own program: no runtime is left running then, which would keep its binary
/// busy (ETXTBSY) and so hide that it can be written.
fn start(scene: &mut Scene) -> Result<(), String> {
    let said = scene.args(&["/attack", "overwrite", "5"]).detach(true)?;
    if said.failed() { Err(format!("the attacker does not start: {}", said.err)) } else { Ok(()) }
}

fn judge(scene: &Scene, bytes: &[u8]) -> Outcome {
    let now = fs::read(&scene.runtime.program).map_err(|e| format!("read the copy: {e}"))?;
    let verdict = unless((now != bytes).then(|| "the binary has changed".to_owned()));
    // A changed binary runs nothing any more, and the container is to be deleted.
    fs::remove_file(&scene.runtime.program).map_err(|e| format!("remove the copy: {e}"))?;
    fs::write(&scene.runtime.program, bytes).map_err(|e| format!("restore the copy: {e}"))?;
    fs::set_permissions(&scene.runtime.program, fs::Permissions::from_mode(0o755)).map_err(|e| format!("{e}"))?;
    Ok(verdict)
}

/// exec of `/proc/self/exe`, which names the runtime for as long as nothing else was executed.
pub(super) fn by_exec(runtime: &Runtime) -> Outcome {
    let (mut scene, bytes) = trap("01-exec", runtime)?;
    start(&mut scene)?;
    for _ in 0..VISITS {
        // The runtime shows up: as itself while it enters, and as what it is made to execute.
        let _ = scene.exec(&["/proc/self/exe", "--help"])?;
        std::thread::sleep(Duration::from_millis(50));
    }
    judge(&scene, &bytes)
}

/// A second container in the attacker's PID namespace, whose program is the runtime.
pub(super) fn by_run(runtime: &Runtime) -> Outcome {
    let (mut scene, bytes) = trap("01-run", runtime)?;
    start(&mut scene)?;
    let pid = scene.pid()?;
    let (first, config) = (scene.id.clone(), scene.config.clone());
    scene.id = format!("{first}-second");
    scene.config["linux"]["cgroupsPath"] = json!(format!("/{first}-second"));
    for space in scene.config["linux"]["namespaces"].as_array_mut().expect("a list") {
        if space["type"] == "pid" {
            space["path"] = json!(format!("/proc/{pid}/ns/pid"));
        }
    }
    scene.args(&["/proc/self/exe", "--help"]);
    for _ in 0..VISITS {
        let _ = scene.run()?;
        std::thread::sleep(Duration::from_millis(50));
        scene.delete();
    }
    (scene.id, scene.config) = (first, config);
    judge(&scene, &bytes)
}
