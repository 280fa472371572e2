//! Devices of the Container Device Interface: names such as `vendor.example/gpu=0`, and what they do to a container.
//!
//! A vendor's files (`/etc/cdi`, `/var/run/cdi`; JSON or YAML) say which device nodes, mounts, variables and hooks a
//! device stands for. They are root's files and believed; the names come from kubelet. Read anew for every container that
//! names a device, since vendors write them while the node runs. What is not understood is refused: a container that
//! lacks a part of its device would be worse than none.
//!
//! Specification: github.com/cncf-tags/container-device-interface, SPEC.md 1.1.0.

mod edits;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use gantry_cri_api::CdiDevice;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Kind, Result};

pub use edits::Edits;

/// The largest file that is read.
const LARGEST: u64 = 1 << 20;

/// The newest version of the specification that is understood.
const NEWEST: (u64, u64) = (1, 1);

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    annotations: Value,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

/// One device of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default)]
    annotations: Value,
    container_edits: Edits,
}

/// Files of one directory, and why others could not be read.
#[derive(Debug, Default)]
struct Shelf {
    specs: Vec<(PathBuf, Spec)>,
    broken: Vec<String>,
}

/// Changes `spec`, an OCI specification, to have the devices.
///
/// # Errors
/// [`Kind::Invalid`] for a device that no file has, or that two of one directory have, and for files that cannot be read.
pub fn inject(spec: &mut Value, wanted: &[CdiDevice], dirs: &[PathBuf]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let shelves: Vec<Shelf> = dirs.iter().map(|dir| read_dir(dir)).collect();
    let mut seen: Vec<&Path> = Vec::new();
    for name in wanted.iter().map(|device| device.name.as_str()) {
        let (path, of_file, device) = find(&shelves, name, dirs)?;
        let within = |why: Error| why.within(format!("CDI device {name:?} of {}", path.display()));
        // What belongs to the file as a whole, once.
        if !seen.contains(&path) {
            seen.push(path);
            edits::apply(spec, &of_file.container_edits).map_err(within)?;
        }
        edits::apply(spec, &device.container_edits).map_err(within)?;
    }
    Ok(())
}

/// A later directory goes before an earlier one.
fn find<'a>(shelves: &'a [Shelf], name: &str, dirs: &[PathBuf]) -> Result<(&'a Path, &'a Spec, &'a Device)> {
    let refuse = |why: String| Err(Error::new(Kind::Invalid, format!("CDI device {name:?}: {why}")));
    let Some((kind, device)) = name.split_once('=') else {
        return refuse("is not of the form VENDOR/CLASS=NAME".into());
    };
    for shelf in shelves.iter().rev() {
        let specs = shelf.specs.iter().filter(|(_, spec)| spec.kind == kind);
        let mut found = specs.filter_map(|(path, spec)| {
            let device = spec.devices.iter().find(|known| known.name == device)?;
            Some((path.as_path(), spec, device))
        });
        match (found.next(), found.next()) {
            (Some(one), None) => return Ok(one),
            (Some((a, ..)), Some((b, ..))) => {
                return refuse(format!("{} and {} both have it", a.display(), b.display()));
            }
            (None, _) => {}
        }
    }
    let places: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let broken: Vec<&str> = shelves.iter().flat_map(|shelf| &shelf.broken).map(String::as_str).collect();
    let broken = if broken.is_empty() { String::new() } else { format!(" (not understood: {})", broken.join("; ")) };
    refuse(format!("no file in {} has it{broken}", places.join(", ")))
}

fn read_dir(dir: &Path) -> Shelf {
    let mut shelf = Shelf::default();
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let read = match extension {
            "json" | "yaml" | "yml" => read(&path, extension == "json"),
            _ => continue,
        };
        match read {
            Ok(spec) => shelf.specs.push((path, spec)),
            Err(why) => shelf.broken.push(format!("{}: {why}", path.display())),
        }
    }
    shelf
}

fn read(path: &Path, json: bool) -> Result<Spec, String> {
    let file = fs::File::open(path).map_err(|why| why.to_string())?;
    if !file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST) {
        return Err("is not a file of at most 1 MiB".into());
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(|why| why.to_string())?;
    let spec: Spec = match json {
        true => serde_json::from_str(&text).map_err(|why| why.to_string())?,
        false => serde_yaml_ng::from_str(&text).map_err(|why| why.to_string())?,
    };
    check(&spec).map(|()| spec)
}

