//! The store on disk: three redb tables, one transaction a batch.
//!
//! | table | key | value |
//! |---|---|---|
//! | objects | key | (create revision, revision, expires, value) |
//! | history | (revision, number within the commit) | (seconds, deleted, create revision, previous revision, key, previous value) |
//! | meta | name | `format`, `revision`, `compacted` |
//!
//! History keeps only what each change replaced: the value that a change wrote is what the next change
//! of that key replaced, or the object itself, so nothing is written twice.
//!
//! redb keeps checksums, writes copy-on-write and flips one of two root pointers after an fsync, so a
//! power cut leaves the last or the one before last transaction. Checksums are verified at each start:
//! everything is read then in any case.

use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};

use super::index::{Applied, Index, Past, Record};
use super::{Error, Event, EventKind, Kind, Result};

type Object = (u64, u64, u64, &'static [u8]);
type Change = (u64, bool, u64, u64, &'static str, Option<&'static [u8]>);

const OBJECTS: TableDefinition<&str, Object> = TableDefinition::new("objects");
const HISTORY: TableDefinition<(u64, u32), Change> = TableDefinition::new("history");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
/// redb's own page cache; reads are served from the index, so it only has to hold the upper tree pages.
const CACHE: usize = 16 << 20;

/// Where the store's file is. Holds the directory's lock as long as it lives.
pub(super) struct File {
    path: PathBuf,
    _lock: std::fs::File,
}

impl File {
    /// Prepares `dir` (0700) with the file in it (0600), and locks it.
    ///
    /// A new store is made beside its place and moved there when it is complete: a crash on the way leaves none,
    /// rather than half of one that can never be opened.
    pub(super) fn at(dir: &Path) -> Result<File> {
        let why = |e| Error::io(format!("cannot prepare the store's directory {}", dir.display()), e);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(why)?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(why)?;
        let lock = open(&dir.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = format!("the store in {} is open already, here or in another process", dir.display());
                return Err(Error::new(Kind::Locked, why));
            }
            Err(TryLockError::Error(e)) => return Err(why(e)),
        }
        let file = File { path: dir.join("store.redb"), _lock: lock };
        if !file.path.exists() {
            let new = dir.join("store.new");
            match std::fs::remove_file(&new) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(why(e)),
                _ => {}
            }
            // Opened once and closed: its tables are there and synced.
            drop(
                Opener::new({
                    let new = new.clone();
                    move || backend(&new)
                })
                .open()?,
            );
            std::fs::rename(&new, &file.path).map_err(why)?;
            std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(why)?;
        }
        Ok(file)
    }

    pub(super) fn backend(&self) -> Result<FileBackend> {
        backend(&self.path)
    }
}

fn open(path: &Path) -> Result<std::fs::File> {
    let why = |e| Error::io(format!("cannot open {}", path.display()), e);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(why)?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(why)?;
    Ok(file)
}

fn backend(path: &Path) -> Result<FileBackend> {
    FileBackend::new(open(path)?).map_err(|e| failed("use the store's file", e))
}

/// Opens the database, at start and again after the disk failed.
pub(super) struct Opener(Box<dyn Fn() -> Result<Database> + Send>);

impl Opener {
    pub(super) fn new<B: StorageBackend>(backend: impl Fn() -> Result<B> + Send + 'static) -> Opener {
        Opener(Box::new(move || {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
            builder.create_with_backend(backend()?).map_err(|e| failed("open the store", e))
        }))
    }

    pub(super) fn open(&self) -> Result<(Disk, Index)> {
        let disk = Disk { db: (self.0)()? };
        let index = disk.load()?;
        Ok((disk, index))
    }
}

/// The open database.
pub(super) struct Disk {
    db: Database,
}

impl Disk {
    /// Writes `applied` and forgets history up to `compacted`, in one durable transaction.
    pub(super) fn write(&self, applied: &[Applied], revision: u64, compacted: u64) -> Result<()> {
        let tx = self.db.begin_write().map_err(|e| failed("write to the store", e))?;
        stage(&tx, applied, revision, compacted).map_err(|e| failed("write to the store", e))?;
        tx.commit().map_err(|e| failed("write to the store", e))
    }

    /// The revision of the last transaction on disk.
    pub(super) fn revision(&self) -> Result<u64> {
        let read = || -> std::result::Result<u64, redb::Error> {
            let meta = self.db.begin_read()?.open_table(META)?;
            Ok(meta.get("revision")?.map_or(0, |v| v.value()))
        };
        read().map_err(|e| failed("read the store", e))
    }

