//! A `hosts.toml`: text in, settings out. Unknown keys are left alone, as containerd does; a wrong value is an error that
//! names its key and never quotes it, because headers hold credentials.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Table, Value};

use super::{File, Settings, Tls};
use crate::error::{Context, Error, Kind, Result};
use crate::span;

/// Only for the order: tables are sorted otherwise.
#[derive(Deserialize)]
struct Order {
    #[serde(default)]
    host: BTreeMap<Spanned<String>, serde::de::IgnoredAny>,
}

/// Reads a file; paths in it are relative to `dir`.
pub(super) fn parse(text: &str, dir: &Path) -> Result<File> {
    let wrong = |why: toml::de::Error| {
        let line = why.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        Error::new(Kind::InvalidArgument, format!("line {}: this is not TOML", line.unwrap_or(1)))
    };
    let mut table: Table = toml::from_str(text).map_err(wrong)?;
    let server = key(&table, "server", text_of)?;
    let own = settings(&table, dir)?;
    let tables = match table.remove("host") {
        None => Table::new(),
        Some(Value::Table(tables)) => tables,
        Some(_) => return Err(bad("host", "is no table")),
    };
    let order: Order = toml::from_str(text).map_err(wrong)?;
    let mut names: Vec<(usize, String)> =
        order.host.into_keys().map(|name| (name.span().start, name.into_inner())).collect();
    names.sort();
    let mut hosts = Vec::new();
    for (_, name) in names {
        let what = || format!("host {name:?}");
        let table = tables.get(&name).and_then(Value::as_table).ok_or_else(|| bad(&what(), "is no table"))?;
        let settings = settings(table, dir).context(what)?;
        hosts.push((name, settings));
    }
    Ok(File { server, own, hosts })
}

fn bad(key: &str, why: &str) -> Error {
    Error::new(Kind::InvalidArgument, format!("{key}: {why}"))
}

/// A key's value, if it is there, read by a function that says what it should be.
fn key<T>(table: &Table, name: &str, read: impl Fn(&Value) -> Result<T, &'static str>) -> Result<Option<T>> {
    table.get(name).map(|value| read(value).map_err(|why| bad(name, why))).transpose()
}

fn text_of(value: &Value) -> Result<String, &'static str> {
    value.as_str().map(str::to_owned).ok_or("is no text")
}

fn truth(value: &Value) -> Result<bool, &'static str> {
    value.as_bool().ok_or("is neither true nor false")
}

fn settings(table: &Table, dir: &Path) -> Result<Settings> {
    Ok(Settings {
        capabilities: key(table, "capabilities", capabilities)?.filter(|list| !list.is_empty()),
        tls: Tls {
            ca: key(table, "ca", |value| files(value, dir))?.unwrap_or_default(),
            client: key(table, "client", |value| client(value, dir))?.unwrap_or_default(),
            skip_verify: key(table, "skip_verify", truth)?,
        },
        override_path: key(table, "override_path", truth)?.unwrap_or_default(),
        connect_timeout: key(table, "dial_timeout", |value| {
            let why = "is no span of time, as in \"10s\"";
            value.as_str().and_then(span::parse).ok_or(why)
        })?,
        headers: headers(table)?,
    })
}

fn capabilities(value: &Value) -> Result<Vec<String>, &'static str> {
    let list = value.as_array().ok_or("is no list")?;
    let known = |value: &Value| {
        let name = value.as_str()?.to_ascii_lowercase();
        matches!(name.as_str(), "pull" | "resolve" | "push" | "referrers").then_some(name)
    };
    list.iter().map(|value| known(value).ok_or("is not of pull, resolve, push and referrers")).collect()
}

/// A path or a list of paths.
fn files(value: &Value, dir: &Path) -> Result<Vec<PathBuf>, &'static str> {
    let why = "is neither a path nor a list of paths";
    match value {
        Value::String(one) => Ok(vec![dir.join(one)]),
        Value::Array(many) => many.iter().map(|v| v.as_str().map(|path| dir.join(path)).ok_or(why)).collect(),
        _ => Err(why),
    }
}