fn check(spec: &Spec) -> Result<(), String> {
    let mut numbers = spec.cdi_version.trim_start_matches('v').split('.').map(|part| part.parse::<u64>().ok());
    let version = match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => return Err(format!("cdiVersion {:?} is none", spec.cdi_version)),
    };
    if version > NEWEST {
        return Err(format!("cdiVersion {} is newer than {}.{}", spec.cdi_version, NEWEST.0, NEWEST.1));
    }
    let word = |text: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ends(text.chars().next()) && ends(text.chars().next_back()) && text.chars().all(inner)
    };
    match spec.kind.split_once('/') {
        Some((vendor, class)) if word(vendor) && word(class) => {}
        _ => return Err(format!("kind {:?} is not VENDOR/CLASS", spec.kind)),
    }
    for (at, device) in spec.devices.iter().enumerate() {
        if !word(&device.name) {
            return Err(format!("{:?} is not a device's name", device.name));
        }
        if spec.devices[..at].iter().any(|before| before.name == device.name) {
            return Err(format!("device {:?} stands there twice", device.name));
        }
    }
    // Known, and of no effect.
    let _ = (&spec.annotations, spec.devices.iter().map(|device| &device.annotations));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Dirs(PathBuf, Vec<PathBuf>);

    impl Dirs {
        /// Files as `directory/name`, with their text.
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("gantry-cri-cdi-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            let dirs = ["etc", "run"].map(|dir| root.join(dir)).to_vec();
            dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
            files.iter().for_each(|(name, text)| fs::write(root.join(name), text).unwrap());
            Self(root, dirs)
        }

        /// The environment that a container with these devices has, or why it cannot have them.
        fn env(&self, names: &[&str]) -> Result<String, String> {
            let wanted: Vec<_> = names.iter().map(|name| CdiDevice { name: (*name).to_owned() }).collect();
            let mut spec = json!({"process": {"env": []}});
            inject(&mut spec, &wanted, &self.1).map_err(|why| why.to_string())?;
            let list = spec["process"]["env"].as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned());
            Ok(list.collect::<Vec<_>>().join(" "))
        }
    }

    impl Drop for Dirs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn file(name: &str, value: &str) -> String {
        json!({
            "cdiVersion": "0.6.0", "kind": "vendor.example/gpu",
            "devices": [{"name": name, "containerEdits": {"env": [format!("{}={value}", name.to_uppercase())]}}],
            "containerEdits": {"env": ["ALL=yes"]},
        })
        .to_string()
    }

    #[test]
    fn a_files_own_edits_come_once_and_first() {
        let two = json!({
            "cdiVersion": "0.6.0", "kind": "vendor.example/gpu", "containerEdits": {"env": ["ALL=yes"]},
            "devices": [
                {"name": "a", "containerEdits": {"env": ["A=1"]}}, {"name": "b", "containerEdits": {"env": ["B=2"]}},
            ],
        });
        let dirs = Dirs::new("once", &[("etc/x.json", &two.to_string())]);
        assert_eq!(dirs.env(&["vendor.example/gpu=a", "vendor.example/gpu=b"]).unwrap(), "ALL=yes A=1 B=2");
        assert_eq!(dirs.env(&[]).unwrap(), "");
    }

    #[test]
    fn a_later_directory_goes_first_and_twice_is_nobody() {
        let (old, new) = (file("a", "old"), file("a", "new"));
        let dirs = Dirs::new("order", &[("etc/x.json", &old), ("run/x.json", &new)]);
        assert_eq!(dirs.env(&["vendor.example/gpu=a"]).unwrap(), "ALL=yes A=new");
        let dirs = Dirs::new("twice", &[("etc/x.json", &old), ("etc/y.json", &new)]);
        assert!(dirs.env(&["vendor.example/gpu=a"]).unwrap_err().contains("both have it"));
    }

    #[test]
    fn yaml_is_read_as_well() {
        let text = "cdiVersion: 0.5.0\nkind: vendor.example/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    env:\n    - GPU=0\n";
        let dirs = Dirs::new("yaml", &[("etc/x.yaml", text), ("etc/notes.txt", "not read")]);
        assert_eq!(dirs.env(&["vendor.example/gpu=0"]).unwrap(), "GPU=0");
    }

    #[test]
    fn what_is_not_there_or_not_understood_is_said() {
        let dirs = Dirs::new("none", &[]);
        let why = dirs.env(&["vendor.example/gpu=a"]).unwrap_err();
        assert!(why.contains("no file in") && why.contains("/etc"), "{why}");
        assert!(dirs.env(&["gpu"]).unwrap_err().contains("VENDOR/CLASS=NAME"));
        for (name, wrong, text) in [
            ("newer", "newer", file("a", "1").replace("0.6.0", "2.0.0")),
            ("field", "unknown field", file("a", "1").replace("\"env\"", "\"environment\"")),
            ("kind", "VENDOR/CLASS", file("a", "1").replace("vendor.example/gpu", "gpu")),
            ("name", "device's name", file("-a", "1")),
            ("json", "expected", "{".into()),
        ] {
            let dirs = Dirs::new(name, &[("etc/x.json", &text)]);
            let why = dirs.env(&["vendor.example/gpu=a"]).unwrap_err();
            assert!(why.contains("not understood") && (why.contains(wrong) || name == "json"), "{name}: {why}");
        }
    }
}