    fn load(&self) -> Result<Index> {
        self.make_tables().map_err(|e| failed("create the store's tables", e))?;
        let (format, index) = self.read_all().map_err(|e| failed("read the store", e))?;
        if format != FORMAT {
            let why = format!("the store has format {format}, this version reads format {FORMAT}");
            return Err(Error::new(Kind::Corrupt, why));
        }
        Ok(index)
    }

    fn make_tables(&self) -> std::result::Result<(), redb::Error> {
        if self.db.begin_read()?.open_table(META).is_ok() {
            return Ok(());
        }
        let tx = self.db.begin_write()?;
        tx.open_table(OBJECTS)?;
        tx.open_table(HISTORY)?;
        tx.open_table(META)?.insert("format", FORMAT)?;
        tx.commit()?;
        Ok(())
    }

    fn read_all(&self) -> std::result::Result<(u64, Index), redb::Error> {
        let tx = self.db.begin_read()?;
        let meta = tx.open_table(META)?;
        let number = |name: &str| meta.get(name).map(|v| v.map_or(0, |v| v.value()));
        let mut index = Index { revision: number("revision")?, compacted: number("compacted")?, ..Index::default() };
        for entry in tx.open_table(OBJECTS)?.iter()? {
            let (key, object) = entry?;
            let (create_revision, revision, expires, value) = object.value();
            let record = Record { value: Bytes::copy_from_slice(value), revision, create_revision, expires };
            index.keys.insert(Arc::from(key.value()), record);
        }
        // From the newest change back: what a change wrote is what its successor replaced.
        let mut wrote: HashMap<Arc<str>, Bytes> = HashMap::new();
        for entry in tx.open_table(HISTORY)?.iter()?.rev() {
            let (at, change) = entry?;
            index.history.push_front(past(at.value().0, change.value(), &index, &mut wrote));
        }
        Ok((number("format")?, index))
    }
}

fn past(
    revision: u64,
    (at, deleted, create_revision, prev_revision, key, prev): (u64, bool, u64, u64, &str, Option<&[u8]>),
    index: &Index,
    wrote: &mut HashMap<Arc<str>, Bytes>,
) -> Past {
    let known = index.keys.get_key_value(key);
    let key = known.map_or_else(|| Arc::from(key), |(key, _)| key.clone());
    let prev = prev.map(Bytes::copy_from_slice);
    let later = match &prev {
        Some(prev) => wrote.insert(key.clone(), prev.clone()),
        None => wrote.remove(&key),
    };
    let value = later.or_else(|| known.map(|(_, record)| record.value.clone()));
    let (kind, value) = match deleted {
        true => (EventKind::Delete, Bytes::new()),
        false => (EventKind::Put, value.unwrap_or_default()),
    };
    Past { at, event: Arc::new(Event { kind, key, value, prev, revision, create_revision }), prev_revision }
}

fn stage(
    tx: &WriteTransaction,
    applied: &[Applied],
    revision: u64,
    compacted: u64,
) -> std::result::Result<(), redb::Error> {
    let mut objects = tx.open_table(OBJECTS)?;
    let mut history = tx.open_table(HISTORY)?;
    let mut meta = tx.open_table(META)?;
    for (number, Applied { past: Past { at, event, prev_revision }, record }) in applied.iter().enumerate() {
        match record {
            Some(r) => objects.insert(&*event.key, (r.create_revision, r.revision, r.expires, &r.value[..]))?,
            None => objects.remove(&*event.key)?,
        };
        let deleted = event.kind == EventKind::Delete;
        let change = (*at, deleted, event.create_revision, *prev_revision, &*event.key, event.prev.as_deref());
        history.insert((event.revision, number as u32), change)?;
    }
    if meta.get("compacted")?.map_or(0, |v| v.value()) < compacted {
        history.retain_in(..=(compacted, u32::MAX), |_, _| false)?;
        meta.insert("compacted", compacted)?;
    }
    meta.insert("revision", revision)?;
    Ok(())
}

/// An error of redb as one of ours.
fn failed(what: &str, cause: impl Into<redb::Error>) -> Error {
    let cause = cause.into();
    let kind = match &cause {
        redb::Error::DatabaseAlreadyOpen => Kind::Locked,
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) | redb::Error::TableTypeMismatch { .. } => {
            Kind::Corrupt
        }
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => Kind::Corrupt,
        _ => Kind::Io,
    };
    Error::with(kind, format!("cannot {what}"), cause)
}
