//! What went wrong with one request, and what to do about it: in words for people, and whether to try again.
//! Pure but for reading the body that explains a status.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};

use crate::error::{Error, Kind};

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A failure of one request.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: Error,
    /// It may be over at the next attempt.
    pub(super) passes: bool,
    /// The server asks to be left alone for so long.
    pub(super) wait: Option<Duration>,
    /// Nobody answered at all.
    pub(super) broken: Option<Broken>,
}

impl Failure {
    /// One that another attempt at the same host does not mend.
    pub(super) fn lasting(why: Error) -> Self {
        Self { why, passes: false, wait: None, broken: None }
    }

    /// One that may be over soon.
    pub(super) fn passing(why: Error) -> Self {
        Self { passes: true, ..Self::lasting(why) }
    }
}

/// Our own errors: only what was not available may become so.
impl From<Error> for Failure {
    fn from(why: Error) -> Self {
        match why.kind() {
            Kind::Unavailable => Self::passing(why),
            _ => Self::lasting(why),
        }
    }
}

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Broken {
    /// The other side does not speak TLS.
    NoTls,
    /// Its certificate is not believed, or ours is not.
    Certificate,
    /// Anything else.
    Transport,
}

/// What kind of failure of the client it is, by the types in its chain.
pub(super) fn broken(why: &reqwest::Error) -> Broken {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(why);
    while let Some(cause) = next {
        match cause.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => return Broken::NoTls,
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => return Broken::Certificate,
            // An io::Error hides what it carries from `source`.
            _ => {
                let carried = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
                next = carried.map(|inner| inner as _).or_else(|| cause.source());
            }
        }
    }
    Broken::Transport
}

/// The whole chain of a client's error, without the address: a signed address is a credential.
pub(super) fn explain(why: reqwest::Error) -> String {
    let why = why.without_url();
    let mut text = why.to_string();
    let mut next = std::error::Error::source(&why);
    while let Some(cause) = next {
        let more = cause.to_string();
        // Wrappers repeat what they wrap.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// A request that got no answer.
pub(super) fn unanswered(why: reqwest::Error) -> Failure {
    let kind = broken(&why);
    let advice = match kind {
        Broken::Certificate => {
            "; hosts.toml names its authority (ca), our certificate (client), or leaves it unchecked (skip_verify)"
        }
        Broken::NoTls => "; it speaks plain http, which has to be set for it (an http:// address in hosts.toml)",
        Broken::Transport => "",
    };
    let why = Error::new(Kind::Unavailable, explain(why) + advice);
    Failure { broken: Some(kind), passes: kind == Broken::Transport, ..Failure::lasting(why) }
}

/// Neither an answer nor an error in the time that there is.
pub(super) fn late(after: Duration) -> Failure {
    let why = Error::new(Kind::Unavailable, format!("no answer in {after:?}"));
    Failure { broken: Some(Broken::Transport), ..Failure::passing(why) }
}

/// How long to wait before attempt `count` + 1: doubling from 200 ms, up to half of it random.
pub(super) fn pause(count: u32) -> Duration {
    let full = Duration::from_millis(200u64 << count.clamp(1, 8).saturating_sub(1)).min(LONGEST_PAUSE);
    let random = u64::from(getrandom::u32().unwrap_or(u32::MAX / 2));
    full / 2 + (full / 2).mul_f64(random as f64 / f64::from(u32::MAX))
}

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Statuses that may be over soon.
pub(super) fn passes(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY)
}

/// A status that is no success. `login`: where the credentials were from, or why there were none.
pub(super) async fn refused(response: Response, login: &str) -> Failure {
    let status = response.status();
    let wait = retry_after(response.headers(), SystemTime::now());
    let text = super::http::body(response, 64 << 10).await.unwrap_or_default();
    let why = Error::new(kind(status), explained(status, &text, login));
    Failure { passes: passes(status), wait, why, broken: None }
}

fn kind(status: StatusCode) -> Kind {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Kind::Unauthorized
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => Kind::NotFound,
        status if passes(status) => Kind::Unavailable,
        _ => Kind::Invalid,
    }
}

/// `404 Not Found (MANIFEST_UNKNOWN: manifest unknown): the registry has no such repository or tag`
fn explained(status: StatusCode, body: &[u8], login: &str) -> String {
    let said = said(body).map(|said| format!(" ({said})")).unwrap_or_default();
    let advice = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            format!(": pull access denied, the repository does not exist or may require authorization; {login}")
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => ": not found, check the repository and the tag".into(),
        StatusCode::TOO_MANY_REQUESTS => format!(": too many requests, log in or come back later; {login}"),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => ": the proxy wants a user and a password in its address".into(),
        StatusCode::BAD_REQUEST if body.windows(12).any(|some| some == b"HTTPS server") => {
            ": it speaks https only (an https:// address in hosts.toml, or the registry taken off the plain ones)"
                .into()
        }
        _ => String::new(),
    };
    format!("{status}{said}{advice}")
}

/// The registry's own words: a code and a message (distribution-spec "Error Codes"), or a token service's `details`.
fn said(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Item>,
        details: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        code: Option<String>,
        message: Option<String>,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    let first = body.errors.into_iter().next();
    let parts = match first {
        Some(item) => [item.code, item.message],
        None => [body.details, None],
    };
    let text = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    let clean: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        assert!((100..=200).contains(&pause(1).as_millis()));
        assert!((400..=800).contains(&pause(3).as_millis()));
        assert!(pause(99) <= LONGEST_PAUSE);
    }

    #[test]
    fn when_to_come_back() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(read("7"), Some(7));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30));
        assert_eq!(read("Sunday, 06-Nov-94 08:50:07 GMT"), Some(30));
        assert_eq!(read("Sun, 06 Nov 1994 08:40:07 GMT"), Some(0));
        for bad in ["-1", "soon", "1.5", ""] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn words() {
        let unknown = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        for (status, body, expect) in [
            (
                404,
                &unknown[..],
                "404 Not Found (MANIFEST_UNKNOWN: manifest unknown): not found, check the repository and the tag",
            ),
            (
                401,
                br#"{"details":"incorrect username or password"}"#,
                "401 Unauthorized (incorrect username or password): pull access denied, the repository does not exist or may require authorization; LOGIN",
            ),
            (500, b"<html>", "500 Internal Server Error"),
            (503, br#"{"errors":[]}"#, "503 Service Unavailable"),
            (
                429,
                br#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#,
                "429 Too Many Requests (TOOMANYREQUESTS): too many requests, log in or come back later; LOGIN",
            ),
            (418, b"{\"errors\":[{\"message\":\"a\\u001b[31mb\"}]}", "418 I'm a teapot (a[31mb)"),
        ] {
            assert_eq!(explained(StatusCode::from_u16(status).unwrap(), body, "LOGIN"), expect);
        }
        let kinds = [401, 403, 404, 429, 500, 501, 400].map(|status| kind(StatusCode::from_u16(status).unwrap()));
        use Kind::{Invalid, NotFound, Unauthorized, Unavailable};
        assert_eq!(kinds, [Unauthorized, Unauthorized, NotFound, Unavailable, Unavailable, Invalid, Invalid]);
    }
}
