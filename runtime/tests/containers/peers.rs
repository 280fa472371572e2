//! Against the runc that is installed: the JSON of each has the same keys, the exit codes are the same.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::house::{House, Said, house, said};

/// A runc with a state root and a cgroup of its own, for the bundle of a house.
struct Runc<'a> {
    house: &'a House,
}

impl Runc<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.house.dir.join("runc")).args(args);
        command.current_dir(self.house.dir.join("bundle")).stdin(Stdio::null());
        command
    }

    fn call(&self, args: &[&str]) -> Said {
        said(self.command(args).output().unwrap())
    }
}

impl Drop for Runc<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", "r"]).output();
    }
}

/// A loud skip where there is no runc.
fn has_runc(name: &str) -> bool {
    let has = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"].iter().any(|path| Path::new(path).exists());
    if !has {
        eprintln!("SKIPPED {name}: needs runc to compare with (apt-get install runc)");
    }
    has
}

/// Both runtimes with a sleeping container: ours is `c`, runc's is `r`.
fn both(house: &mut House) -> Runc<'_> {
    house.set("/ociVersion", json!("1.0.2"));
    house.set("/annotations", json!({ "a": "b" }));
    house.sleeping();
    let cgroup = house.cgroup.clone();
    house.set("/linux/cgroupsPath", json!(format!("{cgroup}-runc")));
    house.write_config();
    house.set("/linux/cgroupsPath", json!(cgroup));
    let runc = Runc { house };
    let mut run = runc.command(&["run", "--detach", "r"]);
    assert!(run.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success(), "runc runs its container");
    runc
}

/// Every path to a key; elements of a list are one. `open` are objects whose keys are data.
fn keys(value: &Value, at: &str, open: &[&str], into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let path = format!("{at}.{key}");
                if !open.contains(&at) {
                    into.insert(path.clone());
                    keys(inner, &path, open, into);
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| keys(element, &format!("{at}[]"), open, into)),
        _ => {}
    }
}

fn keys_of(text: &str, open: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let value = serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"));
    keys(&value, "", open, &mut found);
    found
}

#[test]
fn state_list_and_ps_have_the_keys_of_runcs() {
    let mut house = house!("peer-json");
    if !has_runc("peer-json") {
        return;
    }
    let runc = both(&mut house);
    let calls: [&[&str]; 3] = [&["state"], &["list", "--format", "json"], &["ps", "--format", "json"]];
    for call in calls {
        let (own, other): (&[&str], &[&str]) = if call[0] == "list" { (&[], &[]) } else { (&["c"], &["r"]) };
        let ours = runc.house.call_as_is(&[call, own].concat());
        let theirs = runc.call(&[call, other].concat());
        assert_eq!((ours.code, theirs.code), (0, 0), "{ours:?} {theirs:?}");
        assert_eq!(keys_of(&ours.out, &[]), keys_of(&theirs.out, &[]), "{call:?}");
    }
    let table = |text: &str| text.lines().next().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(table(&runc.house.call_as_is(&["list"]).out), table(&runc.call(&["list"]).out));
    assert_eq!(table(&runc.house.call_as_is(&["ps", "c"]).out), table(&runc.call(&["ps", "r"]).out));
    drop(runc);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn events_have_every_key_of_runcs() {
    let mut house = house!("peer-events");
    if !has_runc("peer-events") {
        return;
    }
    let runc = both(&mut house);
    // What the kernel counts is data: these objects have its names as keys.
    let open = [".data.memory.raw", ".data.hugetlb"];
    let ours = runc.house.call_as_is(&["events", "--stats", "c"]);
    let theirs = runc.call(&["events", "--stats", "r"]);
    assert_eq!((ours.code, theirs.code), (0, 0), "{ours:?} {theirs:?}");
    let (ours, theirs) = (keys_of(&ours.out, &open), keys_of(&theirs.out, &open));
    // Go leaves out what is zero, and these are counted from use to use; newer ones leave out empty objects, too.
    let counted = [".data.blkio.", ".data.memory.cache", ".data.cpu.throttling", ".max", ".usage"];
    let missing: Vec<_> =
        theirs.difference(&ours).filter(|key| !counted.iter().any(|part| key.contains(part))).collect();
    assert!(missing.is_empty(), "{missing:?}\nours {ours:?}\ntheirs {theirs:?}");
    drop(runc);
    house.ok(&["delete", "--force", "c"]);
}

#[test]
fn features_have_every_key_of_runcs() {
    let house = house!("peer-features");
    if !has_runc("peer-features") {
        return;
    }
    let ours = keys_of(&house.call_as_is(&["features"]).out, &[".annotations"]);
    let theirs = keys_of(&Runc { house: &house }.call(&["features"]).out, &[".annotations"]);
    let missing: Vec<_> = theirs.difference(&ours).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn exit_codes_are_runcs() {
    let mut house = house!("peer-codes");
    if !has_runc("peer-codes") {
        return;
    }
    let runc = both(&mut house);
    let cases: [&[&str]; 22] = [
        &[],
        &["--version"],
        &["--help"],
        &["exec", "--help"],
        &["frobnicate"],
        &["--frob"],
        &["create"],
        &["create", "a", "b"],
        &["create", "ID"],
        &["start", "nobody"],
        &["start", "ID"],
        &["delete", "ID"],
        &["delete", "nobody"],
        &["delete", "--force", "nobody"],
        &["kill", "ID", "FROB"],
        &["kill", "nobody"],
        &["exec", "nobody", "true"],
        &["exec", "ID"],
        &["exec", "ID", "nothing-there"],
        &["exec", "ID", "sh", "-c", "exit 5"],
        &["exec", "ID", "sh", "-c", "kill -9 $$"],
        &["resume", "ID"],
    ];
    for case in cases {
        let with = |id: &'static str| case.iter().map(|word| if *word == "ID" { id } else { word }).collect::<Vec<_>>();
        let (ours, theirs) = (runc.house.call_as_is(&with("c")), runc.call(&with("r")));
        assert_eq!(ours.code, theirs.code, "{case:?}: {ours:?} {theirs:?}");
    }
    drop(runc);
    house.ok(&["delete", "--force", "c"]);
}
