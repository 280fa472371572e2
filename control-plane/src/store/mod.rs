//! The one place where the cluster's state is kept: an embedded, durable, ordered key-value store
//! with revisions and watches, in the spirit of etcd and kine (twelve verbs are enough).
//!
//! Why redb and not a log of our own: measured on the target machine, a group-commit thread over
//! redb gives 4,300 / 15,600 / 34,000 commits a second with 1 / 8 / 32 writers (p50 0.20 / 0.45 /
//! 0.88 ms) where appending to a bare file and `fdatasync` gives 5,900 / 26,000 / 70,000. That is
//! within 60 us of the disk for a lone writer, ten times what etcd does, and none of the torn-write
//! handling is ours. What is ours is what redb does not do: revisions, history, watches, expiry.
//!
//! ```text
//! commit ──> queue ──> writer thread: check expectations, one transaction, one fsync ──> index ──> watches
//! get, list, watch ──> index (memory; never the disk)
//! ```
//!
//! - The whole data set lives in memory too (sized for 100,000 objects); values are shared `Bytes`.
//! - Each commit gets the next revision; all of its operations share it. It is acknowledged after its
//!   fsync, and only then seen by readers: nobody acts on what a power cut could take back.
//! - Recent changes are kept (see [`Options`]), on disk too, so watches resume across a restart and
//!   pages of a list stay at one revision. Anything older answers [`Kind::Compacted`].
//! - `key` is any non-empty UTF-8 string, for example `/pods/default/web`.

mod disk;
mod error;
mod index;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use error::{Error, Kind};
pub use watch::Watcher;

use index::Shared;

/// Result of the store's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// What a key must look like for an operation to go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No condition.
    Any,
    /// The key must not exist ([`Kind::Exists`] otherwise).
    Absent,
    /// The key's last change must have this revision ([`Kind::Missing`] or [`Kind::Conflict`] otherwise).
    Revision(u64),
}

/// What an operation does to its key.
#[derive(Clone, Debug)]
pub enum Change {
    /// Write `value`; with `ttl`, the store deletes the key (a delete event like any other) when that
    /// much time has passed since this write. A later put without `ttl` makes the key permanent again.
    Put {
        /// The bytes to keep; JSON as far as this crate goes, but the store does not look inside.
        value: Bytes,
        /// Time to live, to the second; at least one second.
        ttl: Option<Duration>,
    },
    /// Remove the key. Deleting an absent key with [`Expect::Any`] is [`Kind::Missing`].
    Delete,
}

/// One operation of a commit.
#[derive(Clone, Debug)]
pub struct Op {
    /// The key.
    pub key: Arc<str>,
    /// The condition.
    pub expect: Expect,
    /// The change.
    pub change: Change,
}

impl Op {
    /// Writes `value` under `key` if `expect` holds.
    pub fn put(key: impl Into<Arc<str>>, expect: Expect, value: impl Into<Bytes>) -> Op {
        Op { key: key.into(), expect, change: Change::Put { value: value.into(), ttl: None } }
    }

    /// As [`Op::put`], and the store deletes the key after `ttl`.
    pub fn put_for(key: impl Into<Arc<str>>, expect: Expect, value: impl Into<Bytes>, ttl: Duration) -> Op {
        Op { key: key.into(), expect, change: Change::Put { value: value.into(), ttl: Some(ttl) } }
    }

    /// Removes `key` if `expect` holds.
    pub fn delete(key: impl Into<Arc<str>>, expect: Expect) -> Op {
        Op { key: key.into(), expect, change: Change::Delete }
    }
}

/// A key with its value, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Arc<str>,
    /// The value.
    pub value: Bytes,
    /// Revision of the last change of this key.
    pub revision: u64,
    /// Revision at which this key came into being.
    pub create_revision: u64,
}

/// What to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range<'a> {
    /// Keys that start with this; empty is everything.
    pub prefix: &'a str,
    /// At most so many items; 0 is no limit.
    pub limit: usize,
    /// Only keys that sort after this one (the last key of the page before).
    pub start_after: Option<&'a str>,
    /// The state at this revision; `None` is now. [`Kind::Compacted`] when it is too old,
    /// [`Kind::Future`] when it has not been reached.
    pub at_revision: Option<u64>,
}

/// A page of a list, keys in ascending byte order.
#[derive(Clone, Debug)]
pub struct Page {
    /// The items.
    pub items: Vec<Item>,
    /// The revision that the whole page shows.
    pub revision: u64,
    /// How many more items lie after the last one of this page.
    pub remaining: u64,
}

/// Acknowledgement: the commit is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision of all of its operations.
    pub revision: u64,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Created (when `create_revision == revision`) or replaced.
    Put,
    /// Removed, by a client or because its time to live was over.
    Delete,
}

/// One change of one key, as watches deliver it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To which key.
    pub key: Arc<str>,
    /// The new value; empty for a delete.
    pub value: Bytes,
    /// The value before, if there was one.
    pub prev: Option<Bytes>,
    /// Revision of the change.
    pub revision: u64,
    /// Revision at which the key came into being.
    pub create_revision: u64,
}

