//! The one thread that writes: it takes whatever commits wait, checks them one after another against
//! the index and against each other, writes them in one transaction (one fsync), shows them to
//! readers and watches, and answers. It also expires keys and forgets old history.
//!
//! When the disk fails in a commit, nobody knows whether it took place. The batch is then kept in
//! doubt: before anything else the file is opened again, and its revision tells; if the batch is
//! there, it is shown to readers late. So memory never disagrees with the disk.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::disk::{Disk, Opener};
use super::index::{Applied, Past, Record, Shared, event};
use super::{Change, Committed, Error, Expect, Kind, Op, Options, Result};

/// Commits that share one fsync, at most.
const BATCH: usize = 1024;
/// How often expiry is looked at while anything expires.
const TICK: Duration = Duration::from_secs(1);
/// How often the age of history is looked at.
const IDLE: Duration = Duration::from_secs(30);

/// A commit that waits, and where its answer goes.
pub(super) struct Request {
    pub(super) ops: Vec<Op>,
    pub(super) reply: oneshot::Sender<Result<Committed>>,
}

/// Refuses commits that make no sense, before they queue.
pub(super) fn validate(ops: &[Op]) -> Result<()> {
    if ops.is_empty() {
        return Err(Error::new(Kind::Invalid, "a commit needs at least one operation"));
    }
    let mut keys = HashSet::new();
    for op in ops {
        if op.key.is_empty() {
            return Err(Error::new(Kind::Invalid, "a key must not be empty"));
        }
        if !keys.insert(&op.key) {
            return Err(Error::new(Kind::Invalid, format!("the key {} is named twice in one commit", op.key)));
        }
    }
    Ok(())
}

/// The writer's state.
pub(super) struct Writer {
    opener: Opener,
    disk: Option<Disk>,
    shared: Arc<Shared>,
    options: Options,
    /// (expiry, key) of every key that expires, and of some that no longer do.
    expiring: BTreeSet<(u64, Arc<str>)>,
    in_doubt: Option<Batch>,
}

/// What one transaction writes.
struct Batch {
    applied: Vec<Applied>,
    revision: u64,
    compacted: u64,
}

/// Changes accepted so far in a batch, over the index.
struct Draft<'a> {
    shared: &'a Shared,
    now: u64,
    revision: u64,
    applied: Vec<Applied>,
    newest: HashMap<Arc<str>, usize>,
}

impl Writer {
    pub(super) fn new(opener: Opener, disk: Disk, shared: Arc<Shared>, options: Options) -> Writer {
        let index = shared.read();
        let expiring = index.keys.iter().filter(|(_, r)| r.expires > 0).map(|(k, r)| (r.expires, k.clone())).collect();
        drop(index);
        Writer { opener, disk: Some(disk), shared, options, expiring, in_doubt: None }
    }

    /// Serves until every `Store` is gone.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let wait = if self.expiring.is_empty() { IDLE } else { TICK };
            let mut batch = match requests.recv_timeout(wait) {
                Ok(first) => vec![first],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            batch.extend(requests.try_iter().take(BATCH - 1));
            self.round(batch);
        }
        self.shared.close();
    }

    fn round(&mut self, requests: Vec<Request>) {
        if let Err(why) = self.settle_doubt() {
            return requests.into_iter().for_each(|request| drop(request.reply.send(Err(why.clone()))));
        }
        let now = (self.options.clock)();
        let mut draft = Draft::new(&self.shared, now);
        let answers: Vec<_> = requests.into_iter().map(|r| (draft.commit(&r.ops), r.reply)).collect();
        draft.expire(&self.expiring);
        let Draft { revision, applied, .. } = draft;
        let compacted = self.compaction(applied.len(), now);
        let idle = applied.is_empty() && compacted == self.shared.read().compacted;
        let written = if idle { Ok(()) } else { self.write(Batch { applied, revision, compacted }) };
        for (answer, reply) in answers {
            // The receiver may have gone; the commit stands all the same.
            let _ = reply.send(written.clone().and(answer));
        }
    }

    fn write(&mut self, batch: Batch) -> Result<()> {
        let disk = self.disk.as_ref().ok_or_else(Error::closed)?;
        match disk.write(&batch.applied, batch.revision, batch.compacted) {
            Ok(()) => {
                self.show(batch);
                Ok(())
            }
            Err(why) => {
                tracing::error!(error = %why, "a commit failed; the store will be opened again");
                self.in_doubt = Some(batch);
                Err(why)
            }
        }
    }

    /// Makes a durable batch visible, and keeps the list of what expires in step.
    fn show(&mut self, batch: Batch) {
        for Applied { past, record } in &batch.applied {
            if let Some(record) = record.as_ref().filter(|r| r.expires > 0) {
                self.expiring.insert((record.expires, past.event.key.clone()));
            }
        }
        self.shared.apply(batch.applied, batch.compacted);
        let index = self.shared.read();
        while let Some((at, key)) = self.expiring.first() {
            if index.keys.get(key).is_some_and(|record| record.expires == *at) {
                break;
            }
            self.expiring.pop_first();
        }
    }

    /// Opens the file again if the last batch failed, and finds out whether it took place.
    fn settle_doubt(&mut self) -> Result<()> {
        let Some(batch) = self.in_doubt.take() else { return Ok(()) };
        self.disk = None; // closes the file and its lock
        let reopened = self.opener.open().and_then(|(disk, _)| disk.revision().map(|revision| (disk, revision)));
        match reopened {
            Ok((disk, revision)) => {
                self.disk = Some(disk);
                if revision == batch.revision && !batch.applied.is_empty() {
                    self.show(batch);
                }
                Ok(())
            }
            Err(why) => {
                self.in_doubt = Some(batch);
                Err(why)
            }
        }
    }

    /// Up to which revision history is to be forgotten, done in gulps of a sixteenth.
    fn compaction(&self, coming: usize, now: u64) -> u64 {
        let index = self.shared.read();
        let keep = self.options.history_changes.max(1);
        let oldest = now.saturating_sub(self.options.history_age.as_secs());
        let too_many = index.history.len() + coming > keep + keep / 16;
        let too_old = index.history.front().is_some_and(|past| past.at + 30 < oldest);
        if !too_many && !too_old {
            return index.compacted;
        }
        let surplus = (index.history.len() + coming).saturating_sub(keep);
        let forgotten = index.history.iter().enumerate().take_while(|(n, past)| *n < surplus || past.at < oldest);
        forgotten.last().map_or(index.compacted, |(_, past)| past.event.revision)
    }
}

