//! The API server as a client sees it: JSON requests over HTTPS, watches as streams of lines, and the
//! Status errors as kinds. Spec: the Kubernetes API conventions.

pub(crate) mod events;
pub(crate) mod kubeconfig;
pub(crate) mod reflect;

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::certs;
use crate::error::{Error, Kind, Result};
use kubeconfig::{Access, Token};

const DEADLINE: Duration = Duration::from_secs(30);

/// How a PATCH body is meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, which merges lists by key.
    Strategic,
}

/// See the module. Clones share connections.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    server: Arc<str>,
    token: Option<Token>,
    http: reqwest::Client,
    /// Watches last: over HTTP/1.1, one connection each, so that they never fill a connection's streams.
    watches: reqwest::Client,
}

impl Api {
    /// A client for `access`.
    ///
    /// # Errors
    /// `Kind::Config` where a certificate or key cannot be used.
    pub(crate) fn new(access: &Access) -> Result<Self> {
        let client = |alpn: &[&[u8]]| {
            let tls = certs::client_config(access.ca.as_deref(), access.client.as_ref(), alpn)?;
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls)
                .user_agent(concat!("gantry-kubelet/", env!("CARGO_PKG_VERSION")))
                .no_proxy()
                .tcp_nodelay(true)
                .tcp_keepalive(Duration::from_secs(30))
                .connect_timeout(Duration::from_secs(10))
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .map_err(|e| Error::config("build the API client").because(e))
        };
        if access.server_name.is_some() {
            return Err(Error::config("kubeconfig: tls-server-name is not supported"));
        }
        Ok(Self {
            server: access.server.as_str().into(),
            token: access.token.clone(),
            http: client(&[b"h2", b"http/1.1"])?,
            watches: client(&[b"http/1.1"])?,
        })
    }

    fn request(&self, client: &reqwest::Client, method: Method, path: &str) -> RequestBuilder {
        let request = client.request(method, format!("{}{path}", self.server)).header("Accept", "application/json");
        match &self.token {
            Some(Token::Fixed(token)) => request.bearer_auth(token),
            Some(Token::File(file)) => match std::fs::read_to_string(file) {
                Ok(token) => request.bearer_auth(token.trim()),
                Err(why) => {
                    tracing::warn!(file = %file.display(), %why, "cannot read the bearer token");
                    request
                }
            },
            None => request,
        }
    }

    async fn send<T: DeserializeOwned>(&self, what: String, request: RequestBuilder) -> Result<T> {
        let answer = request.timeout(DEADLINE).send().await.map_err(|e| unavailable(&what, e))?;
        let answer = check(&what, answer).await?;
        let body = answer.bytes().await.map_err(|e| unavailable(&what, e))?;
        serde_json::from_slice(&body)
            .map_err(|e| Error::new(Kind::Unavailable, format!("{what}: read the answer")).because(e))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(format!("get {path}"), self.request(&self.http, Method::GET, path)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        self.send(format!("post {path}"), self.request(&self.http, Method::POST, path).json(body)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        self.send(format!("put {path}"), self.request(&self.http, Method::PUT, path).json(body)).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(&self, path: &str, kind: PatchKind, body: &Value) -> Result<T> {
        let content = match kind {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
        };
        let request = self.request(&self.http, Method::PATCH, path).header("Content-Type", content);
        self.send(format!("patch {path}"), request.body(body.to_string())).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.send(format!("delete {path}"), self.request(&self.http, Method::DELETE, path).json(options)).await
    }

    /// Opens a watch; the body's lines are its events.
    pub(crate) async fn watch(&self, path: &str) -> Result<Response> {
        let what = format!("watch {path}");
        let sent = self.request(&self.watches, Method::GET, path).send();
        let answer = tokio::time::timeout(DEADLINE, sent).await;
        let answer = answer.map_err(|e| unavailable(&what, e))?.map_err(|e| unavailable(&what, e))?;
        check(&what, answer).await
    }
}

fn unavailable(what: &str, why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Unavailable, what.to_string()).because(why)
}

async fn check(what: &str, answer: Response) -> Result<Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = tokio::time::timeout(DEADLINE, answer.bytes()).await.ok().and_then(Result::ok).unwrap_or_default();
    let said = serde_json::from_slice::<Value>(&body).ok();
    let message = said.as_ref().and_then(|v| v["message"].as_str()).unwrap_or_default();
    Err(Error::new(kind_of(status), format!("{what}: {} {message}", status.as_u16())))
}

/// The kind of an API status code.
pub(crate) fn kind_of(status: StatusCode) -> Kind {
    match status {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::CONFLICT => Kind::Conflict,
        StatusCode::GONE => Kind::Gone,
        StatusCode::BAD_REQUEST
        | StatusCode::FORBIDDEN
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Kind::Refused,
        _ => Kind::Unavailable,
    }
}
