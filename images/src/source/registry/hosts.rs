//! Which hosts serve a registry: containerd's `hosts.toml` (docs/hosts.md of that project), Docker's certs.d, else the
//! registry itself.
//!
//! ```toml
//! server = "https://registry-1.docker.io"
//! [host."https://mirror.local:5000"]
//!   capabilities = ["pull", "resolve"]
//!   ca = "/etc/certs/mirror.pem"
//! ```
//! Read from `DIR/HOST_PORT_/hosts.toml`, `DIR/HOST:PORT/hosts.toml`, `DIR/_default/hosts.toml`, the first directory
//! that exists; without the file in it, `*.crt` there are authorities and `*.cert` with `*.key` client certificates.

mod file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::config::Config;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};

/// One place to ask, in the order of asking; the registry itself is last.
#[derive(Clone, Debug)]
pub struct Host {
    /// Up to and with `/v2/`.
    pub base: Url,
    /// Blobs, and documents by digest, may be had here.
    pub can_pull: bool,
    /// What a tag means may be asked here.
    pub can_resolve: bool,
    /// How TLS is spoken.
    pub tls: Tls,
    /// https is tried first although the address says http: it has settings for TLS, and the port does not decide.
    pub either: bool,
    /// For a connection.
    pub connect_timeout: Option<Duration>,
    /// Headers for each request.
    pub headers: Vec<(String, String)>,
    /// The registry's name, told to whoever is not the registry (`?ns=`).
    pub namespace: Option<String>,
    /// It stands for the registry itself: credentials for the registry are for it.
    pub is_registry: bool,
}

/// What is set about TLS; files are read at each pull.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tls {
    /// Further certificate authorities: PEM files, or directories of them.
    pub ca: Vec<PathBuf>,
    /// Client certificate and key, PEM files.
    pub client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whether certificates are left unchecked, if that is said.
    pub skip_verify: Option<bool>,
}

impl Tls {
    fn is_set(&self) -> bool {
        *self != Self::default()
    }
}

/// What a table of a file says about one host.
#[derive(Clone, Debug, Default)]
struct Settings {
    capabilities: Option<Vec<String>>,
    tls: Tls,
    override_path: bool,
    connect_timeout: Option<Duration>,
    headers: Vec<(String, String)>,
}

/// A whole file.
#[derive(Clone, Debug, Default)]
struct File {
    server: Option<String>,
    own: Settings,
    hosts: Vec<(String, Settings)>,
}

/// For whom hosts are looked for.
struct Wanted<'a> {
    registry: &'a str,
    /// Plain http where nothing else is said.
    plain: bool,
    /// The file is for all registries, so its `server` is no one registry.
    shared: bool,
}

/// The hosts for a registry's name.
///
/// # Errors
/// [`Kind::InvalidArgument`] with the file, the host, the key, and what is wrong with it.
pub fn resolve(config: &Config, registry: &str) -> Result<Vec<Host>> {
    let dir = config.hosts_dir.as_deref().and_then(|path| directory(path, registry));
    let shared = dir.as_ref().is_some_and(|dir| dir.ends_with("_default"));
    let wanted = Wanted { registry, plain: is_plain(config, registry), shared };
    let unchecked = (listed(&config.insecure, registry)).then_some(true);
    let tls = Tls { skip_verify: unchecked, ..Tls::default() };
    let bare = File { own: Settings { tls, ..Settings::default() }, ..File::default() };
    let Some(dir) = dir else { return hosts(bare, &wanted) };
    let path = dir.join("hosts.toml");
    let what = || format!("{}", path.display());
    let body = disk::read_small(&path, 1 << 20)?.unwrap_or_default();
    let file = match body.is_empty() {
        true => File { own: Settings { tls: certificates(&dir)?, ..Settings::default() }, ..File::default() },
        false => {
            let text = String::from_utf8(body).map_err(|why| Error::caused(Kind::InvalidArgument, what(), why))?;
            file::parse(&text, &dir).context(what)?
        }
    };
    hosts(file, &wanted).context(what)
}

/// How TLS is spoken with a host that is no registry here, as the registries' settings say.
pub(super) fn tls_of(config: &Config, host: &str) -> Result<Tls> {
    let mut hosts = resolve(config, host)?;
    Ok(hosts.pop().map(|host| host.tls).unwrap_or_default())
}

/// The directory that is about the registry, on a search path.
fn directory(path: &Path, registry: &str) -> Option<PathBuf> {
    let roots = std::env::split_paths(path).filter(|root| !root.as_os_str().is_empty());
    roots.flat_map(|root| candidates(&root, registry)).find(|dir| dir.is_dir())
}

