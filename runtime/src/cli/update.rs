//! update: flags or a file to the limits that are to change.

use std::io::Read as _;

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::log;
use super::parse::Call;
use crate::error::{Context, Error, Kind, Result};
use crate::spec;
use crate::update::UpdateRequest;

/// Flags that are numbers, and the fields that they set. Where runc takes no negative number, neither does this.
const NUMBERS: &[(&str, &str, &str, bool)] = &[
    ("blkio-weight", "blockIO", "weight", false),
    ("cpu-period", "cpu", "period", false),
    ("cpu-quota", "cpu", "quota", true),
    ("cpu-burst", "cpu", "burst", false),
    ("cpu-share", "cpu", "shares", false),
    ("cpu-rt-period", "cpu", "realtimePeriod", false),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", true),
    ("cpu-idle", "cpu", "idle", true),
    ("pids-limit", "pids", "limit", true),
];

const SIZES: &[(&str, &str)] = &[
    ("memory", "limit"),
    ("memory-reservation", "reservation"),
    ("memory-swap", "swap"),
    ("kernel-memory", "kernel"),
    ("kernel-memory-tcp", "kernelTCP"),
];

/// The most that is read of a file; one with every field has some KB.
const LIMIT: u64 = 1 << 20;

pub(super) fn update(call: &Call) -> Result<i32> {
    let resources = match call.path("resources") {
        Some(path) => {
            let text = read(path)?;
            spec::load_resources(&text).context(|| format!("read {}", path.display()))?
        }
        None => from_flags(call)?,
    };
    let root = call.root();
    let request = UpdateRequest { root: &root, id: call.id()?, resources: &resources };
    log::warnings(call, &crate::update::update(&request)?);
    Ok(0)
}

fn read(path: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let read = |from: &mut dyn std::io::Read, text: &mut String| from.take(LIMIT + 1).read_to_string(text);
    let done = match path.to_str() {
        Some("-") => read(&mut std::io::stdin().lock(), &mut text),
        _ => std::fs::File::open(path).and_then(|mut file| read(&mut file, &mut text)),
    };
    done.context(|| format!("read {}", path.display()))?;
    if text.len() as u64 > LIMIT {
        return Err(Error::new(Kind::Invalid, format!("{}: more than 1 MiB", path.display())));
    }
    Ok(text)
}

fn from_flags(call: &Call) -> Result<LinuxResources> {
    let mut all = Map::new();
    let mut set = |part: &str, field: &str, value: Value| {
        let part = all.entry(part).or_insert_with(|| json!({}));
        part[field] = value;
    };
    for (flag, part, field, negative) in NUMBERS {
        match call.number(flag)? {
            Some(number) if number < 0 && !negative => {
                return Err(Error::new(Kind::Invalid, format!("--{flag}: {number} is below 0")));
            }
            Some(number) => set(part, field, json!(number)),
            None => {}
        }
    }
    for (flag, field) in SIZES {
        if let Some(bytes) = call.size(flag)? {
            set("memory", field, json!(bytes));
        }
    }
    for (flag, field) in [("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")] {
        if let Some(list) = call.text(flag)? {
            set("cpu", field, json!(list));
        }
    }
    for flag in ["l3-cache-schema", "mem-bw-schema"] {
        if call.text(flag)?.is_some() {
            let what = format!("--{flag}: this host has no resctrl, or the container no linux.intelRdt");
            return Err(Error::new(Kind::Unsupported, what));
        }
    }
    spec::load_resources(&Value::Object(all).to_string())
}
