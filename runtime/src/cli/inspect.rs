//! state, list, ps, spec: what can be asked.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::output;
use super::parse::Call;
use crate::error::{Context, Error, Kind, Result};
use crate::lifecycle::{self, Snapshot};
use crate::spec;

/// As runc prints it: the owner is there, and known to `list` only.
pub(super) fn state(call: &Call) -> Result<i32> {
    let row = Row { snapshot: lifecycle::state(&call.root(), call.id()?)?, owner: String::new() };
    output::print(&output::pretty(&row)?).map(|()| 0)
}

/// A container as `state` and `list --format json` show it: the state, and its owner.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    snapshot: Snapshot,
    owner: String,
}

pub(super) fn list(call: &Call) -> Result<i32> {
    let root = call.root();
    // Nobody has made a container yet: fine below the default, a slip where the directory was named.
    if call.has("root") && !root.is_dir() {
        return Err(Error::new(Kind::NotFound, format!("--root: {} is not a directory", root.display())));
    }
    let found = lifecycle::list(&root)?;
    if call.has("quiet") {
        let ids: String = found.iter().map(|one| format!("{}\n", one.id)).collect();
        return output::print(&ids).map(|()| 0);
    }
    let rows: Vec<Row> = found.into_iter().map(|snapshot| Row { owner: owner(snapshot.owner), snapshot }).collect();
    let text = if wants_json(call)? { output::json(&rows)? } else { table(&rows) };
    output::print(&text).map(|()| 0)
}

fn table(rows: &[Row]) -> String {
    let heads = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let cells = |row: &Row| {
        let one = &row.snapshot;
        let status = one.status.to_string();
        let bundle = one.bundle.display().to_string();
        [one.id.clone(), one.pid.to_string(), status, bundle, one.created.clone(), row.owner.clone()]
    };
    let lines: Vec<[String; 6]> = std::iter::once(heads).chain(rows.iter().map(cells)).collect();
    let mut text = String::new();
    for line in &lines {
        for (at, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[at].len()).max().unwrap_or(0).max(9) + 3;
            let width = if at == 5 { 0 } else { width };
            let _ = write!(text, "{cell:<width$}");
        }
        text.push('\n');
    }
    text
}

/// The name of a user of this host, or the number.
fn owner(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("#{uid}"))
}

fn wants_json(call: &Call) -> Result<bool> {
    match call.value("format").map(|format| format.to_string_lossy().into_owned()).as_deref() {
        None | Some("table") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Error::new(Kind::Invalid, format!("--format: {other:?} is neither table nor json"))),
    }
}

pub(super) fn ps(call: &Call) -> Result<i32> {
    let pids = lifecycle::ps(&call.root(), call.id()?)?;
    if wants_json(call)? {
        return output::print(&output::json(&pids)?).map(|()| 0);
    }
    let mut options = call.rest()?;
    if options.is_empty() {
        options.push("-ef");
    }
    let output = std::process::Command::new("ps").args(&options).output().context(|| "run ps")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|name| name == "PID");
    let Some(column) = column else {
        return Err(Error::new(Kind::Invalid, "ps: its output has no column PID"));
    };
    let mut shown = format!("{head}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            shown.extend([line, "\n"]);
        }
    }
    output::print(&shown).map(|()| 0)
}

pub(super) fn spec(call: &Call) -> Result<i32> {
    use std::io::Write as _;

    let path = call.path("bundle").unwrap_or(Path::new(".")).join("config.json");
    let text = if call.has("rootless") { rootless()? } else { spec::TEMPLATE.to_owned() };
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    match opened {
        Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Error::new(Kind::Exists, format!("{} exists already; remove it first", path.display())))
        }
        opened => {
            opened
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .context(|| format!("write {}", path.display()))?;
            Ok(0)
        }
    }
}

/// The template for a user without privileges: a user namespace, no network of its own, no cgroup limits.
fn rootless() -> Result<String> {
    let wrong = |why| Error::new(Kind::System, format!("the template: {why}"));
    let mut spec: serde_json::Value = serde_json::from_str(spec::TEMPLATE).map_err(wrong)?;
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let linux = &mut spec["linux"];
    linux["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    linux["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    if let Some(spaces) = linux["namespaces"].as_array_mut() {
        spaces.retain(|space| space["type"] != "network");
        spaces.push(json!({ "type": "user" }));
    }
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]
            });
        }
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
    serde_json::to_string_pretty(&spec).map_err(wrong)
}
