//! Cases 12, 19, 26 and 30: what is missing or broken closes doors rather than opens them.

use crate::scene::{Outcome, Runtime, Scene, Verdict, unless};
use gantry_tests::tools;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Everything below the state directory, tried by nobody.
pub(super) fn state(runtime: &Runtime) -> Outcome {
    let Some(setpriv) = tools::find("setpriv") else { return Ok(Verdict::NotApplicable("no setpriv".into())) };
    let mut scene = Scene::new("12", runtime)?;
    scene.sleeping()?;
    let mut command = std::process::Command::new(setpriv);
    let root = scene.house.path("state");
    let mut below = vec![root.clone(), root.join(&scene.id)];
    below.extend(fs::read_dir(root.join(&scene.id)).into_iter().flatten().flatten().map(|entry| entry.path()));
    let script = "for path; do ( : < \"$path\" ) 2>/dev/null && echo read \"$path\";
        ls \"$path\" >/dev/null 2>&1 && echo listed \"$path\"; done; echo tried";
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", script, "sh"]).args(&below);
    let said = crate::scene::finish(&mut command, scene.house.dir())?;
    if !said.out.contains("tried") {
        return Err(format!("nobody could not try: {}", said.err));
    }
    Ok(unless(said.out.lines().find(|line| *line != "tried").map(str::to_owned)))
}

/// The monitor's socket: a file for root alone, no abstract name that the host's network namespace would show, and no
/// answer for anybody else even where the modes were opened.
pub(super) fn socket(runtime: &Runtime) -> Outcome {
    if runtime.name != "ours" {
        return Ok(Verdict::NotApplicable("has no monitor".into()));
    }
    let Some(setpriv) = tools::find("setpriv") else { return Ok(Verdict::NotApplicable("no setpriv".into())) };
    let scene = Scene::new("11", runtime)?;
    let dir = scene.house.path("pod");
    let mut start = std::process::Command::new(&runtime.program);
    let said = crate::scene::finish(start.arg("monitor").arg("--dir").arg(&dir), scene.house.dir())?;
    if said.failed() {
        return Err(format!("monitor: {}", said.err));
    }
    let pid = fs::read_to_string(dir.join("monitor.pid")).unwrap_or_default();
    let pid = pid.split_whitespace().next().unwrap_or("none").to_owned();
    let verdict = judge_socket(&dir, &pid, &setpriv, &scene);
    let _ = std::process::Command::new("kill").arg(&pid).status();
    verdict
}

fn judge_socket(dir: &Path, pid: &str, setpriv: &Path, scene: &Scene) -> Outcome {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|e| format!("the monitor's descriptors: {e}"))?;
    let sockets: Vec<String> = links
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let all = fs::read_to_string("/proc/net/unix").map_err(|e| format!("/proc/net/unix: {e}"))?;
    let own = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut own = own.filter(|fields| fields.get(6).is_some_and(|inode| sockets.iter().any(|own| own == inode)));
    if sockets.is_empty() {
        return Err("the monitor has no socket".into());
    }
    if let Some(name) = own.find_map(|fields| fields.get(7).filter(|name| name.starts_with('@')).copied()) {
        return Ok(Verdict::Vulnerable(format!("{name} is abstract")));
    }
    let path = dir.join("monitor.sock");
    for (path, meant) in [(dir.to_owned(), 0o700), (path.clone(), 0o600), (dir.join("containers"), 0o700)] {
        let mode = fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?.permissions().mode() & 0o777;
        if mode != meant {
            return Ok(Verdict::Vulnerable(format!("{} has mode {mode:o}", path.display())));
        }
    }
    // Everything but the peer's credentials is out of the way now.
    for (path, mode) in [(dir.to_owned(), 0o755), (path.clone(), 0o666)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(|e| format!("open: {e}"))?;
    }
    let ask = |who: &[&str]| {
        let own = std::env::current_exe().map_err(|e| format!("the own program: {e}"))?;
        let mut command = std::process::Command::new(setpriv);
        command.args(who).arg(own).args(["attack", "ask"]).arg(&path);
        crate::scene::finish(&mut command, scene.house.dir())
    };
    if !ask(&["--reuid", "0"])?.out.contains("\"state\"") {
        return Err("root gets no answer either".into());
    }
    let nobody = ask(&["--reuid", "65534", "--regid", "65534", "--clear-groups"])?;
    Ok(unless(nobody.out.contains("\"state\"").then(|| "nobody gets an answer".to_owned())))
}

