//! What is set about the way to registries: how long anything may take, and proxies.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::options::Secret;

/// Spans are written as Go does: `10s`, `1m30s`, `500ms`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// For a connection with TLS; a host's `dial_timeout` in hosts.toml goes before it.
    #[serde(with = "crate::span::text")]
    pub connect_timeout: Duration,
    /// From a request to the head of its answer.
    #[serde(with = "crate::span::text")]
    pub answer_timeout: Duration,
    /// Without a byte of a body; the download then goes on by another request.
    #[serde(with = "crate::span::text")]
    pub stall_timeout: Duration,
    /// For all attempts at one request, pauses included. A registry that asks for a longer pause is not waited for.
    #[serde(with = "crate::span::text")]
    pub retry_for: Duration,
    /// For a credential helper.
    #[serde(with = "crate::span::text")]
    pub helper_timeout: Duration,
    /// Where credential helpers are looked for before `$PATH`.
    pub helper_dir: Option<PathBuf>,
    /// Proxies; absent means those of the environment when the store is opened.
    pub proxies: Option<Proxies>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(120),
            helper_timeout: Duration::from_secs(30),
            helper_dir: None,
            proxies: None,
        }
    }
}

/// Proxies as the variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` name them. An address may hold a
/// user and a password, so none of them is printed.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxies {
    /// For https: `http://`, `https://` or `socks5://`, a user, a host and a port.
    pub https: Option<Secret>,
    /// For plain http.
    pub http: Option<Secret>,
    /// For both where the one above says nothing.
    pub all: Option<Secret>,
    /// Who is reached without: names with all below them, `.name` for only what is below, addresses, CIDR ranges,
    /// each with a port if need be, by commas; `*` for everyone.
    pub no_proxy: String,
}

impl Proxies {
    /// The proxies of an environment. Upper case goes before lower case, as in Go; under CGI `HTTP_PROXY` is a
    /// stranger's header and does not count.
    pub fn of_environment(get: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let lower = name.to_ascii_lowercase();
            [name, &lower].into_iter().filter_map(&get).find(|value| !value.trim().is_empty())
        };
        let secret = |name: &str| either(name).map(Secret::new);
        Self {
            https: secret("HTTPS_PROXY"),
            http: secret("HTTP_PROXY").filter(|_| get("REQUEST_METHOD").is_none()),
            all: secret("ALL_PROXY"),
            no_proxy: either("NO_PROXY").unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_environment() {
        let of = |pairs: &[(&str, &str)]| {
            Proxies::of_environment(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let secret = |text: &str| Some(Secret::new(text));
        let both = of(&[("HTTP_PROXY", "a"), ("http_proxy", "b"), ("https_proxy", "c"), ("no_proxy", "d")]);
        assert_eq!(both, Proxies { http: secret("a"), https: secret("c"), all: None, no_proxy: "d".into() });
        assert_eq!(of(&[("HTTP_PROXY", "a"), ("REQUEST_METHOD", "GET")]).http, None);
        assert_eq!(of(&[("HTTPS_PROXY", ""), ("https_proxy", "c")]).https, secret("c"));
        let hidden = of(&[("ALL_PROXY", "http://u:canary@p:1")]);
        let shown = format!("{hidden:?} {}", serde_json::to_string(&hidden).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn spans_are_text() {
        let network: Network =
            serde_json::from_str(r#"{"connect_timeout": "1m30s", "stall_timeout": "250ms"}"#).unwrap();
        assert_eq!(network.connect_timeout, Duration::from_secs(90));
        let text = serde_json::to_string(&network).unwrap();
        assert!(text.contains(r#""connect_timeout":"90s","answer_timeout":"60s","stall_timeout":"250ms""#), "{text}");
        assert!(serde_json::from_str::<Network>(r#"{"connect_timeout": "soon"}"#).is_err());
    }
}
