//! The store in memory: every key with its newest value, the recent changes, and the watches.
//!
//! One lock guards all three, so a watch starts at an exact revision: what is in history goes into its
//! backlog, what comes later goes into its queue, and nothing can come between. A list at an older
//! revision is the present with the changes since then taken back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use bytes::Bytes;

use super::watch::{self, Feed, Watcher};
use super::{Error, Event, EventKind, Item, Page, Range, Result};

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) value: Bytes,
    pub(super) revision: u64,
    pub(super) create_revision: u64,
    /// Seconds since 1970 at which the key expires; 0 is never.
    pub(super) expires: u64,
}

/// A change with the time of its commit, for forgetting it by age.
#[derive(Clone)]
pub(super) struct Past {
    pub(super) at: u64,
    pub(super) event: Arc<Event>,
    /// Revision of the value that the event replaced; 0 if there was none.
    pub(super) prev_revision: u64,
}

/// Everything in memory.
#[derive(Default)]
pub(super) struct Index {
    pub(super) revision: u64,
    pub(super) compacted: u64,
    pub(super) keys: BTreeMap<Arc<str>, Record>,
    pub(super) history: VecDeque<Past>,
    pub(super) feeds: Vec<Feed>,
    pub(super) closed: bool,
}

/// The index behind its lock.
pub(super) struct Shared {
    index: RwLock<Index>,
    backlog: usize,
}

impl Shared {
    pub(super) fn new(index: Index, backlog: usize) -> Shared {
        Shared { index: RwLock::new(index), backlog: backlog.max(1) }
    }

    /// A poisoned lock is read on: the index changes only by assignments that cannot panic half-way.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes durable changes visible: index, history, watches, in this order, under one lock.
    pub(super) fn apply(&self, applied: Vec<Applied>, compacted: u64) {
        let mut index = self.index.write().unwrap_or_else(|e| e.into_inner());
        let index = &mut *index;
        for Applied { past, record } in applied {
            index.revision = past.event.revision;
            match record {
                Some(record) => index.keys.insert(past.event.key.clone(), record),
                None => index.keys.remove(&past.event.key),
            };
            index.feeds.retain(|feed| feed.push(&past.event));
            index.history.push_back(past);
        }
        index.forget(compacted);
    }

    /// Ends every watch, as the store closes.
    pub(super) fn close(&self) {
        let mut index = self.index.write().unwrap_or_else(|e| e.into_inner());
        index.closed = true;
        index.feeds.clear();
    }
}

/// One change about to become visible.
#[derive(Clone)]
pub(super) struct Applied {
    pub(super) past: Past,
    pub(super) record: Option<Record>,
}

impl Index {
    pub(super) fn get(&self, key: &str) -> Option<Item> {
        self.keys.get_key_value(key).map(|(key, record)| item(key, record))
    }

    pub(super) fn list(&self, range: Range<'_>) -> Result<Page> {
        let revision = range.at_revision.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(Error::future(revision, self.revision));
        }
        if revision < self.compacted {
            return Err(Error::compacted(revision, self.compacted));
        }
        let past = self.taken_back(range.prefix, revision);
        let present = self.range(range.prefix, range.start_after).map(|(key, record)| item(key, record));
        let (items, remaining) = if past.is_empty() {
            page(present, range.limit)
        } else {
            let after = range.start_after.unwrap_or("");
            let kept = present.filter(|item| !past.contains_key(&item.key));
            let mut all: Vec<Item> = kept.chain(past.values().flatten().filter(|i| &*i.key > after).cloned()).collect();
            all.sort_by(|a, b| a.key.cmp(&b.key));
            page(all.into_iter(), range.limit)
        };
        Ok(Page { items, revision, remaining })
    }

    fn range(&self, prefix: &str, after: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Record)> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let prefix = prefix.to_owned();
        self.keys.range::<str, _>((start, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(&prefix))
    }

    /// The keys under `prefix` that changed after `revision`, each with what it was at `revision`.
    fn taken_back(&self, prefix: &str, revision: u64) -> HashMap<Arc<str>, Option<Item>> {
        let mut was = HashMap::new();
        let since = self.history.iter().rev().take_while(|past| past.event.revision > revision);
        for Past { event, prev_revision, .. } in since.filter(|past| past.event.key.starts_with(prefix)) {
            let before = event.prev.as_ref().map(|value| Item {
                key: event.key.clone(),
                value: value.clone(),
                revision: *prev_revision,
                create_revision: event.create_revision,
            });
            was.insert(event.key.clone(), before);
        }
        was
    }

    fn forget(&mut self, compacted: u64) {
        if compacted <= self.compacted {
            return;
        }
        self.compacted = compacted;
        while self.history.front().is_some_and(|past| past.event.revision <= compacted) {
            self.history.pop_front();
        }
    }
}

/// Starts a watch; see [`super::Store::watch`].
pub(super) fn watch(shared: &Arc<Shared>, prefix: &str, after: u64) -> Result<Watcher> {
    let mut index = shared.index.write().unwrap_or_else(|e| e.into_inner());
    if index.closed {
        return Err(Error::closed());
    }
    if after > index.revision {
        return Err(Error::future(after, index.revision));
    }
    if after < index.compacted {
        return Err(Error::compacted(after, index.compacted));
    }
    let first = index.history.partition_point(|past| past.event.revision <= after);
    let since = index.history.range(first..).map(|past| &past.event);
    let backlog = since.filter(|event| event.key.starts_with(prefix)).cloned().collect();
    let (feed, watcher) = watch::pair(prefix, backlog, shared, shared.backlog);
    index.feeds.push(feed);
    Ok(watcher)
}

/// A put or delete event out of what was and what is.
pub(super) fn event(key: &Arc<str>, before: Option<&Record>, after: Option<&Record>, revision: u64) -> Event {
    let create_revision = after.or(before).map_or(revision, |record| record.create_revision);
    Event {
        kind: if after.is_some() { EventKind::Put } else { EventKind::Delete },
        key: key.clone(),
        value: after.map(|record| record.value.clone()).unwrap_or_default(),
        prev: before.map(|record| record.value.clone()),
        revision,
        create_revision,
    }
}

fn item(key: &Arc<str>, record: &Record) -> Item {
    Item {
        key: key.clone(),
        value: record.value.clone(),
        revision: record.revision,
        create_revision: record.create_revision,
    }
}

fn page(mut items: impl Iterator<Item = Item>, limit: usize) -> (Vec<Item>, u64) {
    if limit == 0 {
        return (items.collect(), 0);
    }
    let first: Vec<Item> = items.by_ref().take(limit).collect();
    let remaining = items.count() as u64;
    (first, remaining)
}