fn candidates(root: &Path, registry: &str) -> Vec<PathBuf> {
    let with_port = registry.rsplit_once(':').filter(|(name, _)| !name.is_empty());
    let underscored = with_port.map(|(name, port)| format!("{name}_{port}_"));
    underscored.into_iter().chain([registry.to_owned(), "_default".into()]).map(|name| root.join(name)).collect()
}

/// Docker's certs.d: what lies in the directory, by name.
fn certificates(dir: &Path) -> Result<Tls> {
    let mut tls = Tls::default();
    let what = || format!("directory {}", dir.display());
    for entry in std::fs::read_dir(dir).context(what)? {
        let path = entry.context(what)?.path();
        match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = Some(path.with_extension("key")).filter(|key| key.exists());
                tls.client.push((path, key));
            }
            _ => {}
        }
    }
    tls.ca.sort();
    tls.client.sort();
    Ok(tls)
}

fn hosts(file: File, wanted: &Wanted<'_>) -> Result<Vec<Host>> {
    let mut hosts = Vec::new();
    for (address, settings) in file.hosts {
        hosts.push(host(&address, settings, wanted).context(|| format!("host {address:?}"))?);
    }
    let own = match &file.server {
        Some(server) => {
            let own = host(server, file.own, wanted).context(|| "server")?;
            Host { is_registry: own.is_registry || !wanted.shared, ..own }
        }
        None => {
            let name = if wanted.registry == "docker.io" { "registry-1.docker.io" } else { wanted.registry };
            let scheme = if wanted.plain { "http" } else { "https" };
            // Whatever the settings say about paths is about a server that is named.
            let own = Settings { override_path: false, ..file.own };
            Host { is_registry: true, namespace: None, ..host(&format!("{scheme}://{name}"), own, wanted)? }
        }
    };
    hosts.push(own);
    Ok(hosts)
}

fn is_plain(config: &Config, registry: &str) -> bool {
    listed(&config.plain_http, registry) || config.plain_http_loopback && is_loopback(without_port(registry))
}

