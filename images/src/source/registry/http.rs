//! Requests to one endpoint: authentication and redirects. One attempt each; who tries again is `rounds`.
//!
//! Redirects are followed here and not by the client, so that it is plain to see that neither credentials nor
//! configured headers nor our certificate go to another origin (SECURITY_CASES 27).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};

use crate::error::{Error, Kind, Result};
use crate::options::{Auth, Secret};
use crate::source::registry::auth::{self, Challenge};
use crate::source::registry::connections::{Connections, Use};
use crate::source::registry::failure::{self, Broken, Failure};
use crate::source::registry::foreign;
use crate::source::registry::hosts::{self, Host};
use crate::source::registry::login::Login;
use crate::source::registry::tls::Material;

/// As many as Go's client follows.
const REDIRECTS: usize = 10;
/// Basic credentials do not end; this only bounds how long they are kept.
const BASIC_LIFE: Duration = Duration::from_secs(24 * 3600);

/// One host of a registry, for one repository.
pub(super) struct Endpoint {
    base: Url,
    either: bool,
    client: Client,
    /// For wherever the host points: it does not know our certificate.
    elsewhere: Client,
    headers: Vec<(HeaderName, HeaderValue)>,
    namespace: Option<String>,
    login: Login,
    repository: String,
    shared: Arc<Connections>,
    /// One token request at a time.
    asking: tokio::sync::Mutex<()>,
    is_foreign: bool,
    /// It was found to make nothing good of a range.
    no_ranges: AtomicBool,
    pub(super) can_pull: bool,
    pub(super) can_resolve: bool,
    pub(super) is_registry: bool,
}

/// A request below `/v2/`.
#[derive(Clone, Debug)]
pub(super) struct Request {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, String)>,
}

impl Request {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, headers: Vec::new() }
    }

    pub(super) fn head(path: String) -> Self {
        Self { method: Method::HEAD, ..Self::get(path) }
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

/// Reads a body that should be small.
pub(super) async fn body(mut response: Response, limit: u64) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return Ok(all),
            Err(why) => return Err(Error::new(Kind::Unavailable, failure::explain(why))),
        }
        if all.len() as u64 > limit {
            return Err(Error::new(Kind::TooLarge, format!("the answer is larger than {limit} bytes")));
        }
    }
}

impl Endpoint {
    /// An endpoint of a registry; its certificates are read now.
    pub(super) fn new(host: Host, login: Login, repository: &str, shared: &Arc<Connections>) -> Result<Self> {
        let header = |(name, value): &(String, String)| {
            let wrong = || Error::new(Kind::InvalidArgument, format!("header {name:?} of a host is malformed"));
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            Ok((HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value))
        };
        let material = Material::read(&host.tls)?;
        Ok(Self {
            headers: host.headers.iter().map(header).collect::<Result<_>>()?,
            client: shared.client(&material, host.connect_timeout, Use::Registry)?,
            elsewhere: shared.client(&material.without_identity(), host.connect_timeout, Use::Registry)?,
            either: host.either,
            base: host.base,
            namespace: host.namespace,
            login,
            repository: repository.to_owned(),
            shared: shared.clone(),
            asking: tokio::sync::Mutex::default(),
            is_foreign: false,
            no_ranges: AtomicBool::new(false),
            can_pull: host.can_pull,
            can_resolve: host.can_resolve,
            is_registry: host.is_registry,
        })
    }

    /// Where a foreign layer is.
    pub(super) fn foreign(url: Url, tls: &Material, shared: &Arc<Connections>) -> Result<Self> {
        // Names are looked up by a proxy where there is one, and what they lead to is its network's matter.
        let of = if shared.by_proxy(&url) { Use::Registry } else { Use::Foreign };
        let client = shared.client(tls, None, of)?;
        Ok(Self {
            base: url,
            either: false,
            elsewhere: client.clone(),
            client,
            headers: Vec::new(),
            namespace: None,
            login: Login::none(),
            repository: String::new(),
            shared: shared.clone(),
            asking: tokio::sync::Mutex::default(),
            is_foreign: true,
            no_ranges: AtomicBool::new(false),
            can_pull: true,
            can_resolve: false,
            is_registry: false,
        })
    }

    /// `name[:port]`, for errors and logs.
    pub(super) fn name(&self) -> String {
        hosts::name(&self.base)
    }

