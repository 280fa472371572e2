//! Disks that remember what was written and synced, that lose power, and that fail.

use std::collections::BTreeMap;
use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

use super::*;

/// What was done to the disk.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// A disk in memory with its history; `full` makes every write fail as a full disk does.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) bytes: Arc<Mutex<Vec<u8>>>,
    pub(super) steps: Arc<Mutex<Vec<Step>>>,
    pub(super) full: Arc<AtomicBool>,
    /// Syncs fail, after which the kernel may or may not have written.
    pub(super) broken_sync: Arc<AtomicBool>,
}

impl Disk {
    pub(super) fn with(bytes: Vec<u8>) -> Disk {
        Disk { bytes: Arc::new(Mutex::new(bytes)), ..Disk::default() }
    }

    pub(super) fn open(&self, options: Options) -> Result<Store> {
        let disk = self.clone();
        Store::start(disk::Opener::new(move || Ok(disk.clone())), options)
    }

    fn room(&self) -> IoResult<()> {
        if self.full.load(Ordering::SeqCst) { Err(IoError::from(ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> IoResult<u64> {
        Ok(self.bytes.lock().expect("lock").len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> IoResult<()> {
        let bytes = self.bytes.lock().expect("lock");
        let from = bytes.get(offset as usize..offset as usize + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        self.room()?;
        self.steps.lock().expect("lock").push(Step::Length(len));
        self.bytes.lock().expect("lock").resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> IoResult<()> {
        if self.broken_sync.load(Ordering::SeqCst) {
            return Err(IoError::other("the disk does not answer"));
        }
        self.steps.lock().expect("lock").push(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoResult<()> {
        self.room()?;
        self.steps.lock().expect("lock").push(Step::Write(offset, data.to_vec()));
        self.bytes.lock().expect("lock")[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// The disk after a power cut behind `steps[..cut]`: what was synced is there; of what was not, each 512-byte sector
/// of each write is there if `keep` says so.
pub(super) fn after_power_cut(steps: &[Step], cut: usize, mut keep: impl FnMut() -> bool) -> Vec<u8> {
    let synced = steps[..cut].iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let mut bytes = Vec::new();
    for (at, step) in steps[..cut].iter().enumerate() {
        match step {
            Step::Sync => {}
            Step::Length(len) => bytes.resize(*len as usize, 0),
            Step::Write(offset, data) => {
                for (sector, chunk) in data.chunks(512).enumerate() {
                    let from = *offset as usize + sector * 512;
                    if at < synced || keep() {
                        bytes[from..from + chunk.len()].copy_from_slice(chunk);
                    }
                }
            }
        }
    }
    bytes
}

/// Everything in the store, as text.
pub(super) fn contents(store: &Store) -> BTreeMap<String, String> {
    let page = store.list(Range::default()).expect("list");
    let text = |item: Item| (item.key.to_string(), String::from_utf8(item.value.to_vec()).expect("text"));
    page.items.into_iter().map(text).collect()
}