/// The host's parameter is written with the value that it has, so that a success changes nothing.
pub(super) fn sysctl(runtime: &Runtime) -> Outcome {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").map_err(|e| format!("core_pattern: {e}"))?;
    let pattern = pattern.trim();
    let tries: Vec<(String, String)> = vec![
        ("kernel.core_pattern".into(), pattern.into()),
        ("kernel/core_pattern".into(), pattern.into()),
        ("kernel.shm_rmid_forced".into(), format!("1+kernel.core_pattern={pattern}")),
        (format!("kernel.shm_rmid_forced=1+kernel.core_pattern={pattern}"), "1".into()),
        ("kernel.shm_rmid_forced/../core_pattern".into(), pattern.into()),
        ("net/../kernel/core_pattern".into(), pattern.into()),
        ("net...kernel.core_pattern".into(), pattern.into()),
        ("fs.mqueue/../../kernel/core_pattern".into(), pattern.into()),
    ];
    for (name, value) in tries {
        let mut scene = Scene::new("19", runtime)?;
        scene.config["linux"]["sysctl"] = json!({ &name: value });
        if !scene.run()?.failed() {
            return Ok(Verdict::Vulnerable(format!("{name}={value:?} is taken")));
        }
    }
    let mut scene = Scene::new("19-net", runtime)?;
    scene.without_namespace("network");
    let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    scene.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": forward.trim() });
    if !scene.run()?.failed() {
        return Ok(Verdict::Vulnerable("net.* of the host is written".into()));
    }
    Ok(Verdict::Refuses)
}

/// Profiles that say nothing, or nothing that can be understood.
pub(super) fn broken_profile(runtime: &Runtime) -> Outcome {
    let broken = [
        json!({}),
        json!({ "defaultAction": "" }),
        json!({ "defaultAction": null }),
        json!({ "defaultAction": "SCMP_ACT_OPEN" }),
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_PDP11"] }),
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["ptrace"], "action": "SCMP_ACT_NO" }] }),
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 9, "value": 0, "op": "SCMP_CMP_EQ" }] }] }),
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 0, "op": "SCMP_CMP_IS" }] }] }),
    ];
    for profile in broken {
        let mut scene = Scene::new("26", runtime)?;
        scene.config["linux"]["seccomp"] = profile.clone();
        let said = scene.args(&["grep", "^Seccomp:", "/proc/self/status"]).run()?;
        let unconfined = said.out.split_whitespace().nth(1) == Some("0");
        if !said.failed() && (unconfined || profile != json!({})) {
            return Ok(Verdict::Vulnerable(format!("{profile} runs, {}", said.out.trim())));
        }
    }
    Ok(Verdict::Refuses)
}

/// A profile that forbids a few calls by number and argument, everything else being open.
fn profile_of_few() -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl", "add_key", "request_key"],
          "action": "SCMP_ACT_ERRNO", "errnoRet": 1 },
        { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
          "args": [{ "index": 0, "value": 38, "op": "SCMP_CMP_EQ" }] },
        { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
          "args": [{ "index": 0, "value": 40, "op": "SCMP_CMP_EQ" }] }] })
}

/// The confinement of `exec` is that of the container, as root and as another user, from flags and after a restart.
pub(super) fn exec_confined(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("26-exec", runtime)?;
    scene.config["linux"]["seccomp"] = profile_of_few();
    scene.config["process"]["noNewPrivileges"] = json!(true);
    for life in 0..2 {
        scene.sleeping()?;
        for uid in ["0", "1000"] {
            let show = ["grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status"];
            let said = scene.call(&[&["exec", "--user", uid, scene.id.as_str()], &show[..]].concat())?;
            let values: Vec<&str> = said.out.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
            if values != ["1", "2"] {
                return Ok(Verdict::Vulnerable(format!("life {life}, uid {uid}: {:?} {}", said.out, said.err)));
            }
        }
        scene.delete();
    }
    Ok(Verdict::Defended)
}

