//! Watches over HTTP: one JSON document a line, `{"type": "ADDED", "object": ...}`, until the client or the time ends it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::body::Body;
use super::negotiate::{Form, Shape};
use super::query::Query;
use super::selector::Selector;
use super::verbs::{ListQuery, page};
use super::watch::{Change, Subscription, shown};
use super::{Api, Call, convert, object, respond, table};
use crate::error::{Error, Kind, Result};
use crate::store::Item;

/// How often a quiet watch says how far it is.
const BOOKMARK: Duration = Duration::from_secs(45);

/// How long a watch lasts that does not say: 30 to 60 minutes, as kube-apiserver.
const SHORTEST: u64 = 1800;

struct Stream {
    api: Arc<Api>,
    call: Call,
    form: Form,
    include: String,
    subscription: Subscription,
    /// What was there at the start, if the client wants it.
    initial: VecDeque<Item>,
    /// Says that the initial events are over, if the client asked for that.
    announce: bool,
    bookmarks: bool,
    header: bool,
    until: Instant,
    next_bookmark: Instant,
    done: bool,
}

/// Begins a watch.
///
/// # Errors
/// `Expired` for a revision that is gone; `BadRequest` for options that do not go together.
pub(crate) fn watch(api: &Arc<Api>, call: Call, form: Form, query: &Query) -> Result<Response<Body>> {
    let mut list = query.list(&call.kind)?;
    if !call.name.is_empty() {
        // The old way to watch one object: by its path.
        list.selector = Selector::parse(&call.kind, "", &format!("metadata.name={}", call.name))?;
    }
    let initial_events = query.flag("sendInitialEvents");
    if initial_events && query.get("resourceVersionMatch") != "NotOlderThan" {
        let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(Error::new(Kind::Invalid, text));
    }
    let version = query.get("resourceVersion");
    let from_now = matches!(version, "" | "0");
    let without = query.get("sendInitialEvents") == "false";
    let (initial, after) = if initial_events || (from_now && !without) {
        let all = ListQuery { selector: list.selector.clone(), resource_version: version.into(), ..Default::default() };
        let page = page(api, &call, &all)?;
        (page.items.into(), page.revision)
    } else if from_now {
        (VecDeque::new(), api.store.revision())
    } else {
        let bad = |_| Error::new(Kind::BadRequest, format!("invalid resource version {version:?}"));
        (VecDeque::new(), version.parse().map_err(bad)?)
    };
    let subscription = Subscription::start(api, &call, list.selector, after)?;
    let seconds = query.number("timeoutSeconds")?.filter(|n| *n > 0);
    let seconds = seconds.map_or_else(|| SHORTEST + u64::from(std::process::id()) % SHORTEST, |n| n as u64);
    let now = Instant::now();
    let state = Stream {
        api: api.clone(),
        include: query.get("includeObject").to_owned(),
        subscription,
        initial,
        announce: initial_events,
        bookmarks: query.flag("allowWatchBookmarks"),
        header: true,
        until: now + Duration::from_secs(seconds.min(86_400)),
        next_bookmark: now + BOOKMARK,
        done: false,
        call,
        form,
    };
    let lines = stream::unfold(state, |mut state| async move {
        let line = state.line().await?;
        Some((Ok::<_, Infallible>(Frame::data(line)), state))
    });
    let mut response = respond::bytes(StatusCode::OK, "application/json", Bytes::new());
    *response.body_mut() = StreamBody::new(lines).map_err(|never| match never {}).boxed_unsync();
    Ok(response)
}

impl Stream {
    async fn line(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        if let Some(item) = self.initial.pop_front() {
            return Some(self.event(Change::Added, &item.value, item.revision));
        }
        if std::mem::take(&mut self.announce) {
            return Some(self.bookmark(true));
        }
        let bookmark = self.next_bookmark;
        let next = tokio::select! {
            biased;
            () = self.api.shutdown.cancelled() => return None,
            next = self.subscription.next_raw() => next,
            () = tokio::time::sleep_until(self.until) => {
                self.done = true;
                return self.bookmarks.then(|| self.bookmark(false));
            }
            () = tokio::time::sleep_until(bookmark), if self.bookmarks => {
                self.next_bookmark = Instant::now() + BOOKMARK;
                return Some(self.bookmark(false));
            }
        };
        match next? {
            Ok((change, event)) => Some(self.event(change, shown(change, &event), event.revision)),
            Err(e) => {
                self.done = true;
                Some(line("ERROR", e.to_status().to_string().as_bytes()))
            }
        }
    }

    fn event(&mut self, change: Change, stored: &[u8], revision: u64) -> Bytes {
        if self.form.shape == Shape::Object && !convert::differs(&self.call.kind) {
            let mut object = Vec::with_capacity(stored.len() + 40);
            object::splice(stored, revision, &mut object);
            return line(change.name(), &object);
        }
        let value = match object::decode(stored, revision) {
            Ok(value) => convert::from_stored(&self.call.kind, value),
            Err(e) => return line("ERROR", e.to_status().to_string().as_bytes()),
        };
        let value = match self.form.shape {
            Shape::Object => value,
            Shape::Metadata => table::metadata(&value, self.form.beta),
            Shape::Table => {
                let header = std::mem::take(&mut self.header);
                let now = Timestamp::now();
                table::of(&self.call.kind, &[value], &self.include, self.form.beta, header, now)
            }
        };
        line(change.name(), value.to_string().as_bytes())
    }

    fn bookmark(&mut self, end_of_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.subscription.progress().to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let kind = &self.call.kind;
        let object = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata});
        let object = match self.form.shape {
            Shape::Table => empty_table(&metadata, self.form.beta, &object),
            Shape::Metadata => table::metadata(&object, self.form.beta),
            Shape::Object => object,
        };
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

fn empty_table(metadata: &Value, beta: bool, object: &Value) -> Value {
    let row = json!({"cells": [], "object": table::metadata(object, beta)});
    json!({"kind": "Table", "apiVersion": table::version(beta), "metadata": metadata,
        "columnDefinitions": [], "rows": [row]})
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}