/// Whether a list of hosts, with or without ports, names the registry.
fn listed(list: &[String], registry: &str) -> bool {
    list.iter().any(|one| one == registry || one == without_port(registry))
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

/// `host[:port]` of an address, as a reference would name it.
pub(super) fn name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn host(address: &str, settings: Settings, wanted: &Wanted<'_>) -> Result<Host> {
    let wrong = |why: &str| Error::new(Kind::InvalidArgument, format!("the address {why}"));
    let full = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let mut base: Url = full.parse().map_err(|_| wrong("is none"))?;
    if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
        return Err(wrong("is no http address"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(wrong("holds credentials: give them with the pull or in a login file"));
    }
    let path = base.path().trim_end_matches('/').to_owned();
    let path = match settings.override_path || path.ends_with("/v2") {
        true => format!("{path}/"),
        false => format!("{path}/v2/"),
    };
    base.set_path(&path);
    let own_name = name(&base);
    let is_hub = wanted.registry == "docker.io" && own_name == "registry-1.docker.io";
    let is_registry = own_name == wanted.registry || is_hub;
    let can = |what: &str| match &settings.capabilities {
        Some(list) => list.iter().any(|capability| capability == what),
        None => true,
    };
    Ok(Host {
        can_pull: can("pull"),
        can_resolve: can("resolve"),
        either: base.scheme() == "http" && settings.tls.is_set() && base.port_or_known_default() != Some(80),
        base,
        tls: settings.tls,
        connect_timeout: settings.connect_timeout,
        headers: settings.headers,
        namespace: (!is_registry).then(|| wanted.registry.to_owned()),
        is_registry,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn parsed(text: &str, registry: &str) -> Result<Vec<Host>> {
        let plain = is_plain(&Config::default(), registry);
        hosts(file::parse(text, Path::new("/d"))?, &Wanted { registry, plain, shared: false })
    }

    /// `ADDRESS`, then `p` and `r` for what it can, `n` with a namespace, `=` if it is the registry, `?` for either.
    fn shown(hosts: &[Host]) -> String {
        let one = |host: &Host| {
            let flags = [
                (host.can_pull, 'p'),
                (host.can_resolve, 'r'),
                (host.namespace.is_some(), 'n'),
                (host.is_registry, '='),
                (host.either, '?'),
            ];
            format!("{} {}", host.base, flags.iter().filter(|(on, _)| *on).map(|(_, c)| *c).collect::<String>())
        };
        hosts.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn addresses() {
        for (text, registry, expect) in [
            ("", "docker.io", "https://registry-1.docker.io/v2/ pr="),
            ("", "127.0.0.1:5000", "http://127.0.0.1:5000/v2/ pr="),
            ("", "127.9.9.9", "http://127.9.9.9/v2/ pr="),
            ("", "[::1]:5000", "http://[::1]:5000/v2/ pr="),
            ("", "localhost:5000", "http://localhost:5000/v2/ pr="),
            ("ca = \"x\"", "localhost:5000", "http://localhost:5000/v2/ pr=?"),
            ("ca = \"x\"", "localhost:80", "http://localhost/v2/ pr="),
            ("", "localhost.example", "https://localhost.example/v2/ pr="),
            ("server = \"https://other\"", "quay.io", "https://other/v2/ prn="),
            ("server = \"https://registry-1.docker.io\"", "docker.io", "https://registry-1.docker.io/v2/ pr="),
            ("server = \"https://docker.io\"", "docker.io", "https://docker.io/v2/ pr="),
            (
                "[host.\"http://m:1\"]\n[host.\"a\"]\n[host.\"http://m:1\".header]\nx=\"1\"",
                "quay.io",
                "http://m:1/v2/ prn, https://a/v2/ prn, https://quay.io/v2/ pr=",
            ),
            ("[host.\"https://m/proxy\"]", "q.io", "https://m/proxy/v2/ prn, https://q.io/v2/ pr="),
            ("[host.\"https://m/p/v2\"]", "q.io", "https://m/p/v2/ prn, https://q.io/v2/ pr="),
            ("[host.\"https://m/p\"]\noverride_path = true", "q.io", "https://m/p/ prn, https://q.io/v2/ pr="),
            ("[host.\"https://m\"]\noverride_path = true", "q.io", "https://m/ prn, https://q.io/v2/ pr="),
            ("[host.\"https://m\"]\ncapabilities = [\"Push\"]", "q.io", "https://m/v2/ n, https://q.io/v2/ pr="),
            ("[host.\"https://m\"]\ncapabilities = [\"pull\"]", "q.io", "https://m/v2/ pn, https://q.io/v2/ pr="),
            ("[host.\"https://m\"]\ncapabilities = []", "q.io", "https://m/v2/ prn, https://q.io/v2/ pr="),
            ("[host.\"http://m:5\"]\nskip_verify = true", "q.io", "http://m:5/v2/ prn?, https://q.io/v2/ pr="),
            ("[host.\"https://q.io\"]", "q.io", "https://q.io/v2/ pr=, https://q.io/v2/ pr="),
        ] {
            assert_eq!(shown(&parsed(text, registry).unwrap()), expect, "{registry} {text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expect) in [
            ("[host.\"ftp://m\"]", "host \"ftp://m\": the address is no http address"),
            ("[host.\"https://u:canary@m\"]", "the address holds credentials"),
            ("server = \"http://\"", "server: the address is none"),
        ] {
            let why = parsed(text, "q.io").unwrap_err();
            assert_eq!(why.kind(), Kind::InvalidArgument);
            assert!(why.to_string().contains(expect), "{text}: {why}");
        }
    }

    #[test]
    fn where_files_are_looked_for() {
        let names = |registry: &str| {
            let paths = candidates(Path::new("/d"), registry);
            paths.iter().map(|p| p.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("127.0.0.1:5000"), "/d/127.0.0.1_5000_ /d/127.0.0.1:5000 /d/_default");
        assert_eq!(names("quay.io"), "/d/quay.io /d/_default");
    }

    #[test]
    fn a_search_path_and_dockers_certificates() {
        let dir = Scratch::new("certs");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("one/a.io/hosts.toml", "server = \"https://one\"");
        put("two/a.io/hosts.toml", "server = \"https://two\"");
        put("two/b.io_5_/ca.crt", "");
        put("two/b.io_5_/me.cert", "");
        put("two/b.io_5_/me.key", "");
        put("two/b.io_5_/you.cert", "");
        put("two/_default/hosts.toml", "server = \"https://mirror\"");
        let path = std::env::join_paths([dir.path().join("one"), dir.path().join("two")]).unwrap();
        let config = Config { hosts_dir: Some(path.into()), ..Config::default() };
        assert_eq!(shown(&resolve(&config, "a.io").unwrap()), "https://one/v2/ prn=");
        assert_eq!(shown(&resolve(&config, "c.io").unwrap()), "https://mirror/v2/ prn", "no one registry's server");
        let b = resolve(&config, "b.io:5").unwrap();
        let at = |name: &str| dir.path().join("two/b.io_5_").join(name);
        assert_eq!(b[0].tls.ca, [at("ca.crt")]);
        assert_eq!(b[0].tls.client, [(at("me.cert"), Some(at("me.key"))), (at("you.cert"), None)]);
        put("one/a.io/hosts.toml", "ca = 3");
        let why = resolve(&config, "a.io").unwrap_err().to_string();
        assert!(why.contains("one/a.io/hosts.toml: ca: "), "{why}");
    }
}
