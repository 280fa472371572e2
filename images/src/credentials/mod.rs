//! Credentials out of the files that `docker login`, `podman login` and Kubernetes write, and out of the helper
//! programs that such files name. What a caller gives with a pull goes before all of it.
//!
//! The files are read at every pull, because people log in while a daemon runs; a helper is asked only once a registry
//! has refused a request without credentials.

mod file;
mod helper;
mod matching;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::disk;
use crate::error::{Context, Result};
use crate::network::Network;
use crate::options::Auth;

pub(crate) use file::Entry;

/// A file with logins is some kilobytes.
const LARGEST: u64 = 1 << 20;

/// Where a user's own tools keep logins, in the order in which they are asked: `$REGISTRY_AUTH_FILE` alone if it is
/// set, as podman and skopeo do; else podman's files, Docker's, and the old `.dockercfg`.
pub fn of_user(environment: impl Fn(&str) -> Option<OsString>, uid: u32) -> Vec<PathBuf> {
    let get = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(only) = get("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let runtime = get("XDG_RUNTIME_DIR").unwrap_or_else(|| PathBuf::from(format!("/run/containers/{uid}")));
    // Root's directory is `/run/containers/0` itself; the others have `containers` below their own.
    let runtime = match get("XDG_RUNTIME_DIR") {
        Some(_) => runtime.join("containers/auth.json"),
        None => runtime.join("auth.json"),
    };
    let home = get("HOME");
    let below = |rest: &str| home.as_ref().map(|home| home.join(rest));
    let own = get("XDG_CONFIG_HOME").or_else(|| below(".config")).map(|dir| dir.join("containers/auth.json"));
    let docker = get("DOCKER_CONFIG").or_else(|| below(".docker")).map(|dir| dir.join("config.json"));
    // Who names Docker's directory means that one first.
    let mut files = match get("DOCKER_CONFIG") {
        Some(_) => vec![docker, Some(runtime), own],
        None => vec![Some(runtime), own, docker],
    };
    files.push(below(".dockercfg"));
    files.into_iter().flatten().collect()
}

/// Logins as they are on disk now.
#[derive(Clone, Debug)]
pub(crate) struct Logins {
    files: Vec<(PathBuf, file::Logins)>,
    print: Digest,
}

/// Credentials or why there are none, and where they are from; the words go into the error if a registry refuses.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    pub(crate) auth: Option<Auth>,
    pub(crate) origin: String,
}

impl Logins {
    /// Reads what there is; a file that does not exist has no logins.
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self> {
        let mut found = Vec::new();
        let mut all = Vec::new();
        for path in files {
            if let Some(body) = disk::read_small(path, LARGEST)? {
                let logins =
                    file::parse(&body, is_old(path)).context(|| format!("credentials in {}", path.display()))?;
                found.push((path.clone(), logins));
                all.extend(Digest::of(&body).to_string().into_bytes());
            }
        }
        Ok(Self { files: found, print: Digest::of(&all) })
    }

    /// Differs where the files differ.
    pub(crate) fn print(&self) -> &Digest {
        &self.print
    }

    /// The login for a repository of a host (`name[:port]`): the first file that has one decides.
    pub(crate) async fn find(&self, host: &str, path: &str, network: &Network) -> Lookup {
        for (file, logins) in &self.files {
            match logins.find(host, path) {
                None => {}
                Some((key, Entry::Login(auth))) => {
                    let origin = format!("the login for {key} in {}", file.display());
                    return Lookup { auth: Some(auth), origin };
                }
                Some((key, Entry::Helper(name))) => match helper::get(&name, &key, network).await {
                    Ok(None) => {}
                    Ok(Some(auth)) => {
                        return Lookup { auth: Some(auth), origin: format!("what docker-credential-{name} gave") };
                    }
                    Err(why) => {
                        tracing::warn!(%why, file = %file.display(), "a credential helper failed");
                        return Lookup { auth: None, origin: why.to_string() };
                    }
                },
            }
        }
        Lookup { auth: None, origin: "no credentials were given".into() }
    }
}

fn is_old(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".dockercfg"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Secret;
    use crate::scratch::Scratch;

    #[test]
    fn where_logins_are() {
        let list = |pairs: &[(&str, &str)]| {
            let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            of_user(get, 0).iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            list(&[("HOME", "/h")]),
            "/run/containers/0/auth.json /h/.config/containers/auth.json /h/.docker/config.json /h/.dockercfg"
        );
        assert_eq!(list(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/x/a.json")]), "/x/a.json");
        assert_eq!(
            list(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_CONFIG_HOME", "/c")]),
            "/d/config.json /r/containers/auth.json /c/containers/auth.json /h/.dockercfg"
        );
        assert_eq!(list(&[]), "/run/containers/0/auth.json");
    }

    #[tokio::test]
    async fn the_first_file_with_a_login_decides() {
        let dir = Scratch::new("logins");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a.json"), r#"{"auths":{"one":{"username":"a","password":"1"}}}"#).unwrap();
        std::fs::write(at("x.dockercfg"), r#"{"one":{"auth":"Yjoy"},"two":{"auth":"Yjoy"}}"#).unwrap();
        let files = [at("none.json"), at("a.json"), at("x.dockercfg")];
        let logins = Logins::read(&files).unwrap();
        let find = async |host: &str| logins.find(host, "p", &Network::default()).await;
        let basic =
            |user: &str, password: &str| Some(Auth::Basic { user: user.into(), password: Secret::new(password) });
        assert_eq!(find("one").await.auth, basic("a", "1"));
        let two = find("two").await;
        assert_eq!(two.auth, basic("b", "2"));
        assert_eq!(two.origin, format!("the login for two in {}", at("x.dockercfg").display()));
        assert_eq!(find("three").await.origin, "no credentials were given");
        std::fs::write(at("a.json"), "{}").unwrap();
        assert_ne!(Logins::read(&files).unwrap().print(), logins.print());
        std::fs::write(at("a.json"), r#"{"auths":{"one":{"auth":["canary"]}}}"#).unwrap();
        let why = Logins::read(&files).unwrap_err().to_string();
        assert!(why.contains("a.json") && why.contains("line 1") && !why.contains("canary"), "{why}");
    }
}
