//! Requests to one endpoint: authentication, redirects, retries, error bodies.
//!
//! Redirects are followed here and not by the client, so that it is plain to see that neither credentials nor
//! configured headers go to another origin (SECURITY_CASES 27).

use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};

use crate::error::{Context, Error, Kind, Result};
use crate::options::{Auth, Secret};
use crate::source::registry::auth::{self, Challenge};
use crate::source::registry::hosts::{self, Host};

const ATTEMPTS: u32 = 4;
const REDIRECTS: usize = 5;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One host of a registry, with what has been learned about it.
pub(super) struct Endpoint {
    base: Url,
    client: Client,
    headers: Vec<(HeaderName, HeaderValue)>,
    auth: Option<Auth>,
    /// The registry's name, told to a mirror.
    namespace: Option<String>,
    /// The `Authorization` that worked last.
    authorization: Mutex<Option<Secret>>,
}

/// A GET below `/v2/`.
#[derive(Clone, Debug)]
pub(super) struct Request {
    path: String,
    repository: String,
    headers: Vec<(HeaderName, String)>,
}

impl Request {
    pub(super) fn get(path: String, repository: &str) -> Self {
        Self { path, repository: repository.to_owned(), headers: Vec::new() }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// Where two addresses are the same party.
fn origin(url: &Url) -> (String, Option<String>, Option<u16>) {
    (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default())
}

/// The whole chain of a client's error, without the address: a signed address is a credential.
pub(super) fn explain(why: reqwest::Error) -> String {
    let why = why.without_url();
    let mut text = why.to_string();
    let mut next = std::error::Error::source(&why);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// How long to wait before attempt `count` + 1: doubling from 200 ms, up to half of it random.
pub(super) fn pause(count: u32) -> Duration {
    let full = Duration::from_millis(200u64 << count.clamp(1, 8).saturating_sub(1)).min(LONGEST_PAUSE);
    let random = u64::from(getrandom::u32().unwrap_or(u32::MAX / 2));
    full / 2 + (full / 2).mul_f64(random as f64 / f64::from(u32::MAX))
}

/// Reads a body that should be small.
pub(super) async fn body(mut response: Response, limit: u64) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return Ok(all),
            Err(why) => return Err(Error::new(Kind::Unavailable, explain(why))),
        }
        if all.len() as u64 > limit {
            return Err(Error::new(Kind::TooLarge, format!("the answer is larger than {limit} bytes")));
        }
    }
}

/// A foreign layer from where its manifest says; an address out of an image gets no credentials, and none of this
/// machine's own services can be meant.
pub(super) async fn foreign(address: &str, offset: u64) -> Result<Response> {
    let wrong = |why: &str| Error::new(Kind::Invalid, format!("the address of a foreign layer {why}"));
    let url: Url = address.parse().map_err(|_| wrong("is none"))?;
    if url.scheme() != "https" || url.host_str().is_none_or(hosts::is_loopback) {
        return Err(wrong("is not https"));
    }
    let range = (offset > 0).then(|| (reqwest::header::RANGE, format!("bytes={offset}-")));
    let request = Request { path: String::new(), repository: String::new(), headers: range.into_iter().collect() };
    let host = Host { base: url, ca: Vec::new(), client: Vec::new(), skip_verify: false, headers: Vec::new() };
    Endpoint::new(host, None, None)?.send(&request).await
}

impl Endpoint {
    pub(super) fn new(host: Host, auth: Option<Auth>, namespace: Option<String>) -> Result<Self> {
        let header = |(name, value): &(String, String)| {
            let wrong = || Error::new(Kind::InvalidArgument, format!("header {name:?} of a host is malformed"));
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            Ok((HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value))
        };
        Ok(Self {
            headers: host.headers.iter().map(header).collect::<Result<_>>()?,
            client: client(&host)?,
            authorization: Mutex::new(auth::unasked(auth.as_ref())),
            base: host.base,
            auth,
            namespace,
        })
    }

