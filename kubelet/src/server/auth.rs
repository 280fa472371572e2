//! Who calls, and may they: a client certificate of the given CA, or a bearer token that TokenReview
//! knows; then system:masters, the API server's own group, or SubjectAccessReview on nodes/<subresource>.
//! Nobody else: without an answer the answer is no.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::shared::Shared;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// Groups in a certificate that may do everything here.
const TRUSTED: [&str; 2] = ["system:masters", "system:kubelet-api-admin"];

/// The subject of a verified client certificate: CN is the user, O are the groups.
pub(crate) fn from_certificate(der: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_string();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_string).collect();
    Some(User { name, groups })
}

/// Answers that were given lately: a yes for 5 minutes, a no for 30 seconds, as upstream.
#[derive(Default)]
pub(crate) struct Cache<T>(Mutex<HashMap<String, (Instant, T)>>);

const MOST: usize = 1024;

impl<T: Clone> Cache<T> {
    fn get(&self, key: &str, life: impl Fn(&T) -> Duration) -> Option<T> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, value) = all.get(key)?;
        (at.elapsed() < life(value)).then(|| value.clone())
    }

    fn put(&self, key: String, value: T) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(key, (Instant::now(), value));
    }
}

const NO: Duration = Duration::from_secs(30);
const YES_TOKEN: Duration = Duration::from_secs(120);
const YES_ACCESS: Duration = Duration::from_secs(300);

/// Remembers what the API server said.
#[derive(Default)]
pub(crate) struct Reviews {
    tokens: Cache<Option<User>>,
    access: Cache<bool>,
}

impl Reviews {
    /// The caller: of the certificate, else of the bearer token.
    pub(crate) async fn authenticate(
        &self,
        shared: &Shared,
        certificate: Option<&User>,
        headers: &HeaderMap,
    ) -> Option<User> {
        if let Some(user) = certificate {
            return Some(user.clone());
        }
        let token = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?.trim();
        let api = shared.api.as_ref()?;
        // Kept by the token itself, in memory only.
        if let Some(known) = self.tokens.get(token, |u| if u.is_some() { YES_TOKEN } else { NO }) {
            return known;
        }
        let body = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": token}});
        let answer: Value = match api.post("/apis/authentication.k8s.io/v1/tokenreviews", &body).await {
            Ok(answer) => answer,
            Err(why) => {
                tracing::warn!(%why, "cannot review a token");
                return None;
            }
        };
        let status = &answer["status"];
        let user = (status["authenticated"] == true).then(|| User {
            name: status["user"]["username"].as_str().unwrap_or_default().to_string(),
            groups: status["user"]["groups"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|g| g.as_str())
                .map(str::to_string)
                .collect(),
        });
        self.tokens.put(token.to_string(), user.clone());
        user
    }

    /// Whether `user` may do `method` on `path`.
    pub(crate) async fn authorize(&self, shared: &Shared, user: &User, method: &Method, path: &str) -> bool {
        if user.groups.iter().any(|g| TRUSTED.contains(&g.as_str())) {
            return true;
        }
        let Some(api) = &shared.api else { return false };
        let (verb, subresource) = (verb(method), subresource(path));
        let key = format!("{user:?} {verb} {subresource}");
        if let Some(known) = self.access.get(&key, |yes| if *yes { YES_ACCESS } else { NO }) {
            return known;
        }
        let body = json!({
            "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
            "spec": {"user": user.name, "groups": user.groups, "resourceAttributes": {
                "verb": verb, "resource": "nodes", "subresource": subresource, "version": "v1",
                "name": shared.config.node_name,
            }},
        });
        match api.post::<Value>("/apis/authorization.k8s.io/v1/subjectaccessreviews", &body).await {
            Ok(answer) => {
                let yes = answer["status"]["allowed"] == true;
                self.access.put(key, yes);
                yes
            }
            Err(why) => {
                tracing::warn!(%why, user = user.name, "cannot review access");
                false
            }
        }
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresource of nodes that a path stands for, as upstream's kubelet authorizer has it.
pub(crate) fn subresource(path: &str) -> &'static str {
    let under = |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|r| r.starts_with('/'));
    match () {
        () if under("/stats") => "stats",
        () if under("/metrics") => "metrics",
        () if under("/logs") => "log",
        () if under("/checkpoint") => "checkpoint",
        // Fine-grained since 1.33; asked for alone, because proxy allows exec too.
        () if under("/pods") || under("/runningpods") => "pods",
        () if under("/healthz") => "healthz",
        () if under("/configz") => "configz",
        () => "proxy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_for_subresources() {
        for (path, want) in [
            ("/stats/summary", "stats"),
            ("/metrics", "metrics"),
            ("/metricsx", "proxy"),
            ("/exec/n/p/c", "proxy"),
            ("/pods", "pods"),
            ("/containerLogs/n/p/c", "proxy"),
            ("/unheard/of", "proxy"),
        ] {
            assert_eq!(subresource(path), want, "{path}");
        }
        assert_eq!((verb(&Method::POST), verb(&Method::GET), verb(&Method::DELETE)), ("create", "get", "delete"));
    }

    #[test]
    fn subjects_of_certificates() {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("certificate");
        let user = from_certificate(certificate.der()).expect("a user");
        assert_eq!(user, User { name: "kube-apiserver".into(), groups: vec!["system:masters".into()] });
        assert_eq!(from_certificate(&CertificateDer::from(vec![1, 2, 3])), None);
    }

    #[test]
    fn answers_are_forgotten() {
        let cache = Cache::default();
        cache.put("k".into(), true);
        assert_eq!(cache.get("k", |_| Duration::from_secs(9)), Some(true));
        assert_eq!(cache.get("k", |_| Duration::ZERO), None);
        assert_eq!(cache.get("other", |_| Duration::from_secs(9)), None);
    }
}
