//! What the tests of this crate share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::access::{AUTHENTICATED, Access, Signer, User};
use crate::api::{Api, Body, answer, full};
use crate::store::Store;

/// A directory that goes when it is dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    /// A new directory whose name has `what` in it.
    pub(crate) fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gantry-{what}-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An API without a network: requests go in, answers come out.
pub(crate) struct House {
    pub(crate) api: Arc<Api>,
    user: Arc<User>,
    _dir: TempDir,
}

/// An answer, read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

impl House {
    /// A new cluster, bootstrapped, without scheduler and controllers.
    pub(crate) async fn new(what: &str) -> Self {
        let dir = TempDir::new(what);
        let store = Store::open(dir.path()).expect("opens");
        let key = rcgen::KeyPair::generate().expect("key");
        let signer = Signer::new(&key.serialize_pem(), "https://issuer").expect("signer");
        let token = User { name: "static".into(), groups: vec![AUTHENTICATED.into()], ..Default::default() };
        let access = Access::new([("secret-token".to_owned(), token)].into(), Some(signer));
        let api = Arc::new(Api::new(store, access, CancellationToken::new()));
        api.bootstrap().await.expect("bootstraps");
        Self { api, user: Arc::new(User::control_plane()), _dir: dir }
    }

    /// Sends a request as a master; `extra` are more headers.
    pub(crate) async fn ask(&self, line: &str, body: impl Into<Vec<u8>>, extra: &[(&str, &str)]) -> Answer {
        self.ask_as(Some(self.user.clone()), line, body, extra).await
    }

    /// Sends a request as somebody.
    pub(crate) async fn ask_as(
        &self,
        user: Option<Arc<User>>,
        line: &str,
        body: impl Into<Vec<u8>>,
        extra: &[(&str, &str)],
    ) -> Answer {
        let response = self.open(user, line, body, extra).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// Sends a request and leaves its answer open: for watches.
    pub(crate) async fn open(
        &self,
        user: Option<Arc<User>>,
        line: &str,
        body: impl Into<Vec<u8>>,
        extra: &[(&str, &str)],
    ) -> http::Response<Body> {
        let (method, uri) = line.split_once(' ').expect("METHOD URI");
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in extra {
            request = request.header(*name, *value);
        }
        let request = request.body(full(body.into())).expect("a request");
        answer(self.api.clone(), user, request).await
    }

    /// As [`Self::ask`] with a JSON body, and the answer as JSON.
    pub(crate) async fn json(&self, line: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.ask(line, text, &[("content-type", "application/json")]).await;
        (answer.status, answer.json())
    }

    /// Patches; `kind` is `json`, `merge` or `strategic-merge`.
    pub(crate) async fn patch(&self, kind: &str, uri: &str, body: &Value) -> (u16, Value) {
        let media_type = format!("application/{kind}-patch+json");
        let answer = self.ask(&format!("PATCH {uri}"), body.to_string(), &[("content-type", &media_type)]).await;
        (answer.status, answer.json())
    }
}