    /// It did not answer lately.
    pub(super) fn is_silent(&self) -> bool {
        self.shared.is_silent(&self.name())
    }

    pub(super) fn takes_ranges(&self) -> bool {
        !self.no_ranges.load(Ordering::Relaxed)
    }

    pub(super) fn note_no_ranges(&self) {
        self.no_ranges.store(true, Ordering::Relaxed);
    }

    /// Sends a request; its answer if that is a success.
    pub(super) async fn send(&self, request: &Request) -> Result<Response, Failure> {
        let sent = self.authorized(request).await;
        match &sent {
            Err(failure) if failure.broken.is_some() => self.shared.note_silent(&self.name()),
            _ => self.shared.note_answer(&self.name()),
        }
        let response = sent?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(failure::refused(response, &self.login.said()).await),
        }
    }

    /// Sends, and once more with credentials if the registry asks for them.
    async fn authorized(&self, request: &Request) -> Result<Response, Failure> {
        let key = format!("{} {}", origin(&self.start()).0, self.login.key());
        let known = self.shared.login(&key).or_else(|| self.login.unasked());
        let response = self.redirected(request, known.as_ref()).await?;
        // Only the host itself is answered: what it redirects to may not ask for credentials.
        if response.status() != StatusCode::UNAUTHORIZED || origin(response.url()) != origin(&self.start()) {
            return Ok(response);
        }
        if let Some(known) = &known {
            self.shared.drop_login(&key, known);
        }
        let _one = self.asking.lock().await;
        // Whoever waited here finds the token that the first one was given.
        if let Some(newer) = self.shared.login(&key).filter(|newer| Some(newer) != known.as_ref()) {
            return self.redirected(request, Some(&newer)).await;
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges = auth::challenges(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some((fresh, life)) = self.answer(&challenges).await? else { return Ok(response) };
        let response = self.redirected(request, Some(&fresh)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            self.shared.keep_login(&key, &fresh, life);
        }
        Ok(response)
    }

    /// The header that answers a challenge, and how long it is good; `None` if we have nothing to answer it with.
    async fn answer(&self, challenges: &[Challenge]) -> Result<Option<(Secret, Duration)>, Failure> {
        let credentials = if challenges.is_empty() { None } else { self.login.auth(&self.shared.network).await };
        for challenge in challenges {
            match (challenge, credentials) {
                (Challenge::Basic, Some(Auth::Basic { user, password })) => {
                    return Ok(Some((auth::basic(user, password), BASIC_LIFE)));
                }
                (Challenge::Bearer { .. }, Some(Auth::Bearer(token))) => {
                    return Ok(Some((Secret::new(format!("Bearer {}", token.reveal())), BASIC_LIFE)));
                }
                (Challenge::Bearer { realm, service, scope }, credentials) => {
                    let scope = scope.clone().unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                    let asked = self.token(realm, service.as_deref(), &scope, credentials).await;
                    let (token, life) = asked.map_err(|failure| Failure {
                        why: failure.why.within("ask the registry's token service"),
                        ..failure
                    })?;
                    return Ok(Some((Secret::new(format!("Bearer {}", token.reveal())), life)));
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
    ) -> Result<(Secret, Duration), Failure> {
        let start = self.start();
        let url = match credentials {
            Some(Auth::Identity(_)) => auth::realm_url(realm, &start)?,
            _ => auth::token_url(realm, service, scope, &start)?,
        };
        let ask = match credentials {
            Some(Auth::Identity(identity)) => {
                let form = auth::refresh_form(identity, service, scope);
                let ask = self.to(Method::POST, &url, &start);
                ask.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
            }
            Some(Auth::Basic { user, password }) => {
                let basic = sensitive(&auth::basic(user, password))?;
                self.to(Method::GET, &url, &start).header(AUTHORIZATION, basic)
            }
            _ => self.to(Method::GET, &url, &start),
        };
        let response = self.exchange(ask).await?;
        if !response.status().is_success() {
            return Err(failure::refused(response, &self.login.said()).await);
        }
        let patience = self.shared.network.answer_timeout;
        let text =
            tokio::time::timeout(patience, body(response, 1 << 20)).await.map_err(|_| failure::late(patience))?;
        Ok(auth::token(&text?)?)
    }

    /// The base of this endpoint's addresses: https where both are allowed, until that is known to be wrong.
    fn start(&self) -> Url {
        let mut url = self.base.clone();
        if self.either && !self.shared.is_plain(&self.name()) {
            // A port that is written stays; the two schemes' own ports are never ambiguous.
            let _ = url.set_scheme("https");
        }
        url
    }

    /// Sends one request and follows where it leads.
    async fn redirected(&self, request: &Request, authorization: Option<&Secret>) -> Result<Response, Failure> {
        match self.follow(request, authorization).await {
            Err(failure) if failure.broken == Some(Broken::NoTls) && self.start() != self.base => {
                tracing::info!(host = self.name(), "the host speaks plain http, as its address says");
                self.shared.note_plain(&self.name());
                self.follow(request, authorization).await
            }
            other => other,
        }
    }

    async fn follow(&self, request: &Request, authorization: Option<&Secret>) -> Result<Response, Failure> {
        let start = self.start();
        let wrong = |why| Error::caused(Kind::InvalidArgument, "address", why);
        let mut url = match request.path.is_empty() {
            true => start.clone(),
            false => start.join(&request.path).map_err(wrong)?,
        };
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        for _ in 0..=REDIRECTS {
            let mut ask = self.to(request.method.clone(), &url, &start).header(ACCEPT_ENCODING, "identity");
            for (name, value) in &request.headers {
                ask = ask.header(name, value);
            }
            if let Some(authorization) = authorization.filter(|_| origin(&url) == origin(&start)) {
                ask = ask.header(AUTHORIZATION, sensitive(authorization)?);
            }
            let response = self.exchange(ask).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = next(&url, response.headers().get(LOCATION))?;
            if self.is_foreign {
                foreign::check(&url)?;
            }
        }
        Err(Failure::lasting(Error::new(Kind::Unavailable, format!("more than {REDIRECTS} redirects"))))
    }

    /// A request to an address; the host's own headers and our certificate only to the host itself.
    fn to(&self, method: Method, url: &Url, start: &Url) -> RequestBuilder {
        match origin(url) == origin(start) {
            true => {
                let ask = self.client.request(method, url.clone());
                self.headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value))
            }
            false => self.elsewhere.request(method, url.clone()),
        }
    }

    async fn exchange(&self, ask: RequestBuilder) -> Result<Response, Failure> {
        let patience = self.shared.network.answer_timeout;
        match tokio::time::timeout(patience, ask.send()).await {
            Ok(sent) => sent.map_err(failure::unanswered),
            Err(_) => Err(failure::late(patience)),
        }
    }
}

fn sensitive(secret: &Secret) -> Result<HeaderValue> {
    let wrong = |_| Error::new(Kind::InvalidArgument, "the credentials cannot be sent in a header");
    let mut value = HeaderValue::from_str(secret.reveal()).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where a redirect leads; never from https to http.
fn next(from: &Url, location: Option<&HeaderValue>) -> Result<Url> {
    let wrong = |why: &str| Error::new(Kind::Invalid, format!("a redirect {why}"));
    let location = location.and_then(|value| value.to_str().ok());
    let to = location.and_then(|location| from.join(location).ok()).ok_or_else(|| wrong("to nowhere"))?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(to),
        _ => Err(wrong("from https to what is not")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let o = |text: &str| origin(&text.parse().unwrap());
        assert_eq!(o("https://a/x"), o("https://a:443/y?z"));
        assert_ne!(o("https://a"), o("http://a"));
        assert_ne!(o("http://a:1"), o("http://a:2"));
        assert_ne!(o("https://a.b"), o("https://b.a"));
    }

    #[test]
    fn redirects() {
        let to = |from: &str, location: &str| {
            let location = HeaderValue::from_str(location).unwrap();
            next(&from.parse().unwrap(), Some(&location)).map(|url| url.to_string()).unwrap_or_default()
        };
        assert_eq!(to("https://a/v2/x", "/y"), "https://a/y");
        assert_eq!(to("https://a/v2/x", "https://b/y?sig=1"), "https://b/y?sig=1");
        assert_eq!(to("http://a/v2/x", "http://b/y"), "http://b/y");
        assert_eq!(to("http://a/v2/x", "https://b/y"), "https://b/y");
        for bad in ["http://a/y", "ftp://a/y", "file:///etc/shadow", "javascript:1"] {
            assert_eq!(to("https://a/v2/x", bad), "", "{bad}");
        }
        let why = next(&"https://a/?sig=canary".parse().unwrap(), None).unwrap_err();
        assert!(!why.to_string().contains("canary"));
    }
}
