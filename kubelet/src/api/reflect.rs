//! Following a list: list once, watch from its resourceVersion with bookmarks, list again when the server
//! no longer has that version (410), back off with jitter when it fails. What changed goes into a channel;
//! the task ends when nobody listens.

use std::time::Duration;

use bytes::BytesMut;
use serde_json::Value;
use tokio::sync::mpsc;

use super::Api;
use crate::error::{Error, Kind, Result};

/// One change of what is followed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// All there is now; what is not in it is gone.
    Reset(Vec<Value>),
    /// Added or modified.
    Apply(Value),
    /// Deleted; its last state.
    Delete(Value),
}

/// What to follow: a collection's path and its selector, already encoded (`fieldSelector=…`), or empty.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub path: String,
    pub query: String,
}

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A line longer than this is no event of an object that etcd could hold.
const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// Follows `target` until the receiver is dropped. A server that says "no such resource" counts as an empty
/// list, asked again at the longest wait.
pub(crate) async fn follow(api: Api, target: Target, changes: mpsc::Sender<Change>) {
    tokio::select! {
        () = changes.closed() => {}
        () = follow_on(&api, &target, &changes) => {}
    }
}

async fn follow_on(api: &Api, target: &Target, changes: &mpsc::Sender<Change>) {
    let mut wait = FIRST_WAIT;
    let mut version: Option<String> = None;
    loop {
        let from = match version.take() {
            Some(version) => Ok(version),
            None => list(api, target, changes).await,
        };
        let outcome = match from {
            Ok(from) => {
                let mut at = from;
                let outcome = watch(api, target, &mut at, changes).await;
                version = Some(at);
                outcome
            }
            Err(why) => Err(why),
        };
        match outcome {
            Ok(()) => {
                // The server ended the watch in order: go on from where it was.
                wait = FIRST_WAIT;
                continue;
            }
            Err(why) if why.kind() == Kind::Gone => {
                tracing::debug!(path = target.path, "resource version is gone, listing again");
                version = None;
                wait = FIRST_WAIT;
            }
            Err(why) => {
                if why.kind() == Kind::NotFound && changes.send(Change::Reset(Vec::new())).await.is_ok() {
                    wait = LONGEST_WAIT;
                }
                tracing::warn!(path = target.path, %why, "cannot follow, will try again");
            }
        }
        tokio::time::sleep(jitter(wait)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// `wait` plus up to half of it, at random.
pub(crate) fn jitter(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(0);
    wait + wait / 2 * (random % 1000) / 1000
}

fn join(target: &Target, more: &str) -> String {
    match (target.query.as_str(), more) {
        ("", "") => target.path.clone(),
        ("", more) => format!("{}?{more}", target.path),
        (query, "") => format!("{}?{query}", target.path),
        (query, more) => format!("{}?{query}&{more}", target.path),
    }
}

async fn list(api: &Api, target: &Target, changes: &mpsc::Sender<Change>) -> Result<String> {
    let mut answer: Value = api.get(&join(target, "")).await?;
    let version = answer["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
    let kind = answer["kind"].as_str().and_then(|k| k.strip_suffix("List")).map(str::to_string);
    let api_version = answer["apiVersion"].clone();
    let mut items = match answer["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    for item in &mut items {
        // Items of a list come without their type.
        if let (Some(kind), Value::Object(map)) = (&kind, item) {
            map.entry("kind").or_insert_with(|| kind.as_str().into());
            map.entry("apiVersion").or_insert_with(|| api_version.clone());
        }
    }
    changes.send(Change::Reset(items)).await.map_err(|_| Error::new(Kind::Refused, "nobody listens"))?;
    Ok(version)
}

async fn watch(api: &Api, target: &Target, version: &mut String, changes: &mpsc::Sender<Change>) -> Result<()> {
    let timeout = 300 + getrandom::u32().unwrap_or(0) % 300;
    let more = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={timeout}&resourceVersion={version}");
    let mut body = api.watch(&join(target, &more)).await?;
    let mut buffer = BytesMut::new();
    let patience = Duration::from_secs(u64::from(timeout) + 30);
    loop {
        let chunk = tokio::time::timeout(patience, body.chunk()).await;
        let broken = |e: &dyn std::fmt::Display| Error::new(Kind::Unavailable, format!("watch {}: {e}", target.path));
        let chunk = chunk.map_err(|_| broken(&"silent for too long"))?.map_err(|e| broken(&e))?;
        let Some(chunk) = chunk else { return Ok(()) };
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line = buffer.split_to(end + 1);
            if let Some(change) = decode(&line, version)? {
                changes.send(change).await.map_err(|_| Error::new(Kind::Refused, "nobody listens"))?;
            }
        }
        if buffer.len() > LONGEST_LINE {
            return Err(broken(&"a line without end"));
        }
    }
}

/// One line of a watch; `None` for bookmarks and blank lines. `version` moves on.
fn decode(line: &[u8], version: &mut String) -> Result<Option<Change>> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let mut event: Value =
        serde_json::from_slice(line).map_err(|e| Error::new(Kind::Unavailable, "read a watch event").because(e))?;
    let object = event["object"].take();
    let kind = event["type"].as_str().unwrap_or_default();
    if kind == "ERROR" {
        let code = object["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(500);
        let status = reqwest::StatusCode::from_u16(code).unwrap_or(reqwest::StatusCode::INTERNAL_SERVER_ERROR);
        let message = object["message"].as_str().unwrap_or("without a message");
        return Err(Error::new(super::kind_of(status), format!("watch error {code}: {message}")));
    }
    if let Some(at) = object["metadata"]["resourceVersion"].as_str() {
        *version = at.to_string();
    }
    Ok(match kind {
        "ADDED" | "MODIFIED" => Some(Change::Apply(object)),
        "DELETED" => Some(Change::Delete(object)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_lines_move_the_version_on() {
        let mut at = "5".to_string();
        let bookmark = br#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"9"}}}"#;
        assert_eq!(decode(bookmark, &mut at).expect("bookmark"), None);
        assert_eq!(at, "9");
        let deleted = br#"{"type":"DELETED","object":{"metadata":{"resourceVersion":"11"}}}"#;
        assert!(matches!(decode(deleted, &mut at).expect("deleted"), Some(Change::Delete(_))));
        assert_eq!(at, "11");
        let gone = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#;
        assert_eq!(decode(gone, &mut at).expect_err("gone").kind(), Kind::Gone);
        assert_eq!(decode(b"\n", &mut at).expect("blank"), None);
        assert_eq!(decode(b"{", &mut at).expect_err("torn").kind(), Kind::Unavailable);
    }

    #[test]
    fn queries_are_joined() {
        let target = |query: &str| Target { path: "/p".into(), query: query.into() };
        assert_eq!(join(&target(""), "a=b"), "/p?a=b");
        assert_eq!(join(&target("x=y"), "a=b"), "/p?x=y&a=b");
        assert_eq!(join(&target("x=y"), ""), "/p?x=y");
    }

    #[test]
    fn jitter_stays_within_half() {
        for _ in 0..100 {
            let waited = jitter(Duration::from_millis(100));
            assert!((100..=150).contains(&waited.as_millis()), "{waited:?}");
        }
    }
}