    /// For logs.
    pub(super) fn name(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Sends until there is a success or a failure that will not pass.
    pub(super) async fn send(&self, request: &Request) -> Result<Response> {
        let mut count = 0;
        loop {
            count += 1;
            let (why, wait) = match self.authorized(request).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if passes(response.status()) => {
                    let wait = retry_after(&response);
                    (failure(response).await, wait)
                }
                Ok(response) => return Err(failure(response).await),
                Err(why) if why.kind() == Kind::Unavailable => (why, None),
                Err(why) => return Err(why),
            };
            if count == ATTEMPTS {
                return Err(why);
            }
            let wait = wait.unwrap_or_else(|| pause(count)).min(LONGEST_PAUSE);
            tracing::debug!(host = self.name(), %why, ?wait, "a request is tried again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends, and once more with credentials if the registry asks for them.
    async fn authorized(&self, request: &Request) -> Result<Response> {
        let known = self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let response = self.redirected(request, known.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges = auth::challenges(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some(fresh) = self.answer(&challenges, request).await? else { return Ok(response) };
        let response = self.redirected(request, Some(&fresh)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(fresh);
        }
        Ok(response)
    }

    /// The header that answers a challenge; `None` if we have nothing to answer it with.
    async fn answer(&self, challenges: &[Challenge], request: &Request) -> Result<Option<Secret>> {
        for challenge in challenges {
            match (challenge, &self.auth) {
                (Challenge::Basic, Some(Auth::Basic { user, password })) => {
                    return Ok(Some(auth::basic(user, password)));
                }
                (Challenge::Bearer { realm, service, scope }, credentials) => {
                    let scope = scope.clone().unwrap_or_else(|| format!("repository:{}:pull", request.repository));
                    let token = self.token(realm, service.as_deref(), &scope, credentials.as_ref()).await;
                    let token = token.context(|| "ask the registry's token service")?;
                    return Ok(Some(Secret::new(format!("Bearer {}", token.reveal()))));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<&Auth>,
    ) -> Result<Secret> {
        let ask = match credentials {
            Some(Auth::Identity(identity)) => self
                .client
                .post(auth::realm_url(realm, &self.base)?)
                .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(auth::refresh_form(identity, service, scope)),
            Some(Auth::Basic { user, password }) => self
                .client
                .get(auth::token_url(realm, service, scope, &self.base)?)
                .header(AUTHORIZATION, sensitive(&auth::basic(user, password))?),
            _ => self.client.get(auth::token_url(realm, service, scope, &self.base)?),
        };
        let response = ask.send().await.map_err(|why| Error::new(Kind::Unavailable, explain(why)))?;
        match response.status().is_success() {
            true => auth::token(&body(response, 1 << 20).await?),
            false => Err(failure(response).await),
        }
    }

    /// Sends one request and follows where it leads.
    async fn redirected(&self, request: &Request, authorization: Option<&Secret>) -> Result<Response> {
        let mut url =
            self.base.join(&request.path).map_err(|why| Error::caused(Kind::InvalidArgument, "address", why))?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        for _ in 0..=REDIRECTS {
            let mut ask = self.client.get(url.clone());
            for (name, value) in &request.headers {
                ask = ask.header(name, value);
            }
            if origin(&url) == origin(&self.base) {
                for (name, value) in &self.headers {
                    ask = ask.header(name, value);
                }
                if let Some(authorization) = authorization {
                    ask = ask.header(AUTHORIZATION, sensitive(authorization)?);
                }
            }
            let response = ask.send().await.map_err(|why| Error::new(Kind::Unavailable, explain(why)))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = next(&url, &response)?;
        }
        Err(Error::new(Kind::Unavailable, format!("more than {REDIRECTS} redirects")))
    }
}

fn sensitive(secret: &Secret) -> Result<HeaderValue> {
    let wrong = |_| Error::new(Kind::InvalidArgument, "the credentials cannot be sent in a header");
    let mut value = HeaderValue::from_str(secret.reveal()).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where a redirect leads; never from https to http.
fn next(from: &Url, response: &Response) -> Result<Url> {
    let wrong = |why: &str| Error::new(Kind::Invalid, format!("a redirect {why}"));
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok()).ok_or_else(|| wrong("to nowhere"))?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(to),
        _ => Err(wrong("from https to what is not")),
    }
}

fn passes(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// Seconds only; the other form, a date, is not worth a calendar.
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.parse().ok().map(Duration::from_secs)
}

/// An error from a status and the body that explains it (distribution-spec "Error Codes").
async fn failure(response: Response) -> Error {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        code: Option<String>,
        message: Option<String>,
    }
    let status = response.status();
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Unauthorized,
        StatusCode::NOT_FOUND => Kind::NotFound,
        status if passes(status) => Kind::Unavailable,
        _ => Kind::Invalid,
    };
    let text = body(response, 64 << 10).await.unwrap_or_default();
    let items = serde_json::from_slice(&text).map(|body: Body| body.errors).unwrap_or_default();
    let said = items.into_iter().next().map(|item| {
        let text = format!("{} {}", item.code.unwrap_or_default(), item.message.unwrap_or_default());
        format!(": {}", text.trim().chars().filter(|c| !c.is_control()).take(300).collect::<String>())
    });
    Error::new(kind, format!("the registry answered {status}{}", said.unwrap_or_default()))
}

fn client(host: &Host) -> Result<Client> {
    // The workspace builds rustls without a default; whoever was first in this process has chosen.
    drop(rustls::crypto::ring::default_provider().install_default());
    let wrong = |why: reqwest::Error| Error::new(Kind::InvalidArgument, format!("http client: {}", explain(why)));
    let mut builder = Client::builder()
        .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(60));
    if host.base.host_str().is_some_and(hosts::is_loopback) {
        builder = builder.no_proxy();
    }
    for path in &host.ca {
        let pem = crate::disk::read_small(path, 1 << 20)?;
        let pem = pem.ok_or_else(|| Error::new(Kind::InvalidArgument, format!("{} does not exist", path.display())))?;
        for certificate in reqwest::Certificate::from_pem_bundle(&pem).map_err(wrong)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    for (certificate, key) in &host.client {
        let mut pem = crate::disk::read_small(certificate, 1 << 20)?.unwrap_or_default();
        if let Some(key) = key {
            pem.extend(crate::disk::read_small(key, 1 << 20)?.unwrap_or_default());
        }
        builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(wrong)?);
    }
    if host.skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    builder.build().map_err(wrong)
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
    fn origins() {
        let o = |text: &str| origin(&text.parse().unwrap());
        assert_eq!(o("https://a/x"), o("https://a:443/y?z"));
        assert_ne!(o("https://a"), o("http://a"));
        assert_ne!(o("http://a:1"), o("http://a:2"));
        assert_ne!(o("https://a.b"), o("https://b.a"));
    }
}
