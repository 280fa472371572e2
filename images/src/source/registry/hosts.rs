//! Which hosts serve a registry: containerd's `hosts.toml` (docs/hosts.md of that project), else the registry itself.
//!
//! ```toml
//! server = "https://registry-1.docker.io"
//! [host."https://mirror.local:5000"]
//!   capabilities = ["pull", "resolve"]
//!   ca = "/etc/certs/mirror.pem"
//! ```
//! Read from `DIR/HOST:PORT/hosts.toml` (a colon may be written `_`: `HOST_PORT_`), `DIR/HOST/hosts.toml`, `DIR/_default/hosts.toml`.

use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;

use crate::config::Config;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};

/// One place to ask, in the order of asking; the registry itself is last.
#[derive(Clone, Debug)]
pub struct Host {
    /// Up to and with `/v2/`.
    pub base: Url,
    /// Further certificate authorities, PEM files.
    pub ca: Vec<PathBuf>,
    /// Client certificate and key, PEM files.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Certificates are not checked.
    pub skip_verify: bool,
    /// Headers for each request.
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: Settings,
    host: Option<toml::Table>,
}

#[derive(Debug, Default, Deserialize)]
struct Settings {
    capabilities: Option<Vec<String>>,
    ca: Option<toml::Value>,
    client: Option<toml::Value>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    header: Option<toml::Table>,
}

/// The hosts for a registry's name.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the file and what is wrong in it.
pub fn resolve(config: &Config, registry: &str) -> Result<Vec<Host>> {
    let file = match &config.hosts_dir {
        Some(dir) => candidates(dir, registry).into_iter().find(|path| path.exists()),
        None => None,
    };
    let Some(path) = file else {
        return Ok(vec![own_host(config, registry, None, &Settings::default(), Path::new("/"))?]);
    };
    let body = disk::read_small(&path, 1 << 20)?.unwrap_or_default();
    let what = || format!("{}", path.display());
    let text = String::from_utf8(body).map_err(|why| Error::caused(Kind::InvalidArgument, what(), why))?;
    parse(&text, config, registry, path.parent().unwrap_or(Path::new("/"))).context(what)
}

fn candidates(dir: &Path, registry: &str) -> Vec<PathBuf> {
    let mut names = vec![registry.to_owned()];
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.extend([format!("{host}_{port}_"), host.to_owned()]);
    }
    names.push("_default".into());
    names.into_iter().map(|name| dir.join(name).join("hosts.toml")).collect()
}

fn parse(text: &str, config: &Config, registry: &str, dir: &Path) -> Result<Vec<Host>> {
    let wrong = |why: toml::de::Error| Error::new(Kind::InvalidArgument, why.message().to_owned());
    let file: File = toml::from_str(text).map_err(wrong)?;
    let mut hosts = Vec::new();
    for (address, settings) in file.host.unwrap_or_default() {
        let settings: Settings = settings.try_into().map_err(wrong)?;
        // A host that may only be pushed to is none of ours.
        let can = |what: &str| settings.capabilities.as_ref().is_none_or(|list| list.iter().any(|c| c == what));
        if can("pull") && can("resolve") {
            hosts.push(host(&address, &settings, dir).context(|| format!("host {address:?}"))?);
        }
    }
    hosts.push(own_host(config, registry, file.server.as_deref(), &file.own, dir)?);
    Ok(hosts)
}

/// The registry itself.
fn own_host(config: &Config, registry: &str, server: Option<&str>, settings: &Settings, dir: &Path) -> Result<Host> {
    match server {
        Some(server) => host(server, settings, dir),
        None => {
            let name = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
            let scheme = if is_plain(config, registry) { "http" } else { "https" };
            host(&format!("{scheme}://{name}"), settings, dir)
        }
    }
}

fn is_plain(config: &Config, registry: &str) -> bool {
    let name = without_port(registry);
    let configured = config.plain_http.iter().any(|plain| plain == registry || plain == name);
    configured || config.plain_http_loopback && is_loopback(name)
}

fn without_port(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => registry,
    }
}

