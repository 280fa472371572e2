//! Watches: the store's events, selected. An object that enters the selection is ADDED, one that leaves it DELETED.

use std::sync::Arc;

use super::selector::Selector;
use super::{Api, Call, convert, object};
use crate::client::WatchEvent;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::kinds::Kind;
use crate::store::{Event, EventKind, Watcher};

/// A running watch.
pub(crate) struct Subscription {
    watcher: Watcher,
    selector: Selector,
    kind: Arc<Kind>,
    revision: u64,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("kind", &self.kind.plural).field("revision", &self.revision).finish()
    }
}

/// What happened to the selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    /// The `type` of a watch event.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

impl Subscription {
    /// Watches from after a revision.
    ///
    /// # Errors
    /// `Expired` when that is too long ago.
    pub(crate) fn start(api: &Api, call: &Call, selector: Selector, after: u64) -> Result<Self> {
        let prefix = selector.prefix(&call.kind, &call.namespace);
        let watcher = api.store.watch(&prefix, after).map_err(|e| super::verbs::of_store(call, "", e))?;
        Ok(Self { watcher, selector, kind: call.kind.clone(), revision: after })
    }

    /// The next event, parsed.
    pub(crate) async fn next(&mut self) -> Option<Result<WatchEvent>> {
        let (change, event) = match self.next_raw().await? {
            Ok(found) => found,
            Err(e) => return Some(Err(e)),
        };
        let value = match object::decode(shown(change, &event), event.revision) {
            Ok(value) => Arc::new(convert::from_stored(&self.kind, value)),
            Err(e) => return Some(Err(e)),
        };
        Some(Ok(match change {
            Change::Added => WatchEvent::Added(value),
            Change::Modified => WatchEvent::Modified(value),
            Change::Deleted => WatchEvent::Deleted(value),
        }))
    }

    /// The next event as the store has it. Safe to cancel.
    pub(crate) async fn next_raw(&mut self) -> Option<Result<(Change, Arc<Event>)>> {
        loop {
            let event = match self.watcher.next().await? {
                Ok(event) => event,
                Err(e) if e.kind() == crate::store::Kind::Closed => return None,
                Err(e) => return Some(Err(Error::new(ErrorKind::Expired, format!("too old resource version: {e}")))),
            };
            self.revision = event.revision;
            if let Some(change) = select(&self.selector, &event) {
                return Some(Ok((change, event)));
            }
        }
    }

    /// The revision up to which everything has been delivered: what a bookmark says.
    pub(crate) fn progress(&mut self) -> u64 {
        if let Some(revision) = self.watcher.progress() {
            self.revision = revision;
        }
        self.revision
    }
}

/// The bytes that an event shows: the last state of what is gone.
pub(crate) fn shown(change: Change, event: &Event) -> &[u8] {
    match change {
        Change::Deleted => event.prev.as_deref().unwrap_or(&event.value),
        _ => &event.value,
    }
}

/// What an event is to a selection; `None` if nothing.
fn select(selector: &Selector, event: &Event) -> Option<Change> {
    let before = event.prev.as_deref().is_some_and(|prev| selector.matches(prev));
    let after = event.kind == EventKind::Put && selector.matches(&event.value);
    match (before, after) {
        (false, true) => Some(Change::Added),
        (true, true) => Some(Change::Modified),
        (true, false) => Some(Change::Deleted),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    #[test]
    fn entering_and_leaving_the_selection() {
        let kind = Kinds::builtin().named("pods").expect("kind");
        let selector = Selector::parse(&kind, "a=1", "").expect("parses");
        let (yes, no) = (r#"{"metadata":{"labels":{"a":"1"}}}"#, r#"{"metadata":{"labels":{"a":"2"}}}"#);
        let said = |prev: Option<&'static str>, now: Option<&'static str>| {
            let event = Event {
                kind: if now.is_some() { EventKind::Put } else { EventKind::Delete },
                key: "k".into(),
                value: now.unwrap_or_default().into(),
                prev: prev.map(Into::into),
                revision: 2,
                create_revision: 1,
            };
            select(&selector, &event)
        };
        assert_eq!(said(None, Some(yes)), Some(Change::Added));
        assert_eq!(said(None, Some(no)), None);
        assert_eq!(said(Some(no), Some(yes)), Some(Change::Added));
        assert_eq!(said(Some(yes), Some(yes)), Some(Change::Modified));
        assert_eq!(said(Some(yes), Some(no)), Some(Change::Deleted));
        assert_eq!(said(Some(yes), None), Some(Change::Deleted));
        assert_eq!(said(Some(no), None), None);
    }
}
