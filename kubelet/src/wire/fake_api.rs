//! An API server in memory, as much as a kubelet sees of one: lists, watches, patches of status, deletion
//! with grace 0. Objects are plain JSON; a strategic patch merges conditions by type and replaces the rest.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

type Body = BoxBody<Bytes, Infallible>;
/// (resource, namespace, name)
type Key = (String, String, String);

#[derive(Default)]
struct Store {
    objects: BTreeMap<Key, Value>,
    version: u64,
    /// Who may: user -> allowed, for SubjectAccessReview.
    allowed: Vec<String>,
}

#[derive(Clone)]
pub(super) struct FakeApi {
    store: Arc<Mutex<Store>>,
    changes: broadcast::Sender<(Key, &'static str, Value)>,
    pub address: std::net::SocketAddr,
}

impl FakeApi {
    /// Serves on a free port of 127.0.0.1 for as long as the runtime lives.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the API");
        let address = listener.local_addr().expect("address");
        let fake = Self { store: Arc::default(), changes: broadcast::channel(1024).0, address };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |r| {
                        let fake = fake.clone();
                        async move { Ok::<_, Infallible>(fake.answer(r).await) }
                    });
                    // A client that goes away is no failure of the test.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        fake
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("the store")
    }

    pub(super) fn allow(&self, user: &str) {
        self.store().allowed.push(user.into());
    }

    /// Creates or replaces an object, and tells the watchers.
    pub(super) fn put(&self, resource: &str, mut object: Value) {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let key = (resource.to_string(), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let mut store = self.store();
        store.version += 1;
        object["metadata"]["resourceVersion"] = store.version.to_string().into();
        let kind = if store.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        store.objects.insert(key.clone(), object.clone());
        let _ = self.changes.send((key, kind, object));
    }

    pub(super) fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.store().objects.get(&(resource.into(), namespace.into(), name.into())).cloned()
    }

    pub(super) fn all(&self, resource: &str) -> Vec<Value> {
        self.store().objects.iter().filter(|(k, _)| k.0 == resource).map(|(_, v)| v.clone()).collect()
    }

    /// What `kubectl delete` does: marks the pod, for the kubelet to end it.
    pub(super) fn mark_deleted(&self, name: &str, grace: i64) {
        let mut pod = self.get("pods", "default", name).expect("the pod");
        pod["metadata"]["deletionTimestamp"] = "2026-11-23T15:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.put("pods", pod);
    }

    fn remove(&self, key: &Key) -> Option<Value> {
        let mut store = self.store();
        let object = store.objects.remove(key)?;
        store.version += 1;
        let _ = self.changes.send((key.clone(), "DELETED", object.clone()));
        Some(object)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_string();
        let (key, sub) = locate(parts.uri.path());
        let named = !key.2.is_empty();
        match (parts.method, named, sub.as_str()) {
            (Method::GET, true, _) => {
                self.get(&key.0, &key.1, &key.2).map_or_else(missing, |o| say(StatusCode::OK, &o))
            }
            (Method::GET, false, _) if query.contains("watch=true") => self.watch(key, &query),
            (Method::GET, false, _) => self.list(&key, &query),
            (Method::POST, _, "token") => say(StatusCode::CREATED, &json!({"status": {"token": "tok"}})),
            (Method::POST, _, _) => self.post(key, body),
            (Method::PUT, true, _) => {
                self.put(&key.0, body.clone());
                say(StatusCode::OK, &body)
            }
            (Method::PATCH, true, _) => self.patch(&key, &body),
            (Method::DELETE, true, _) => {
                let uid = &body["preconditions"]["uid"];
                match self.get(&key.0, &key.1, &key.2) {
                    Some(o) if uid.is_null() || o["metadata"]["uid"] == *uid => {
                        say(StatusCode::OK, &self.remove(&key).unwrap_or_default())
                    }
                    Some(_) => say(StatusCode::CONFLICT, &json!({"message": "uid"})),
                    None => missing(),
                }
            }
            _ => say(StatusCode::METHOD_NOT_ALLOWED, &json!({"message": "no"})),
        }
    }

    fn post(&self, key: Key, mut body: Value) -> Response<Body> {
        match key.0.as_str() {
            "tokenreviews" => {
                let good = body["spec"]["token"] == "good";
                let status = json!({"authenticated": good, "user": {"username": "bearer", "groups": []}});
                return say(StatusCode::CREATED, &json!({"status": status}));
            }
            "subjectaccessreviews" => {
                let user = body["spec"]["user"].as_str().unwrap_or_default().to_string();
                let allowed = self.store().allowed.contains(&user);
                return say(StatusCode::CREATED, &json!({"status": {"allowed": allowed}}));
            }
            _ => {}
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_string();
        if self.get(&key.0, &key.1, &name).is_some() {
            return say(StatusCode::CONFLICT, &json!({"message": "exists"}));
        }
        body["metadata"]["uid"] = format!("uid-of-{name}").into();
        self.put(&key.0, body.clone());
        say(StatusCode::CREATED, &body)
    }

    fn patch(&self, key: &Key, patch: &Value) -> Response<Body> {
        let Some(mut object) = self.get(&key.0, &key.1, &key.2) else { return missing() };
        if !patch["metadata"]["uid"].is_null() && patch["metadata"]["uid"] != object["metadata"]["uid"] {
            return say(StatusCode::CONFLICT, &json!({"message": "another uid"}));
        }
        merge(&mut object, patch);
        self.put(&key.0, object.clone());
        say(StatusCode::OK, &object)
    }

    fn list(&self, key: &Key, query: &str) -> Response<Body> {
        let store = self.store();
        let items: Vec<Value> =
            store.objects.iter().filter(|(k, o)| fits(key, k, o, query)).map(|(_, o)| o.clone()).collect();
        let metadata = json!({"resourceVersion": store.version.to_string()});
        say(StatusCode::OK, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }

    fn watch(&self, key: Key, query: &str) -> Response<Body> {
        let query = query.to_string();
        let from: u64 = query.rsplit("resourceVersion=").next().and_then(|v| v.parse().ok()).unwrap_or(0);
        let live = BroadcastStream::new(self.changes.subscribe());
        // What changed between the list and this watch.
        let store = self.store();
        let newer = |o: &Value| {
            o["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse::<u64>().ok()).is_some_and(|v| v > from)
        };
        let missed: Vec<Bytes> = store
            .objects
            .iter()
            .filter(|(k, o)| newer(o) && fits(&key, k, o, &query))
            .map(|(_, o)| event("ADDED", o))
            .collect();
        drop(store);
        let live = live.filter_map(move |change| {
            let (k, kind, object) = change.ok()?;
            fits(&key, &k, &object, &query).then(|| event(kind, &object))
        });
        let all = tokio_stream::iter(missed).chain(live).map(|bytes| Ok(Frame::data(bytes)));
        Response::new(BodyExt::boxed(StreamBody::new(all)))
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn fits(wanted: &Key, key: &Key, object: &Value, query: &str) -> bool {
    let selected = |marker: &str, value: &Value| {
        let Some((_, rest)) = query.split_once(marker) else { return true };
        value.as_str() == Some(rest.split('&').next().unwrap_or_default())
    };
    wanted.0 == key.0
        && (wanted.1.is_empty() || wanted.1 == key.1)
        && selected("spec.nodeName%3D", &object["spec"]["nodeName"])
        && selected("metadata.name%3D", &object["metadata"]["name"])
}

/// The object that a path names, and its subresource.
fn locate(path: &str) -> (Key, String) {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let skip = if parts[0] == "api" { 2 } else { 3 };
    parts.drain(..skip.min(parts.len()));
    let mut namespace = "";
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        namespace = parts[1];
        parts.drain(..2);
    }
    let at = |i: usize| (*parts.get(i).unwrap_or(&"")).to_string();
    ((at(0), namespace.to_string(), at(1)), at(2))
}

fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return };
    for (key, value) in fields {
        match value {
            Value::Null => {
                object.as_object_mut().map(|o| o.remove(key));
            }
            Value::Object(_) => {
                if !object[key].is_object() {
                    object[key] = json!({});
                }
                merge(&mut object[key], value);
            }
            Value::Array(new) if key == "conditions" => {
                let mut all = object[key].as_array().cloned().unwrap_or_default();
                for condition in new {
                    match all.iter_mut().find(|c| c["type"] == condition["type"]) {
                        Some(old) => merge(old, condition),
                        None => all.push(condition.clone()),
                    }
                }
                object[key] = all.into();
            }
            other => object[key] = other.clone(),
        }
    }
}

fn say(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *response.status_mut() = status;
    response
}

fn missing() -> Response<Body> {
    say(StatusCode::NOT_FOUND, &json!({"kind": "Status", "message": "not found"}))
}
