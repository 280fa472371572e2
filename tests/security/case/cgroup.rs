//! Case 07: the container's cgroups are limits on it, not files of its own.

use crate::scene::{Outcome, Runtime, Scene, Verdict};
use serde_json::json;
use std::path::Path;

/// Tries to make a directory, and to write, in every tree; what it made it removes.
const WRITE: &str = "for file in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
    [ -e $file ] || continue
    dir=${file%/*}
    if mkdir $dir/gantry-evil 2>/dev/null; then echo made in $dir; rmdir $dir/gantry-evil 2>/dev/null; fi
    if ( : >> $file ) 2>/dev/null; then echo opened $file; fi
done; echo ran";

/// Without a cgroup namespace; with the trees mounted by the runtime, and over a bind of the host's `/sys`.
pub(super) fn writable(runtime: &Runtime) -> Outcome {
    for bound in [false, true] {
        for own in [false, true] {
            let mut scene = Scene::new("07", runtime)?;
            if !own {
                scene.without_namespace("cgroup");
            }
            scene.add_capabilities(&["CAP_DAC_OVERRIDE"]);
            if bound {
                let cgroups: Vec<_> = scene.config["mounts"].as_array().cloned().unwrap_or_default();
                let cgroups: Vec<_> = cgroups.into_iter().filter(|m| m["destination"] == "/sys/fs/cgroup").collect();
                scene.without_mounts("/sys");
                scene.bind(Path::new("/sys"), "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
                cgroups.into_iter().for_each(|mount| scene.mount(mount));
            }
            let said = scene.script(WRITE).run()?;
            if !said.out.contains("ran") {
                return Err(format!("bound {bound}, own namespace {own}: {}", said.err));
            }
            if let Some(line) = said.out.lines().find(|line| *line != "ran") {
                return Ok(Verdict::Vulnerable(format!("bound {bound}, own namespace {own}: {line}")));
            }
        }
    }
    Ok(Verdict::Defended)
}

/// A path with `..` must not lead to a directory beside the trees, in which files are called as in a cgroup.
pub(super) fn outside(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("07-out", runtime)?;
    let canary = scene.canary()?;
    let files = ["cgroup.procs", "tasks", "devices.allow", "devices.deny", "pids.max", "cpuset.cpus", "cpuset.mems"];
    for file in files {
        std::fs::write(canary.join(file), "").map_err(|e| format!("write {file}: {e}"))?;
    }
    let up = format!("/../../../../../../../..{}", canary.display());
    scene.config["linux"]["cgroupsPath"] = json!(up);
    let said = scene.run()?;
    let untouched = |file: &&str| std::fs::read(canary.join(file)).is_ok_and(|text| text.is_empty());
    let touched = files.iter().find(|file| !untouched(file));
    // Others take the path as one below the trees; what they made there goes with the container, its parents stay.
    let below = canary.strip_prefix("/").unwrap_or(&canary);
    for tree in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let made = tree.path().join(below);
        made.ancestors().take(below.components().count()).for_each(|dir| drop(std::fs::remove_dir(dir)));
    }
    if let Some(file) = touched {
        return Ok(Verdict::Vulnerable(format!("{file} outside of the trees was written or removed")));
    }
    Ok(if said.failed() { Verdict::Refuses } else { Verdict::Defended })
}