impl Event {
    /// Whether the key did not exist before.
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.create_revision == self.revision
    }
}

/// Seconds since 1970, as the store sees time. An argument, so that tests can move it.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How much history to keep, and how time is told.
#[derive(Clone)]
pub struct Options {
    /// Changes kept for watches and paged lists. Default 20,000.
    pub history_changes: usize,
    /// Changes older than this are forgotten. Default ten minutes, twice what etcd is set to.
    pub history_age: Duration,
    /// Events a watcher may lag behind before it is ended with [`Kind::Slow`]. Default 8,192.
    pub watch_backlog: usize,
    /// The clock; default the system's.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            history_changes: 20_000,
            history_age: Duration::from_secs(600),
            watch_backlog: 8_192,
            clock: Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())),
        }
    }
}

/// The open store. Cheap to clone; the file is closed, and its lock released, when the last clone is
/// dropped (that drop waits for the commits in flight).
#[derive(Clone)]
pub struct Store {
    open: Arc<Open>,
}

struct Open {
    shared: Arc<Shared>,
    queue: Mutex<Option<mpsc::Sender<writer::Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens (or creates) the store in `dir`, which becomes 0700; the files in it are 0600.
    ///
    /// # Errors
    /// [`Kind::Locked`] when another process, or another `Store`, has it open; [`Kind::Corrupt`] when
    /// the file is not a store; [`Kind::Io`].
    pub fn open(dir: &Path) -> Result<Store> {
        Store::open_with(dir, Options::default())
    }

    /// As [`Store::open`], with options.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(dir: &Path, options: Options) -> Result<Store> {
        let file = disk::File::at(dir)?;
        Store::start(disk::Opener::new(move || file.backend()), options)
    }

    fn start(opener: disk::Opener, options: Options) -> Result<Store> {
        let (disk, loaded) = opener.open()?;
        let shared = Arc::new(Shared::new(loaded, options.watch_backlog));
        let (queue, requests) = mpsc::channel();
        let state = writer::Writer::new(opener, disk, shared.clone(), options);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || state.run(&requests))
            .map_err(|e| Error::io("cannot start the store's writer thread", e))?;
        Ok(Store { open: Arc::new(Open { shared, queue: Mutex::new(Some(queue)), writer: Mutex::new(Some(thread)) }) })
    }

    /// The revision of the last commit; 0 in an empty store.
    pub fn revision(&self) -> u64 {
        self.open.shared.read().revision
    }

    /// The newest revision whose successors' history is no longer complete: lists and watches may
    /// start at this revision or later, not before.
    pub fn compacted_revision(&self) -> u64 {
        self.open.shared.read().compacted
    }

    /// The item under `key`, now.
    pub fn get(&self, key: &str) -> Option<Item> {
        self.open.shared.read().get(key)
    }

    /// A page of the keys in `range`, all as of one revision.
    ///
    /// # Errors
    /// [`Kind::Compacted`] or [`Kind::Future`] for the asked revision.
    pub fn list(&self, range: Range<'_>) -> Result<Page> {
        self.open.shared.read().list(range)
    }

    /// Carries out all of `ops`, or none, and returns when that is on disk. Commits that wait at the
    /// same time share one fsync.
    ///
    /// # Errors
    /// [`Kind::Exists`], [`Kind::Missing`] or [`Kind::Conflict`] when an expectation failed (nothing was
    /// written); [`Kind::Invalid`] for no operations, an empty key, or a key named twice; [`Kind::Io`] when the
    /// disk failed: the commit then is entirely there or entirely absent, and a reader will tell which.
    pub async fn commit(&self, ops: Vec<Op>) -> Result<Committed> {
        writer::validate(&ops)?;
        let (reply, answer) = oneshot::channel();
        {
            let queue = self.open.queue.lock().unwrap_or_else(|e| e.into_inner());
            let queue = queue.as_ref().ok_or_else(Error::closed)?;
            queue.send(writer::Request { ops, reply }).map_err(|_| Error::closed())?;
        }
        answer.await.map_err(|_| Error::closed())?
    }

    /// Every change of keys under `prefix` with a revision above `after`, in order, none twice, none
    /// missing: first from history, then as it happens. A list at revision R and a watch after R together
    /// see everything exactly once.
    ///
    /// # Errors
    /// [`Kind::Compacted`] when changes after `after` have been forgotten, [`Kind::Future`] when `after` has
    /// not been reached, [`Kind::Closed`].
    pub fn watch(&self, prefix: &str, after: u64) -> Result<Watcher> {
        index::watch(&self.open.shared, prefix, after)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(writer) = self.writer.lock().unwrap_or_else(|e| e.into_inner()).take() {
            // A panic of the writer has been reported by its hook; the file is closed either way.
            let _ = writer.join();
        }
    }
}
