//! Cases 06, 08, 09 and 20: who a process in a container is.

use crate::scene::{Outcome, Runtime, Said, Scene, Verdict, unless};
use gantry_tests::tools;
use serde_json::json;
use std::fs;

/// What each set of `/proc/self/status` has to be, seen from a process of uid 0 or another.
fn judge_sets(said: &Said, root: bool, bounding: u64) -> Option<String> {
    let set = |name: &str| {
        let line = said.out.lines().find(|line| line.starts_with(name))?;
        u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()
    };
    let own = if root { bounding } else { 0 };
    let expected = [("CapInh", 0), ("CapPrm", own), ("CapEff", own), ("CapBnd", bounding), ("CapAmb", 0)];
    // Less is no hole; none at all means that nothing ran.
    let wrong = expected.into_iter().find(|(name, bits)| set(name).is_none_or(|has| has & !bits != 0));
    wrong.map(|(name, bits)| format!("{name} is {:x?}, more than {bits:x}", set(name)))
}

const SHOW: [&str; 3] = ["grep", "^Cap", "/proc/self/status"];

/// kill, net_bind_service, audit_write: what the default specification gives.
const DEFAULT: u64 = 1 << 5 | 1 << 10 | 1 << 29;
const NET_ADMIN: u64 = 1 << 12;

pub(super) fn capabilities_of_run(runtime: &Runtime) -> Outcome {
    for uid in [0, 1000] {
        for added in [false, true] {
            let mut scene = Scene::new("06-run", runtime)?;
            scene.config["process"]["user"] = json!({ "uid": uid, "gid": uid });
            if added {
                scene.add_capabilities(&["CAP_NET_ADMIN"]);
            }
            let said = scene.args(&SHOW).run()?;
            let bounding = if added { DEFAULT | NET_ADMIN } else { DEFAULT };
            if let Some(how) = judge_sets(&said, uid == 0, bounding) {
                return Ok(Verdict::Vulnerable(format!("uid {uid}: {how}")));
            }
        }
    }
    Ok(Verdict::Defended)
}

pub(super) fn capabilities_of_exec(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("06-exec", runtime)?;
    scene.sleeping()?;
    for uid in ["0", "1000"] {
        for added in [false, true] {
            let cap: &[&str] = if added { &["--cap", "CAP_NET_ADMIN"] } else { &[] };
            let args = [&["exec", "--user", uid], cap, &[scene.id.as_str()], &SHOW].concat();
            let said = scene.call(&args)?;
            let bounding = if added { DEFAULT | NET_ADMIN } else { DEFAULT };
            if let Some(how) = judge_sets(&said, uid == "0", bounding) {
                return Ok(Verdict::Vulnerable(format!("uid {uid}: {how} {}", said.err.trim())));
            }
        }
    }
    Ok(Verdict::Defended)
}

/// Texts, and the uid that each may mean; an error is always right.
const USERS: &[(&str, Option<u32>)] = &[
    ("1", Some(1)),
    ("1:1", Some(1)),
    ("1:", Some(1)),
    ("65534", Some(65534)),
    ("2147483648", Some(2_147_483_648)),
    (":1", None),
    ("-1", None),
    ("4294967295", None),
    ("4294967296", None),
    ("4294967297", None),
    ("18446744073709551616", None),
    ("99999999999999999999", None),
    ("0x1", None),
    ("1000abc", None),
    ("1e3", None),
    (" ", None),
    ("1 ", Some(1)),
    (" 1", Some(1)),
    ("+1", Some(1)),
    ("1:4294967296", None),
    ("1:-1", None),
];