/// A path, a list of paths, or a list of [certificate, key].
fn client(value: &Value, dir: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, &'static str> {
    let why = "is neither a path, nor a list of paths, nor a list of pairs of certificate and key";
    let one = |value: &Value| match value {
        Value::String(one) => Some((dir.join(one), None)),
        Value::Array(two) => match &two[..] {
            [certificate, key] => {
                let key = Some(key.as_str()?).filter(|key| !key.is_empty());
                Some((dir.join(certificate.as_str()?), key.map(|key| dir.join(key))))
            }
            _ => None,
        },
        _ => None,
    };
    match value {
        Value::String(path) => Ok(vec![(dir.join(path), None)]),
        Value::Array(many) => many.iter().map(|value| one(value).ok_or(why)).collect(),
        _ => Err(why),
    }
}

fn headers(table: &Table) -> Result<Vec<(String, String)>> {
    let table = match table.get("header") {
        None => return Ok(Vec::new()),
        Some(value) => value.as_table().ok_or_else(|| bad("header", "is no table"))?,
    };
    let mut found = Vec::new();
    for (name, value) in table {
        let wrong = || bad(&format!("header {name:?}"), "is neither a text nor a list of texts");
        let values = match value {
            Value::Array(many) => &many[..],
            one => std::slice::from_ref(one),
        };
        for value in values {
            found.push((name.clone(), value.as_str().ok_or_else(wrong)?.to_owned()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn settings_of_a_host() {
        let text = r#"
            ca = ["a.pem", "/b.pem"]
            unknown = 7
            [host."https://m"]
            skip_verify = true
            client = [["c.pem", "c.key"], ["d.pem", ""], "e.pem"]
            dial_timeout = "1.5s"
            capabilities = ["Pull"]
            [host."https://m".header]
            x-one = "1"
            x-two = ["2", "3"]
            [host."a"]
            skip_verify = false
            client = "f.pem"
        "#;
        let file = parse(text, Path::new("/d")).unwrap();
        assert_eq!(file.own.tls.ca, [PathBuf::from("/d/a.pem"), PathBuf::from("/b.pem")]);
        let [(m, one), (a, two)] = &file.hosts[..] else { panic!("{file:?}") };
        assert_eq!((m.as_str(), a.as_str()), ("https://m", "a"), "the file's order");
        assert_eq!((one.tls.skip_verify, two.tls.skip_verify), (Some(true), Some(false)));
        let client =
            [("/d/c.pem".into(), Some("/d/c.key".into())), ("/d/d.pem".into(), None), ("/d/e.pem".into(), None)];
        assert_eq!(one.tls.client, client);
        assert_eq!(two.tls.client, [("/d/f.pem".into(), None)]);
        assert_eq!(one.connect_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(one.capabilities.as_deref(), Some(&["pull".to_owned()][..]));
        let header = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(one.headers, [header("x-one", "1"), header("x-two", "2"), header("x-two", "3")]);
    }

    #[test]
    fn mistakes_are_named_and_not_quoted() {
        for (text, expect) in [
            ("server = 3", "server: is no text"),
            ("ca = 3", "ca: is neither a path nor"),
            ("ca = [\"a\", 3]", "ca: is neither a path nor"),
            ("client = [[\"a\"]]", "client: is neither"),
            ("capabilities = [\"canary\"]", "capabilities: is not of pull"),
            ("host = \"canary\"", "host: is no table"),
            ("host.m = \"canary\"", "host \"m\": is no table"),
            ("[host.m]\nskip_verify = \"canary\"", "host \"m\": skip_verify: is neither true"),
            ("[host.m]\ndial_timeout = \"canary\"", "host \"m\": dial_timeout: is no span"),
            ("[host.m]\ndial_timeout = 3", "host \"m\": dial_timeout: is no span"),
            ("[host.m.header]\nauthorization = {canary = 1}", "host \"m\": header \"authorization\": is neither"),
            ("header = \"authorization: canary\"", "header: is no table"),
            ("a = 1\n[header]\nauthorization = \"canary", "line 3: this is not TOML"),
        ] {
            let why = parse(text, Path::new("/d")).unwrap_err();
            assert_eq!(why.kind(), Kind::InvalidArgument);
            assert!(why.to_string().contains(expect) && !why.to_string().contains("canary"), "{text}: {why}");
        }
    }
}
