//! A registry over the OCI distribution protocol (distribution-spec "Pull"), its mirrors, and what can go wrong.
//!
//! ```text
//! hosts   which hosts serve the registry          rounds    whom to ask, in which order, how often
//! http    one request to one of them              failure   what an answer means
//! login   who we are there                        auth      challenges and tokens
//! tls     which certificates count                proxy     the way there
//! download  a blob through as many answers as it takes     foreign   layers that are elsewhere
//! connections  what a store keeps of all this between its pulls
//! ```

pub mod auth;
mod connections;
mod download;
mod failure;
mod foreign;
pub mod hosts;
mod http;
mod login;
mod proxy;
mod rounds;
mod tls;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{ACCEPT, CONTENT_TYPE};

use crate::config::Config;
use crate::credentials::Logins;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Descriptor, INDEXES, MANIFESTS};
use crate::options::{Auth, Progress};
use crate::reference::Reference;
use crate::source::{Content, Served, Source};

pub use connections::Connections;
use failure::Failure;
use http::{Endpoint, Request};
use login::Login;

/// One repository of a registry. Clones share everything.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    connections: Arc<Connections>,
    endpoints: Vec<Endpoint>,
    host: String,
    path: String,
    /// Who has sent of a blob in this pull. One that is asked for again was not what its digest says.
    senders: Mutex<HashMap<Digest, Vec<usize>>>,
}

impl Registry {
    /// Prepares access to the repository that `from` names; nothing is sent yet. Reads hosts.toml, certificates and
    /// login files: blocking. `auth` goes before the login files.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a bad file, which is named.
    pub fn connect(
        config: &Config,
        connections: &Arc<Connections>,
        from: &Reference,
        auth: Option<Auth>,
    ) -> Result<Self> {
        let logins = Arc::new(Logins::read(&config.credentials)?);
        let endpoint = |host: hosts::Host| {
            // What was given is for the registry that the reference names, not for its mirrors; those have their own.
            let login = match host.is_registry {
                true => Login::new(auth.clone(), &logins, from.host(), from.path()),
                false => Login::new(None, &logins, &hosts::name(&host.base), from.path()),
            };
            Endpoint::new(host, login, from.path(), connections)
        };
        let shared = Shared {
            endpoints: hosts::resolve(config, from.host())?.into_iter().map(endpoint).collect::<Result<_>>()?,
            config: config.clone(),
            connections: connections.clone(),
            host: from.host().to_owned(),
            path: from.path().to_owned(),
            senders: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The digest that a tag has now, if the registry tells it without sending the document (a HEAD request, which
    /// registries do not count against a rate limit). `None` if it does not, for whatever reason.
    pub async fn digest_of(&self, tag: &str) -> Option<(Digest, Option<String>)> {
        let request = Request::head(self.manifest_path(tag)).header(ACCEPT, &accepted());
        let first = self.shared.endpoints.iter().find(|endpoint| endpoint.can_resolve && !endpoint.is_silent())?;
        let response = first.send(&request).await.ok()?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Some((header("docker-content-digest")?.parse().ok()?, header(CONTENT_TYPE.as_str())))
    }

    fn manifest_path(&self, wanted: &str) -> String {
        format!("{}/manifests/{wanted}", self.shared.path)
    }

    fn order(&self, can: impl Fn(&Endpoint) -> bool) -> Vec<usize> {
        self.shared.endpoints.iter().enumerate().filter(|(_, endpoint)| can(endpoint)).map(|(at, _)| at).collect()
    }

    /// For errors.
    fn named(&self, what: &str) -> String {
        format!("registry {}, repository {}, {what}", self.shared.host, self.shared.path)
    }

    async fn manifest(&self, endpoint: &Endpoint, wanted: &str, limit: u64) -> Result<Served, Failure> {
        let request = Request::get(self.manifest_path(wanted)).header(ACCEPT, &accepted());
        let response = endpoint.send(&request).await?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let media_type = header(CONTENT_TYPE.as_str());
        let told = header("docker-content-digest");
        if media_type
            .as_deref()
            .is_some_and(|kind| kind.starts_with("application/vnd.docker.distribution.manifest.v1+"))
        {
            let why = "the image is in Docker's schema 1, which is obsolete and not read: build and push it again";
            return Err(Failure::lasting(Error::new(Kind::Unsupported, why)));
        }
        let patience = self.shared.connections.network.answer_timeout;
        let body = tokio::time::timeout(patience, http::body(response, limit)).await;
        let body = body.map_err(|_| failure::late(patience))??;
        let digest = checked(wanted, told.as_deref(), &body)?;
        Ok(Served { body, digest, media_type })
    }
}

fn accepted() -> String {
    [MANIFESTS, INDEXES].concat().join(", ")
}

/// The digest of a document: the one asked for, else the one that the registry claims, else our own; it must be true.
fn checked(wanted: &str, told: Option<&str>, body: &[u8]) -> Result<Digest> {
    let asked = wanted.contains(':').then(|| wanted.parse::<Digest>()).transpose()?;
    if let Some(asked) = asked {
        return match asked.matches(body) {
            true => Ok(asked),
            false => Err(Error::new(Kind::Invalid, "its content is not what its digest says")),
        };
    }
    match told.and_then(|told| told.parse::<Digest>().ok()) {
        Some(told) if !told.matches(body) => {
            let why = format!("its digest is {}, but docker-content-digest says {told}", Digest::of(body));
            Err(Error::new(Kind::Invalid, why))
        }
        Some(told) => Ok(told),
        None => Ok(Digest::of(body)),
    }
}

impl Source for Registry {
    fn party(&self) -> String {
        format!("{}/{}", self.shared.host, self.shared.path)
    }

    async fn document(&self, wanted: &str, limit: u64) -> Result<Served> {
        let by_digest = wanted.contains(':');
        let order = self.order(|endpoint| if by_digest { endpoint.can_pull } else { endpoint.can_resolve });
        let budget = self.shared.connections.network.retry_for;
        let what = self.named(&format!("manifest {wanted}"));
        let attempt = |_, endpoint| self.manifest(endpoint, wanted, limit);
        let (_, served) = rounds::ask(&self.shared.endpoints, order, budget, &what, attempt).await?;
        Ok(served)
    }

    async fn blob(&self, wanted: &Descriptor, offset: u64, progress: &Progress) -> Result<Content> {
        let senders = self.shared.senders.lock().unwrap_or_else(PoisonError::into_inner).remove(&wanted.digest);
        download::start(self, wanted, offset, progress, senders.unwrap_or_default()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_checked() {
        let (good, bad) = (Digest::of(b"x").to_string(), Digest::of(b"y").to_string());
        assert!(checked(&good, Some(&bad), b"x").is_ok(), "what was asked for decides");
        assert!(checked(&bad, Some(&bad), b"x").is_err());
        assert_eq!(checked("1", None, b"x").unwrap().to_string(), good);
        assert_eq!(checked("1", Some("nonsense"), b"x").unwrap().to_string(), good);
        assert!(checked("1", Some(&good), b"x").is_ok());
        let why = checked("1", Some(&bad), b"x").unwrap_err().to_string();
        assert!(why.contains("docker-content-digest says"), "{why}");
    }
}
