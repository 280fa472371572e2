//! Network configurations: what the files in `/etc/cni/net.d` say, decided as text (SPEC.md of CNI, section 1).
//!
//! A `.conflist` is a list of plugins, a `.conf` or `.json` one plugin, which becomes a list of one. As libcni has it,
//! plugins in `<directory>/<name of the network>/*.conf` are appended unless `loadOnlyInlinedPlugins` is set.

use super::version::Version;
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A network: the plugins that a pod is attached by, in order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct List {
    /// Name of the network, unique among the configurations.
    pub(super) name: String,
    /// The version that every plugin is spoken to in: the newest of `cniVersion` and `cniVersions` that we speak.
    pub(super) version: Version,
    /// CHECK is not to be called.
    pub(super) disable_check: bool,
    /// GC is not to be called.
    pub(super) disable_gc: bool,
    /// Nothing is to be appended from files of their own.
    pub(super) inlined_only: bool,
    /// At least one, once [`List::complete`] was asked.
    pub(super) plugins: Vec<Plugin>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plugin {
    /// Name of its program.
    pub(super) kind: String,
    /// Capabilities whose arguments it wants.
    pub(super) capabilities: BTreeSet<String>,
    /// All that the configuration says.
    pub(super) body: Map<String, Value>,
}

fn wrong<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::new(Kind::Invalid, why))
}

/// Reads a `.conflist`.
///
/// # Errors
/// `Invalid`, saying what is wrong.
pub(super) fn parse_list(text: &[u8]) -> Result<List> {
    let body = object(text)?;
    let name = name_of(&body)?;
    let inlined_only = flag(&body, "loadOnlyInlinedPlugins")?;
    let plugins = match body.get("plugins") {
        None if inlined_only => return wrong("loadOnlyInlinedPlugins is set and there are no plugins"),
        None => Vec::new(),
        Some(Value::Array(plugins)) if plugins.is_empty() => return wrong("plugins: is empty"),
        Some(Value::Array(plugins)) => {
            let each = |(at, value): (usize, &Value)| match value {
                Value::Object(body) => plugin(body.clone()).map_err(|why| why.within(format!("plugins[{at}]"))),
                _ => wrong(format!("plugins[{at}]: is no object")),
            };
            plugins.iter().enumerate().map(each).collect::<Result<_>>()?
        }
        Some(_) => return wrong("plugins: is no array"),
    };
    Ok(List {
        name,
        version: version_of(&body)?,
        disable_check: flag(&body, "disableCheck")?,
        disable_gc: flag(&body, "disableGC")?,
        inlined_only,
        plugins,
    })
}

/// Reads a `.conf` or `.json` that stands for itself: a list of one.
///
/// # Errors
/// `Invalid`, saying what is wrong.
pub(super) fn parse_single(text: &[u8]) -> Result<List> {
    let body = object(text)?;
    if body.contains_key("plugins") {
        return wrong("has plugins: a list's file must end in .conflist");
    }
    let (name, version) = (name_of(&body)?, version_of(&body)?);
    let plugins = vec![plugin(body)?];
    Ok(List { name, version, disable_check: false, disable_gc: false, inlined_only: true, plugins })
}

/// Reads a file of one plugin that is appended to a list.
///
/// # Errors
/// `Invalid`, saying what is wrong.
pub(super) fn parse_plugin(text: &[u8]) -> Result<Plugin> {
    plugin(object(text)?)
}

impl List {
    /// The list, if it has a plugin.
    pub(super) fn complete(self) -> Result<Self> {
        match self.plugins.is_empty() {
            true => wrong(format!("network {}: no plugins found", self.name)),
            false => Ok(self),
        }
    }

    /// The list as a configuration that says it all: what is kept for DEL and CHECK.
    pub(super) fn to_value(&self) -> Value {
        let plugins: Vec<_> = self.plugins.iter().map(|plugin| plugin.body.clone()).collect();
        let mut value = json!({
            "cniVersion": self.version.to_string(),
            "name": self.name,
            "loadOnlyInlinedPlugins": true,
            "plugins": plugins,
        });
        for (key, set) in [("disableCheck", self.disable_check), ("disableGC", self.disable_gc)] {
            if set {
                value[key] = true.into();
            }
        }
        value
    }
}

fn object(text: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(body)) => Ok(body),
        Ok(_) => wrong("is no JSON object"),
        Err(why) => wrong(format!("is no JSON: {why}")),
    }
}

fn plugin(body: Map<String, Value>) -> Result<Plugin> {
    let kind = match body.get("type") {
        Some(Value::String(kind)) if !kind.is_empty() => kind.clone(),
        Some(_) => return wrong("type: is no name of a plugin"),
        None => return wrong("type: is missing"),
    };
    if kind.contains(['/', '\0']) || kind == "." || kind == ".." {
        return wrong(format!(
            "type {kind:?}: is a path; it must be the name of a program in the plugins' directories"
        ));
    }
    let capabilities = match body.get("capabilities") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(Value::Object(all)) => {
            all.iter().filter(|(_, on)| **on == Value::Bool(true)).map(|(name, _)| name.clone()).collect()
        }
        Some(_) => return wrong("capabilities: is no object"),
    };
    Ok(Plugin { kind, capabilities, body })
}

/// Letters, digits, and after the first also `_.-`: names become parts of file names.
fn name_of(body: &Map<String, Value>) -> Result<String> {
    let name = match body.get("name") {
        Some(Value::String(name)) => name,
        Some(_) => return wrong("name: is no string"),
        None => return wrong("name: is missing"),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    match name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) {
        true => Ok(name.clone()),
        false => wrong(format!("name {name:?}: must be letters, digits, and after the first also '_', '.' and '-'")),
    }
}

fn version_of(body: &Map<String, Value>) -> Result<Version> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        _ => wrong("cniVersion, cniVersions: are no strings"),
    };
    let single = body.get("cniVersion").map(text).transpose()?;
    let Some(several) = body.get("cniVersions") else {
        return Version::known(&single.unwrap_or_default());
    };
    let Value::Array(several) = several else { return wrong("cniVersions: is no array") };
    let mut best = None;
    for text in several.iter().map(text).chain(single.map(Ok)) {
        let version: Version = text?.parse()?;
        if Version::ALL.contains(&version) {
            best = best.max(Some(version));
        }
    }
    best.map_or_else(|| wrong("cniVersions: none of them is spoken"), Ok)
}

fn flag(body: &Map<String, Value>, key: &str) -> Result<bool> {
    match body.get(key) {
        None => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => wrong(format!("{key}: is neither true nor false")),
    }
}