pub(super) fn users(runtime: &Runtime) -> Outcome {
    let mut scene = Scene::new("08", runtime)?;
    // A passwd in which digits are a name, of root.
    fs::write(scene.rootfs().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n1000abc:x:0:0::/:/bin/sh\n0x1:x:0:0::/:\n")
        .map_err(|e| format!("write passwd: {e}"))?;
    scene.sleeping()?;
    let mut wrong = Vec::new();
    for (text, meant) in USERS {
        let said = scene.call(&["exec", "--user", text, &scene.id, "id", "-u"])?;
        let became = said.out.trim().parse::<u32>().ok().filter(|_| !said.failed());
        if became.is_some() && became != *meant {
            wrong.push(format!("{text:?} is uid {}", became.unwrap_or_default()));
        }
        let flag = ["exec", "-u", text, &scene.id, "id", "-g"];
        let group = scene.call(&flag)?;
        let is_root = group.out.trim() == "0" && text.contains(":4294967296");
        if !group.failed() && is_root {
            wrong.push(format!("{text:?} is gid 0"));
        }
    }
    Ok(unless((!wrong.is_empty()).then(|| wrong.join(", "))))
}

/// The caller has groups of its own; the container has what its specification says.
pub(super) fn groups(runtime: &Runtime) -> Outcome {
    let Some(setpriv) = tools::find("setpriv") else { return Ok(Verdict::NotApplicable("no setpriv".into())) };
    for (groups, meant) in [(json!([5, 7]), "1000 5 7"), (json!([]), "1000"), (json!([1000, 1000]), "1000")] {
        let mut scene = Scene::new("09", runtime)?;
        scene.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": groups });
        let with_groups = |scene: &Scene, args: &[&str]| {
            let plain = scene.command(args)?;
            let mut command = std::process::Command::new(&setpriv);
            command.args(["--groups", "4,24,27"]).arg(plain.get_program()).args(plain.get_args());
            command.current_dir(scene.house.path("bundle"));
            crate::scene::finish(&mut command, scene.house.dir())
        };
        let show = ["/bin/sh", "-c", "id -G; grep ^Groups: /proc/self/status"];
        scene.args(&show);
        let said = with_groups(&scene, &["run", &scene.id])?;
        scene.sleeping()?;
        let exec = ["exec", "--user", "1000:1000", scene.id.as_str()];
        let exec = with_groups(&scene, &[&exec, &show[..]].concat())?;
        for (said, exact) in [(said, true), (exec, false)] {
            let mut seen: Vec<&str> = said.out.lines().next().unwrap_or("").split_whitespace().collect();
            seen.dedup();
            // An exec with a user of its own may leave the container's groups out.
            let fits = seen.first() == Some(&"1000") && seen.iter().all(|group| meant.split(' ').any(|m| m == *group));
            if !fits || exact && seen.join(" ") != meant {
                return Ok(Verdict::Vulnerable(format!("{seen:?} rather than {meant}: {}", said.err.trim())));
            }
        }
    }
    Ok(Verdict::Defended)
}

/// Homes that would be more than one line or variable where somebody writes them down.
pub(super) fn home(runtime: &Runtime) -> Outcome {
    const PASSWD: &[u8] =
        b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/\xc2\x85\rEVIL=1:/bin/sh\nnul:x:1001:0::/a\0EVIL=1\n";
    // Who, with which environment, and what HOME may be then.
    let wishes = [
        (1000, json!(["PATH=/bin"]), vec!["/", "/home/\u{85}\rEVIL=1"]),
        (1001, json!(["PATH=/bin"]), vec!["/"]),
        (0, json!(["PATH=/bin", "HOME=/a\nEVIL=1\nevil:x:0:0::/:/bin/sh"]), vec!["/a\nEVIL=1\nevil:x:0:0::/:/bin/sh"]),
        (0, json!(["PATH=/bin", "HOME=/a\r\u{85}evil:x:0:0::/:/bin/sh"]), vec!["/a\r\u{85}evil:x:0:0::/:/bin/sh"]),
        (0, json!(["PATH=/bin", "HOME=/a\0EVIL=1"]), Vec::new()),
    ];
    for (uid, env, homes) in wishes {
        let mut scene = Scene::new("20", runtime)?;
        let file = scene.rootfs().join("etc/passwd");
        fs::write(&file, PASSWD).map_err(|e| format!("write passwd: {e}"))?;
        scene.config["process"]["user"] = json!({ "uid": uid, "gid": 0 });
        scene.config["process"]["env"] = env;
        // A zero byte ends a variable: what begins with EVIL= behind one is a variable of its own.
        let said = scene.args(&["/bin/cat", "/proc/self/environ"]).run()?;
        let variables: Vec<&str> = said.out.split('\0').collect();
        if variables.iter().any(|variable| variable.starts_with("EVIL=")) {
            return Ok(Verdict::Vulnerable("a second variable".into()));
        }
        let home = variables.iter().find_map(|variable| variable.strip_prefix("HOME="));
        if let Some(home) = home.filter(|home| !said.failed() && !homes.contains(home)) {
            return Ok(Verdict::Vulnerable(format!("HOME is {home:?}, cut off")));
        }
        if fs::read(&file).ok().as_deref() != Some(PASSWD) {
            return Ok(Verdict::Vulnerable("passwd has changed".into()));
        }
    }
    Ok(Verdict::Defended)
}