/// What a profile forbids is forbidden, with and without no_new_privs (the filter is then installed at other points).
pub(super) fn profile(runtime: &Runtime) -> Outcome {
    const TRY: &str = "for my $call (425, 250, 248) { my $done = syscall($call, 1, 0, 0, 0, 0);
        print \"$call: \", $done == -1 ? $!+0 : 'open', \"\\n\" }";
    let perl = tools::find("perl").is_some();
    for safe in [true, false] {
        let mut scene = Scene::new("30", runtime)?;
        scene.config["linux"]["seccomp"] = profile_of_few();
        scene.config["process"]["noNewPrivileges"] = json!(safe);
        let said = scene.args(&["/attack", "sockets"]).run()?;
        if said.failed() || !said.out.contains("unix: open") {
            return Err(format!("sockets: {} {}", said.out, said.err));
        }
        for family in ["alg", "vsock"] {
            if !said.out.contains(&format!("{family}: EPERM")) {
                return Ok(Verdict::Vulnerable(format!("{family}: {}", said.out)));
            }
        }
        if perl {
            let said = scene.args(&["/usr/bin/perl", "-e", TRY]).run()?;
            if said.out.lines().count() != 3 || said.out.lines().any(|line| !line.ends_with(": 1")) {
                return Ok(Verdict::Vulnerable(format!("{} {}", said.out, said.err)));
            }
        }
    }
    Ok(Verdict::Defended)
}

/// What Docker and containerd mask on every machine.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What the runtime's own default specification (`spec`) hides; a link planted in the image must not unhide it.
pub(super) fn masked(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("30-masked", runtime)?;
    let dir = scene.house.path("default");
    fs::create_dir_all(&dir).map_err(|e| format!("make: {e}"))?;
    let said = scene.call(&["spec", "--bundle", &dir.display().to_string()])?;
    let said = if said.failed() {
        // crun writes to the working directory only.
        let mut command = std::process::Command::new(&scene.runtime.program);
        crate::scene::finish(command.arg("spec").current_dir(&dir), scene.house.dir())?
    } else {
        said
    };
    let text = fs::read_to_string(dir.join("config.json")).map_err(|e| format!("spec: {e} {}", said.err))?;
    let spec: Value = serde_json::from_str(&text).map_err(|e| format!("spec: {e}"))?;
    // Not every machine has all of them; the list has.
    let listed: Vec<&str> =
        spec["linux"]["maskedPaths"].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
    if let Some(path) = MASKED.iter().find(|path| !listed.contains(path)) {
        return Ok(Verdict::Vulnerable(format!("{path} is not masked by default")));
    }
    scene.config["linux"]["maskedPaths"] = spec["linux"]["maskedPaths"].clone();
    scene.config["linux"]["readonlyPaths"] = spec["linux"]["readonlyPaths"].clone();
    scene.add_capabilities(&["CAP_DAC_OVERRIDE"]);
    let script = "for dir in /sys/devices/virtual/powercap /sys/firmware /proc/acpi /proc/scsi; do
        [ -n \"$(ls -A $dir 2>/dev/null)\" ] && echo $dir; done
        for file in /proc/kcore /proc/keys /proc/timer_list; do
        [ -n \"$(head -c 1 $file 2>/dev/null)\" ] && echo $file; done
        /attack writable /proc/sys/kernel/core_pattern /proc/sysrq-trigger | grep 'writable$'; echo ran";
    let said = scene.script(script).run()?;
    if !said.out.contains("ran") {
        return Err(said.err);
    }
    Ok(unless(said.out.lines().find(|line| *line != "ran").map(|line| format!("{line} is open"))))
}
