//! Reading a kubeconfig: the current context's server, CA and credentials, from files or inline base64.
//! Format: k8s.io/client-go/tools/clientcmd/api/v1. Exec plugins and auth providers are refused.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Error, Result};

/// What is needed to reach an API server.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// `https://host:port`, without a slash at the end.
    pub server: String,
    /// PEM bundle; `None`: none given.
    pub ca: Option<Vec<u8>>,
    /// PEM certificate and key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Option<Token>,
    pub server_name: Option<String>,
}

/// A bearer token; one in a file is read again as it is rotated.
#[derive(Clone)]
pub(crate) enum Token {
    Fixed(String),
    File(PathBuf),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(_) => f.write_str("Fixed(…)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

/// Reads the kubeconfig at `path`; relative files in it are relative to its directory.
///
/// # Errors
/// `Kind::Config` saying which part cannot be read or used.
pub(crate) fn read(path: &Path) -> Result<Access> {
    let text = std::fs::read_to_string(path).map_err(|e| bad(path, "read it").because(e))?;
    parse(&text, path)
}

fn bad(path: &Path, what: &str) -> Error {
    Error::config(format!("kubeconfig {}: {what}", path.display()))
}

fn parse(text: &str, path: &Path) -> Result<Access> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|e| bad(path, "parse it").because(e))?;
    let context = file
        .contexts
        .into_iter()
        .find(|c| c.name == file.current_context)
        .ok_or_else(|| bad(path, "its current-context does not exist"))?
        .context;
    let cluster = file.clusters.into_iter().find(|c| c.name == context.cluster);
    let cluster = cluster.ok_or_else(|| bad(path, "its context names no cluster of it"))?.cluster;
    let user = file.users.into_iter().find(|u| u.name == context.user).map(|u| u.user).unwrap_or_default();
    if cluster.insecure_skip_tls_verify {
        return Err(bad(path, "insecure-skip-tls-verify is not supported: give the CA"));
    }
    if user.exec.is_some() || user.auth_provider.is_some() {
        return Err(bad(path, "exec and auth-provider users are not supported: give a certificate or a token"));
    }
    check_server(&cluster.server, path)?;
    let certificate = pem(path, user.client_certificate_data, user.client_certificate)?;
    let key = pem(path, user.client_key_data, user.client_key)?;
    let client = match (certificate, key) {
        (Some(c), Some(k)) => Some((c, k)),
        (None, None) => None,
        _ => return Err(bad(path, "a client certificate and its key come together")),
    };
    Ok(Access {
        server: cluster.server.trim_end_matches('/').to_string(),
        ca: pem(path, cluster.certificate_authority_data, cluster.certificate_authority)?,
        client,
        token: user.token.map(Token::Fixed).or(user.token_file.map(|f| Token::File(beside(path, &f)))),
        server_name: cluster.tls_server_name,
    })
}

/// TLS, or a loopback address: credentials do not cross a network in the clear.
fn check_server(server: &str, path: &Path) -> Result<()> {
    let plain = server.strip_prefix("http://");
    let loopback = plain.is_some_and(|rest| {
        let address = rest.split('/').next().unwrap_or(rest);
        address.parse::<std::net::SocketAddr>().is_ok_and(|a| a.ip().is_loopback())
    });
    if server.starts_with("https://") || loopback {
        return Ok(());
    }
    Err(bad(path, "its server is neither https:// nor http:// on a loopback address"))
}

fn beside(path: &Path, file: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(file)
}

fn pem(path: &Path, data: Option<String>, file: Option<PathBuf>) -> Result<Option<Vec<u8>>> {
    if let Some(data) = data {
        return STANDARD.decode(data.trim()).map(Some).map_err(|e| bad(path, "decode its base64").because(e));
    }
    let Some(file) = file else { return Ok(None) };
    let file = beside(path, &file);
    std::fs::read(&file).map(Some).map_err(|e| bad(path, &format!("read {}", file.display())).because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(server: &str, user: &str) -> String {
        format!(
            "current-context: a\ncontexts: [{{name: a, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"{server}\", certificate-authority-data: aGk=}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    #[test]
    fn the_current_context_is_read() {
        let access = parse(&text("https://10.0.0.1:6443/", "token: t0p"), Path::new("/x/k")).expect("access");
        assert_eq!((access.server.as_str(), access.ca.as_deref()), ("https://10.0.0.1:6443", Some(&b"hi"[..])));
        assert!(!format!("{access:?}").contains("t0p"), "tokens are not printed");
        let access = parse(&text("https://h", "tokenFile: t"), Path::new("/x/k")).expect("access");
        assert!(matches!(access.token, Some(Token::File(p)) if p == Path::new("/x/t")));
    }

    #[test]
    fn what_is_unsafe_or_unknown_is_refused() {
        for (server, user, why) in [
            ("http://10.0.0.1:80", "token: x", "neither https"),
            ("http://127.0.0.1.example.org:80", "token: x", "neither https"),
            ("https://h", "exec: {command: x}", "exec"),
            ("https://h", "client-certificate-data: aGk=", "together"),
        ] {
            let said = parse(&text(server, user), Path::new("/x/k")).expect_err(server).to_string();
            assert!(said.contains(why), "{said}");
        }
        assert!(parse(&text("http://127.0.0.1:1", ""), Path::new("/x/k")).is_ok());
    }
}
