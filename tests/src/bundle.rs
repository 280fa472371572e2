//! OCI bundles and root filesystems made of Debian's static busybox.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The programs that a busybox root filesystem offers under `/bin`.
const APPLETS: [&str; 30] = [
    "sh", "true", "false", "echo", "cat", "ls", "sleep", "id", "env", "kill", "ps", "mount", "hostname", "httpd",
    "wget", "nc", "dd", "head", "tail", "grep", "seq", "date", "mkdir", "rm", "ln", "readlink", "test", "touch", "yes",
    "stat",
];

/// Lays out a root filesystem with busybox in `dir`.
///
/// # Errors
/// busybox is not installed (Debian: busybox-static), or a file could not be made.
pub fn rootfs(dir: &Path) -> Result<(), String> {
    let busybox = crate::tools::find("busybox").ok_or("busybox is not installed (Debian: busybox-static)")?;
    for below in ["bin", "etc", "proc", "sys", "dev", "tmp", "var", "root", "www"] {
        fs::create_dir_all(dir.join(below)).map_err(|e| format!("make {below}: {e}"))?;
    }
    fs::copy(&busybox, dir.join("bin/busybox")).map_err(|e| format!("copy {}: {e}", busybox.display()))?;
    for applet in APPLETS {
        symlink("busybox", dir.join("bin").join(applet)).map_err(|e| format!("link {applet}: {e}"))?;
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    fs::write(dir.join("etc/passwd"), passwd).map_err(|e| format!("write etc/passwd: {e}"))?;
    fs::write(dir.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").map_err(|e| format!("write etc/group: {e}"))
}

/// Writes a bundle: the default configuration of `runtime spec` with other arguments, over a busybox rootfs.
///
/// # Errors
/// What [`rootfs`] returns, or the runtime could not write its default configuration.
pub fn bundle(dir: &Path, runtime: &Path, args: &[&str]) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("make {}: {e}", dir.display()))?;
    rootfs(&dir.join("rootfs"))?;
    crate::tools::output(&runtime.display().to_string(), &["spec", "--bundle", &dir.display().to_string()])?;
    edit(dir, |spec| {
        // Old peers refuse a bundle that says a newer version than their own.
        spec["ociVersion"] = json!("1.0.2");
        spec["process"]["args"] = json!(args);
        spec["process"]["terminal"] = json!(false);
    })
}

/// Changes the bundle's `config.json`.
///
/// # Errors
/// The file cannot be read, parsed or written.
pub fn edit(bundle: &Path, change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let file = bundle.join("config.json");
    let text = fs::read(&file).map_err(|e| format!("read {}: {e}", file.display()))?;
    let mut spec: Value = serde_json::from_slice(&text).map_err(|e| format!("parse {}: {e}", file.display()))?;
    change(&mut spec);
    fs::write(&file, spec.to_string()).map_err(|e| format!("write {}: {e}", file.display()))
}
