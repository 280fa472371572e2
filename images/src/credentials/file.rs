//! The login files themselves. Pure: bytes in, entries out.
//!
//! ```text
//! {"auths": {"quay.io": {"auth": "base64 of user:password"}, "r.io": {"identitytoken": "…"}},
//!  "credsStore": "pass", "credHelpers": {"gcr.io": "gcloud"}}
//! ```
//! A `.dockercfg` is the content of `auths` alone.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::matching;
use crate::error::{Error, Kind, Result};
use crate::options::{Auth, Secret};

/// One file's content.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Logins {
    auths: BTreeMap<String, Login>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: Secret,
    username: String,
    password: Secret,
    identitytoken: Secret,
    registrytoken: Secret,
}

/// What a file has for a registry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Entry {
    /// The credentials.
    Login(Auth),
    /// The name of the program that has them, without its prefix.
    Helper(String),
}

/// Reads a file; `old`: it is a `.dockercfg`.
pub(super) fn parse(body: &[u8], old: bool) -> Result<Logins> {
    // The parser's own words would quote what is there.
    let wrong = |why: serde_json::Error| {
        let why = format!("line {}, column {}: not what docker login writes", why.line(), why.column());
        Error::new(Kind::InvalidArgument, why)
    };
    if body.trim_ascii().is_empty() {
        return Ok(Logins::default());
    }
    let mut logins = match old {
        true => Logins { auths: serde_json::from_slice(body).map_err(wrong)?, ..Logins::default() },
        false => serde_json::from_slice::<Logins>(body).map_err(wrong)?,
    };
    for (key, login) in &mut logins.auths {
        login.auth().map_err(|why| why.within(format!("auths, {key:?}")))?;
    }
    Ok(logins)
}

impl Login {
    fn auth(&self) -> Result<Option<Auth>> {
        let (password, identity) = (self.password.reveal(), self.identitytoken.reveal());
        Auth::from_cri(&self.username, password, self.auth.reveal(), identity, self.registrytoken.reveal())
    }
}

impl Logins {
    /// The best entry and what to call it: a helper for this host, the file's own helper, a login. Docker's order;
    /// a helper that has nothing leaves it to the next file.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<(String, Entry)> {
        let server = if host == "registry-1.docker.io" || host == "docker.io" { HUB_SERVER } else { host };
        let best = self.cred_helpers.iter().filter_map(|(key, name)| Some((matching::fit(key, host, path)?, name)));
        if let Some((_, name)) = best.max_by_key(|(fit, _)| *fit).filter(|(_, name)| !name.is_empty()) {
            return Some((server.to_owned(), Entry::Helper(name.clone())));
        }
        let login = |(key, login): (&String, &Login)| {
            let fit = matching::fit(key, host, path)?;
            Some((fit, key.clone(), login.auth().ok().flatten()?))
        };
        let best = self.auths.iter().filter_map(login).max_by_key(|(fit, ..)| *fit);
        match (best, self.creds_store.as_str()) {
            (Some((_, key, auth)), _) => Some((key, Entry::Login(auth))),
            (None, "") => None,
            (None, store) => Some((server.to_owned(), Entry::Helper(store.to_owned()))),
        }
    }
}

/// The name under which Docker's helpers keep the login for Docker Hub.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str, path: &str) -> String {
        match parse(text.as_bytes(), false).unwrap().find(host, path) {
            None => "nothing".into(),
            Some((server, Entry::Helper(name))) => format!("helper {name} {server}"),
            Some((key, Entry::Login(Auth::Basic { user, password }))) => format!("{key} {user}:{}", password.reveal()),
            Some((key, Entry::Login(Auth::Identity(token)))) => format!("{key} identity {}", token.reveal()),
            Some((key, Entry::Login(Auth::Bearer(token)))) => format!("{key} bearer {}", token.reveal()),
        }
    }

    #[test]
    fn entries() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOjE="},
            "a.io": {"auth": "dTpw", "email": "x@y"}, "a.io/team": {"auth": "dDpx"},
            "i.io": {"auth": "MDA6", "identitytoken": "long"}, "r.io": {"registrytoken": "now"},
            "u.io": {"username": "u", "password": "p:q"}, "stored.io": {}},
            "credHelpers": {"h.io": "one", "*.h.io": "two", "off.io": ""}, "HttpHeaders": {"X": "y"}}"#;
        for (host, path, expect) in [
            ("docker.io", "library/a", "https://index.docker.io/v1/ hub:1"),
            ("registry-1.docker.io", "library/a", "https://index.docker.io/v1/ hub:1"),
            ("a.io", "x", "a.io u:p"),
            ("a.io", "team/x", "a.io/team t:q"),
            ("i.io", "x", "i.io identity long"),
            ("r.io", "x", "r.io bearer now"),
            ("u.io", "x", "u.io u:p:q"),
            ("h.io", "x", "helper one h.io"),
            ("b.h.io", "x", "helper two b.h.io"),
            ("off.io", "x", "nothing"),
            ("stored.io", "x", "nothing"),
            ("none.io", "x", "nothing"),
        ] {
            assert_eq!(found(text, host, path), expect, "{host}/{path}");
        }
        let store = r#"{"auths": {"a.io": {}, "b.io": {"auth": "dTpw"}}, "credsStore": "pass"}"#;
        assert_eq!(found(store, "a.io", "x"), "helper pass a.io");
        assert_eq!(found(store, "b.io", "x"), "b.io u:p");
        assert_eq!(found(store, "docker.io", "x"), "helper pass https://index.docker.io/v1/");
    }

    #[test]
    fn damaged_files_are_refused_and_not_quoted() {
        for bad in [
            r#"{"auths": {"a.io": {"auth": 7}}}"#,
            r#"{"auths": {"a.io": {"auth": "canary"}}}"#,
            r#"{"auths": "canary"}"#,
            r#"["canary"]"#,
            "canary",
        ] {
            let why = parse(bad.as_bytes(), false).unwrap_err();
            assert_eq!(why.kind(), Kind::InvalidArgument, "{bad}");
            assert!(!format!("{why} {why:?}").contains("canary"), "{why}");
        }
        assert!(parse(b" \n", false).unwrap().find("a", "b").is_none());
        let printed = format!("{:?}", parse(br#"{"auths":{"a.io":{"auth":"dTpw","password":"canary"}}}"#, false));
        assert!(!printed.contains("canary") && !printed.contains("dTpw"), "{printed}");
    }
}