/// A name for this machine, as written in a reference.
pub(super) fn is_loopback(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn host(address: &str, settings: &Settings, dir: &Path) -> Result<Host> {
    let wrong = |why: &str| Error::new(Kind::InvalidArgument, format!("{address:?} {why}"));
    let full = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let mut base: Url = full.parse().map_err(|_| wrong("is no address"))?;
    if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
        return Err(wrong("is no http address"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(Error::new(Kind::InvalidArgument, "an address of a registry holds no credentials"));
    }
    let path = base.path().trim_end_matches('/').to_owned();
    let path = match settings.override_path || path.ends_with("/v2") {
        true => format!("{path}/"),
        false => format!("{path}/v2/"),
    };
    base.set_path(&path);
    Ok(Host {
        base,
        ca: files(settings.ca.as_ref(), dir).ok_or_else(|| wrong("has a ca that is no path or list of paths"))?,
        client: client(settings.client.as_ref(), dir).ok_or_else(|| wrong("has a client that is no path or list"))?,
        skip_verify: settings.skip_verify,
        headers: headers(settings.header.as_ref()).ok_or_else(|| wrong("has a header that is no text"))?,
    })
}

/// A path or a list of paths, relative to the file's directory.
fn files(value: Option<&toml::Value>, dir: &Path) -> Option<Vec<PathBuf>> {
    match value {
        None => Some(Vec::new()),
        Some(toml::Value::String(one)) => Some(vec![dir.join(one)]),
        Some(toml::Value::Array(many)) => many.iter().map(|v| v.as_str().map(|path| dir.join(path))).collect(),
        Some(_) => None,
    }
}

/// A path, a list of paths, or a list of [certificate, key].
fn client(value: Option<&toml::Value>, dir: &Path) -> Option<Vec<(PathBuf, Option<PathBuf>)>> {
    let pair = |value: &toml::Value| match value {
        toml::Value::String(one) => Some((dir.join(one), None)),
        toml::Value::Array(two) => match &two[..] {
            [cert, key] => {
                let key = Some(key.as_str()?).filter(|key| !key.is_empty());
                Some((dir.join(cert.as_str()?), key.map(|key| dir.join(key))))
            }
            _ => None,
        },
        _ => None,
    };
    match value {
        None => Some(Vec::new()),
        Some(toml::Value::Array(many)) => many.iter().map(pair).collect(),
        Some(one) => pair(one).map(|one| vec![one]),
    }
}

fn headers(table: Option<&toml::Table>) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (name, value) in table.into_iter().flatten() {
        match value {
            toml::Value::Array(many) => {
                for value in many {
                    found.push((name.clone(), value.as_str()?.to_owned()));
                }
            }
            one => found.push((name.clone(), one.as_str()?.to_owned())),
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(text: &str, registry: &str) -> String {
        match parse(text, &Config::default(), registry, Path::new("/etc/hosts.d")) {
            Ok(hosts) => hosts.iter().map(|host| host.base.to_string()).collect::<Vec<_>>().join(" "),
            Err(why) => format!("{:?}", why.kind()),
        }
    }

    #[test]
    fn addresses() {
        for (text, registry, expect) in [
            ("", "docker.io", "https://registry-1.docker.io/v2/"),
            ("", "127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
            ("", "127.9.9.9", "http://127.9.9.9/v2/"),
            ("", "[::1]:5000", "http://[::1]:5000/v2/"),
            ("", "localhost:5000", "http://localhost:5000/v2/"),
            ("", "localhost.example", "https://localhost.example/v2/"),
            ("server = \"https://other\"", "quay.io", "https://other/v2/"),
            ("[host.\"http://m:1\"]\n[host.\"n\"]", "quay.io", "http://m:1/v2/ https://n/v2/ https://quay.io/v2/"),
            ("[host.\"https://m/proxy\"]", "q.io", "https://m/proxy/v2/ https://q.io/v2/"),
            ("[host.\"https://m/p/v2\"]", "q.io", "https://m/p/v2/ https://q.io/v2/"),
            ("[host.\"https://m/p\"]\noverride_path = true", "q.io", "https://m/p/ https://q.io/v2/"),
            ("[host.\"https://m\"]\ncapabilities = [\"push\"]", "q.io", "https://q.io/v2/"),
            ("[host.\"ftp://m\"]", "q.io", "InvalidArgument"),
            ("[host.\"https://u:p@m\"]", "q.io", "InvalidArgument"),
            ("server = 3", "q.io", "InvalidArgument"),
            ("ca = 3", "q.io", "InvalidArgument"),
        ] {
            assert_eq!(bases(text, registry), expect, "{registry} {text}");
        }
    }

    #[test]
    fn settings_of_a_host() {
        let text = r#"
            ca = ["a.pem", "/b.pem"]
            [host."https://m"]
            skip_verify = true
            client = [["c.pem", "c.key"], ["d.pem", ""]]
            [host."https://m".header]
            x-one = "1"
            x-two = ["2", "3"]
        "#;
        let hosts = parse(text, &Config::default(), "q.io", Path::new("/d")).unwrap();
        assert_eq!(hosts[1].ca, [PathBuf::from("/d/a.pem"), PathBuf::from("/b.pem")]);
        assert!(hosts[0].skip_verify && !hosts[1].skip_verify);
        let client = [("/d/c.pem".into(), Some("/d/c.key".into())), ("/d/d.pem".into(), None)];
        assert_eq!(hosts[0].client, client);
        let header = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(hosts[0].headers, [header("x-one", "1"), header("x-two", "2"), header("x-two", "3")]);
    }

    #[test]
    fn where_files_are_looked_for() {
        let paths = candidates(Path::new("/d"), "127.0.0.1:5000");
        let names: Vec<_> = paths.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        let expect = ["/d/127.0.0.1:5000", "/d/127.0.0.1_5000_", "/d/127.0.0.1", "/d/_default"];
        assert_eq!(names, expect.map(|dir| format!("{dir}/hosts.toml")));
    }
}
