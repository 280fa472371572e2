//! Case 07: the container's cgroups are limits on it, not files of its own.

use crate::scene::{Outcome, Runtime, Scene, Verdict, unless};
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

/// A path with `..` must not make directories beside the trees.
pub(super) fn outside(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("07-out", runtime)?;
    let canary = scene.canary()?;
    let up = format!("/../../../../../../../..{}/cgroup", canary.display());
    scene.config["linux"]["cgroupsPath"] = json!(up);
    let said = scene.run()?;
    let made = canary.join("cgroup").exists();
    if made {
        return Ok(unless(Some("a directory was made outside".into())));
    }
    scene.config["linux"]["cgroupsPath"] = json!(format!("/{}", scene.house.name()));
    // Others take the path as one below the tree; what they made there is to be removed with the container.
    if said.failed() {
        return Ok(Verdict::Refuses);
    }
    let top = canary.components().nth(1).map(|name| name.as_os_str().to_owned()).unwrap_or_default();
    for tree in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        remove_below(&tree.path().join(&top), scene.house.name());
    }
    Ok(Verdict::Defended)
}

/// Removes the directories that lead to what was named after this scene, if they are empty.
fn remove_below(top: &Path, name: &str) {
    for below in [format!("{name}/canary/cgroup"), format!("{name}/canary"), name.to_owned(), String::new()] {
        let _ = std::fs::remove_dir(top.join(below));
    }
}
