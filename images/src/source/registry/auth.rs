//! Authentication: challenges (RFC 9110 section 11.6.1) and the distribution project's token protocol.
//! Parsing and choosing is pure; the requests are made in `http`.

use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::options::Secret;

/// What a registry asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Challenge {
    /// User name and password.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// Where: an absolute URL.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

/// The answer of a token service.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a token service means when it does not say how long its token lives (docs/spec/auth/token.md).
const DEFAULT_LIFE: u64 = 60;

/// The challenges of one or several `WWW-Authenticate` headers, bearer first; schemes that we do not know are left out.
pub fn challenges<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = headers.flat_map(split).collect();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found
}

/// One header may hold several challenges, and commas separate both them and their parameters.
fn split(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    for item in items(header) {
        let equals = item.find('=').unwrap_or(item.len());
        match item.find(' ').filter(|space| *space < equals) {
            // `Scheme name=value` starts a challenge, and so does a lone word.
            Some(space) => {
                found.extend(challenge(&scheme, &parameters));
                scheme = item[..space].to_ascii_lowercase();
                parameters = parameter(item[space..].trim()).into_iter().collect();
            }
            None if equals == item.len() => {
                found.extend(challenge(&scheme, &parameters));
                scheme = item.to_ascii_lowercase();
                parameters = Vec::new();
            }
            None => parameters.extend(parameter(item)),
        }
    }
    found.extend(challenge(&scheme, &parameters));
    found
}

/// The comma-separated items of a header, commas inside quotes apart.
fn items(header: &str) -> Vec<&str> {
    let mut quoted = false;
    let mut escaped = false;
    let at_comma = |c: char| {
        let separates = c == ',' && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    };
    header.split(at_comma).map(str::trim).filter(|item| !item.is_empty()).collect()
}

fn parameter(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let value = value.trim();
    let value = match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => value.to_owned(),
    };
    Some((name.trim().to_ascii_lowercase(), value))
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") }),
        _ => None,
    }
}

/// The token service's address with its query. A registry reached by https must not send credentials over http.
///
/// # Errors
/// [`Kind::Invalid`] if the realm is no such address.
pub fn token_url(realm: &str, service: Option<&str>, scope: &str, registry: &reqwest::Url) -> Result<reqwest::Url> {
    let mut url = realm_url(realm, registry)?;
    url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service))).append_pair("scope", scope);
    Ok(url)
}

/// The realm as an address, checked as for [`token_url`].
///
/// # Errors
/// [`Kind::Invalid`].
pub fn realm_url(realm: &str, registry: &reqwest::Url) -> Result<reqwest::Url> {
    let wrong = |why: &str| Error::new(Kind::Invalid, format!("the registry's token service {realm:?} {why}"));
    let url: reqwest::Url = realm.parse().map_err(|_| wrong("is no address"))?;
    match (url.scheme(), registry.scheme()) {
        ("https", _) | ("http", "http") if url.has_host() => Ok(url),
        ("http", _) => Err(wrong("is not reached by https")),
        _ => Err(wrong("is no http address")),
    }
}

/// The token in a token service's answer, and how long it lives.
///
/// # Errors
/// [`Kind::Invalid`] if there is none.
pub fn token(body: &[u8]) -> Result<(Secret, Duration)> {
    // The parser's own message would quote the body.
    let wrong = || Error::new(Kind::Invalid, "the registry's token service sent no token");
    let answer: Token = serde_json::from_slice(body).map_err(|_| wrong())?;
    let life = Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE).min(24 * 3600));
    let token =
        answer.token.filter(|token| !token.is_empty()).or(answer.access_token).filter(|token| !token.is_empty());
    Ok((Secret::new(token.ok_or_else(wrong)?), life))
}

/// The form with which a refresh token is exchanged (OAuth 2, RFC 6749 section 6).
pub fn refresh_form(identity: &Secret, service: Option<&str>, scope: &str) -> String {
    let pairs = [
        ("grant_type", "refresh_token"),
        ("client_id", "gantry"),
        ("scope", scope),
        ("service", service.unwrap_or_default()),
        ("refresh_token", identity.reveal()),
    ];
    // The address is only a carrier: its query has the encoding of a form.
    let url = reqwest::Url::parse_with_params("http://form", pairs);
    url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

/// `Basic` credentials as a header value.
pub fn basic(user: &str, password: &Secret) -> Secret {
    use base64::Engine as _;
    let pair = format!("{user}:{}", password.reveal());
    Secret::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned), scope: scope.map(str::to_owned) }
    }

    #[test]
    fn headers() {
        let docker = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        for (header, expect) in [
            (
                docker,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            (r#"Basic realm="x, y""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (r#"Basic realm="a", Bearer realm="https://b""#, vec![bearer("https://b", None, None), Challenge::Basic]),
            (r#"Digest nonce="1", BEARER  Realm=https://b"#, vec![bearer("https://b", None, None)]),
            (r#"Bearer realm="a\"b""#, vec![bearer("a\"b", None, None)]),
            ("Bearer", vec![]),
            ("Negotiate", vec![]),
            ("", vec![]),
            (",,=,\"", vec![]),
        ] {
            assert_eq!(challenges([header].into_iter()), expect, "{header}");
        }
    }

    #[test]
    fn realms() {
        let secure = "https://r.example/v2/".parse().unwrap();
        let plain = "http://127.0.0.1:5000/v2/".parse().unwrap();
        let url = token_url("https://a/t?x=1", Some("s"), "repository:p:pull", &secure).unwrap();
        assert_eq!(url.as_str(), "https://a/t?x=1&service=s&scope=repository%3Ap%3Apull");
        assert!(token_url("http://a/t", None, "s", &secure).is_err(), "credentials over plain http");
        assert!(token_url("http://a/t", None, "s", &plain).is_ok());
        for bad in ["file:///etc/passwd", "a", "", "gopher://x"] {
            assert!(token_url(bad, None, "s", &plain).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_are_not_quoted_in_errors() {
        let read = |text: &str| token(text.as_bytes()).map(|(token, life)| (token.reveal().to_owned(), life.as_secs()));
        assert_eq!(read(r#"{"token":"t"}"#).unwrap(), ("t".into(), 60));
        assert_eq!(read(r#"{"token":"","access_token":"a","expires_in":300}"#).unwrap(), ("a".into(), 300));
        let why = token(br#"{"token":["canary"]}"#).unwrap_err();
        assert!(!why.to_string().contains("canary"), "{why}");
        assert!(token(b"{}").is_err());
    }

    #[test]
    fn forms() {
        let form = refresh_form(&Secret::new("a&b=c"), Some("s"), "repository:p:pull");
        assert_eq!(
            form,
            "grant_type=refresh_token&client_id=gantry&scope=repository%3Ap%3Apull&service=s&refresh_token=a%26b%3Dc"
        );
        assert_eq!(basic("u", &Secret::new("p")).reveal(), "Basic dTpw");
    }
}