impl<'a> Draft<'a> {
    fn new(shared: &'a Shared, now: u64) -> Draft<'a> {
        let revision = shared.read().revision;
        Draft { shared, now, revision, applied: Vec::new(), newest: HashMap::new() }
    }

    /// Accepts all operations of a commit at the next revision, or none.
    fn commit(&mut self, ops: &[Op]) -> Result<Committed> {
        let before: Vec<Option<Record>> = ops.iter().map(|op| self.look(&op.key)).collect();
        for (op, before) in ops.iter().zip(&before) {
            check(op, before.as_ref())?;
        }
        self.revision += 1;
        for (op, before) in ops.iter().zip(before) {
            self.accept(op, before);
        }
        Ok(Committed { revision: self.revision })
    }

    /// Deletes what has expired, as one commit.
    fn expire(&mut self, expiring: &BTreeSet<(u64, Arc<str>)>) {
        let due = expiring.iter().take_while(|(at, _)| *at <= self.now);
        let due: Vec<Op> = due
            .filter(|(at, key)| self.look(key).is_some_and(|record| record.expires == *at))
            .map(|(_, key)| Op::delete(key.clone(), Expect::Any))
            .collect();
        if !due.is_empty()
            && let Err(why) = self.commit(&due)
        {
            tracing::warn!(error = %why, "cannot expire keys");
        }
    }

    fn look(&self, key: &str) -> Option<Record> {
        match self.newest.get(key) {
            Some(at) => self.applied[*at].record.clone(),
            None => self.shared.read().keys.get(key).cloned(),
        }
    }

    fn accept(&mut self, op: &Op, before: Option<Record>) {
        let record = match &op.change {
            Change::Delete => None,
            Change::Put { value, ttl } => Some(Record {
                value: value.clone(),
                revision: self.revision,
                create_revision: before.as_ref().map_or(self.revision, |b| b.create_revision),
                expires: ttl.map_or(0, |ttl| self.now + ttl.as_secs().max(1)),
            }),
        };
        let prev_revision = before.as_ref().map_or(0, |b| b.revision);
        let event = Arc::new(event(&op.key, before.as_ref(), record.as_ref(), self.revision));
        self.newest.insert(op.key.clone(), self.applied.len());
        self.applied.push(Applied { past: Past { at: self.now, event, prev_revision }, record });
    }
}

fn check(op: &Op, before: Option<&Record>) -> Result<()> {
    let key = &op.key;
    match (op.expect, before) {
        (Expect::Absent, Some(now)) => {
            Err(Error::new(Kind::Exists, format!("{key} exists already, at revision {}", now.revision)))
        }
        (Expect::Revision(_), None) => Err(Error::new(Kind::Missing, format!("{key} does not exist"))),
        (Expect::Revision(wanted), Some(now)) if now.revision != wanted => {
            let why = format!("{key} has changed: it is at revision {}, not {wanted}", now.revision);
            Err(Error::new(Kind::Conflict, why))
        }
        (_, None) if matches!(op.change, Change::Delete) => {
            Err(Error::new(Kind::Missing, format!("{key} does not exist")))
        }
        _ => Ok(()),
    }
}
