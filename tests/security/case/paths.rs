//! Case 04: what a rootfs or a volume leads to is found once, inside, and never looked up again.

use super::procfs::{exchanging, limits, stop};
use crate::scene::{Outcome, Runtime, Scene, Verdict, unless};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

/// What has appeared in the canary.
fn touched(canary: &Path) -> Option<String> {
    let found = fs::read_dir(canary).into_iter().flatten().flatten().next()?;
    Some(format!("{} was made on the host", found.path().display()))
}

/// A volume in which a directory and a link to the host's canary take each other's place, while containers start that
/// mount, make and bind below it.
pub(super) fn race(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("04-race", runtime)?;
    let (canary, volume) = (scene.canary()?, scene.house.path("volume"));
    fs::create_dir_all(volume.join("a")).map_err(|e| format!("make the volume: {e}"))?;
    symlink(&canary, volume.join("b")).map_err(|e| format!("link: {e}"))?;
    scene.bind(&volume, "/volume", &["bind"]);
    scene.mount(json!({ "type": "tmpfs", "source": "tmpfs", "destination": "/volume/a/mounted/here" }));
    scene.bind(Path::new("/bin/busybox"), "/volume/a/file", &["bind", "ro"]);
    scene.config["process"]["cwd"] = json!("/volume/a/cwd");
    scene.config["linux"]["devices"] =
        json!([{ "path": "/volume/a/node", "type": "c", "major": 1, "minor": 3, "fileMode": 438 }]);
    scene.args(&["/bin/true"]);
    let (time, most) = limits();
    let racer = exchanging(&volume, "a", "b", time + Duration::from_secs(60))?;
    let end = Instant::now() + time;
    let mut starts = 0;
    let mut found = None;
    while starts < most && Instant::now() < end && found.is_none() {
        let said = scene.run()?;
        found = touched(&canary);
        if said.failed() {
            scene.delete();
        }
        starts += 1;
    }
    stop(racer, &volume);
    if starts < 3 {
        return Err(format!("only {starts} starts in {time:?}"));
    }
    Ok(unless(found.map(|what| format!("{what} after {starts} starts"))))
}

/// The image's `/dev` is a link to a directory of the host.
pub(super) fn dev_link(runtime: &Runtime) -> Outcome {
    for mounted in [true, false] {
        let mut scene = Scene::new(if mounted { "04-dev" } else { "04-dev-bare" }, runtime)?;
        let canary = scene.canary()?;
        fs::remove_dir_all(scene.rootfs().join("dev")).map_err(|e| format!("remove dev: {e}"))?;
        symlink(&canary, scene.rootfs().join("dev")).map_err(|e| format!("link: {e}"))?;
        if !mounted {
            scene.without_mounts("/dev");
        }
        let _ = scene.args(&["/bin/true"]).run()?;
        if let Some(what) = touched(&canary) {
            return Ok(Verdict::Vulnerable(what));
        }
    }
    Ok(Verdict::Defended)
}

/// Links to the host on every way that a runtime makes by itself.
pub(super) fn targets(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("04-targets", runtime)?;
    let canary = scene.canary()?;
    let up = format!("../../../../../../../../..{}", canary.display());
    symlink(&canary, scene.rootfs().join("absolute")).map_err(|e| format!("link: {e}"))?;
    symlink(&up, scene.rootfs().join("upwards")).map_err(|e| format!("link: {e}"))?;
    symlink("/proc/1/root", scene.rootfs().join("magic")).map_err(|e| format!("link: {e}"))?;
    let plain = scene.config.clone();
    for way in ["/absolute".to_owned(), "/upwards".into(), format!("/magic{}", canary.display())] {
        for wish in ["cwd", "tmpfs", "bind", "device"] {
            scene.config = plain.clone();
            let to = format!("{way}/{wish}");
            match wish {
                "cwd" => scene.config["process"]["cwd"] = json!(to),
                "tmpfs" => scene.mount(json!({ "type": "tmpfs", "source": "tmpfs", "destination": to })),
                "bind" => scene.bind(Path::new("/bin/busybox"), &to, &["bind"]),
                _ => {
                    scene.config["linux"]["devices"] = json!([{ "path": to, "type": "c", "major": 1, "minor": 3 }]);
                }
            }
            let said = scene.args(&["/bin/true"]).run()?;
            if said.failed() {
                scene.delete();
            }
            if let Some(what) = touched(&canary) {
                return Ok(Verdict::Vulnerable(what));
            }
        }
    }
    Ok(Verdict::Defended)
}
