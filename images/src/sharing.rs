//! Who is using what right now: one worker a key, and leases that protect content from the garbage collector.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::FlockOperation;
use tokio::sync::OwnedMutexGuard;

use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::garbage::Roots;
use crate::layers::Key;

/// One lock a key. Whoever waited finds the work done; if the first was cancelled, the next one tries; if it failed at
/// what the others would do alike, they fail with it.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<String, Weak<Flight>>>);

#[derive(Default)]
struct Flight {
    seat: Arc<tokio::sync::Mutex<()>>,
    /// Turns asked for so far.
    asked: AtomicU64,
    failed: Mutex<Option<Failure>>,
}

/// Why the last turn that failed did, for those who waited for it.
struct Failure {
    /// Turns asked for until then.
    asked: u64,
    party: String,
    kind: Kind,
    text: String,
}

/// The key is held until this is dropped.
pub(crate) struct Turn {
    _seat: OwnedMutexGuard<()>,
    flight: Arc<Flight>,
    number: u64,
}

impl Flights {
    /// Waits for the key.
    pub(crate) async fn lock(&self, key: String) -> Turn {
        let flight = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, flight| flight.strong_count() > 0);
            match known.get(&key).and_then(Weak::upgrade) {
                Some(flight) => flight,
                None => {
                    let flight = Arc::new(Flight::default());
                    known.insert(key, Arc::downgrade(&flight));
                    flight
                }
            }
        };
        let number = flight.asked.fetch_add(1, Ordering::SeqCst);
        Turn { _seat: flight.seat.clone().lock_owned().await, flight, number }
    }
}

impl Turn {
    /// Tells those who wait at this moment, and would ask the same `party`, that it is of no use. What credentials
    /// decide is not told: others may have better ones.
    pub(crate) fn failed(&self, party: &str, why: &Error) {
        if !matches!(why.kind(), Kind::Unauthorized | Kind::NotFound) {
            let (party, text) = (party.to_owned(), why.to_string());
            let failure = Failure { asked: self.flight.asked.load(Ordering::SeqCst), party, kind: why.kind(), text };
            *self.flight.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        }
    }

    /// The failure of a turn with the same `party` that ended while this one was waited for.
    pub(crate) fn failure(&self, party: &str) -> Result<()> {
        match &*self.flight.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) if failure.asked > self.number && failure.party == party && !party.is_empty() => {
                Err(Error::new(failure.kind, failure.text.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// Content in use by pulls, in this process by count, towards other processes by a shared flock on `in-use`.
pub(crate) struct Leases {
    held: Mutex<Held>,
    file: File,
    sweep: File,
}

#[derive(Default)]
struct Held {
    leases: u64,
    blobs: HashMap<Digest, u64>,
    layers: HashMap<Key, u64>,
}

/// Protects what it names until dropped.
pub(crate) struct Lease {
    leases: Arc<Leases>,
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<Key>,
}

impl Leases {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let open = |name: &str| {
            let path = root.join(name);
            let mut options = File::options();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
            file.context(|| format!("open {}", path.display()))
        };
        Ok(Self { held: Mutex::default(), file: open("in-use")?, sweep: open("sweep")? })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease that names nothing yet. Waits only while another process collects its garbage.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Lease> {
        let mut held = self.held();
        if held.leases == 0 {
            self.file.lock_shared().context(|| "lock in-use")?;
        }
        held.leases += 1;
        Ok(Lease { leases: self.clone(), blobs: BTreeSet::new(), layers: BTreeSet::new() })
    }

    /// Runs `sweep` with what is leased, while no lease can grow; `None` if another process uses the store.
    pub(crate) fn exclusively<R>(&self, sweep: impl FnOnce(Roots) -> Result<R>) -> Result<Option<R>> {
        let held = self.held();
        // To ask for the exclusive lock gives up the shared one first, refused or not: meanwhile another process must
        // not sweep what is leased here. So whoever sweeps or tries to is alone with that.
        match self.sweep.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(why)) => return Err(why).context(|| "lock sweep"),
        }
        let result = match self.file.try_lock() {
            Ok(()) => sweep(Roots {
                blobs: held.blobs.keys().cloned().collect(),
                layers: held.layers.keys().cloned().collect(),
            })
            .map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(why)) => Err(why).context(|| "lock in-use"),
        };
        // The attempt to upgrade may have cost us the shared lock.
        let back = if held.leases > 0 { FlockOperation::LockShared } else { FlockOperation::Unlock };
        let back = rustix::fs::flock(&self.file, back).context(|| "lock in-use");
        drop(self.sweep.unlock());
        back.and(result)
    }
}

impl Lease {
    /// Protects a blob, whether it is here yet or not.
    pub(crate) fn blob(&mut self, digest: &Digest) {
        if self.blobs.insert(digest.clone()) {
            *self.leases.held().blobs.entry(digest.clone()).or_default() += 1;
        }
    }

    /// Protects a layer, whether it is here yet or not.
    pub(crate) fn layer(&mut self, key: &Key) {
        if self.layers.insert(key.clone()) {
            *self.leases.held().layers.entry(key.clone()).or_default() += 1;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.held();
        for digest in &self.blobs {
            release(&mut held.blobs, digest);
        }
        for key in &self.layers {
            release(&mut held.layers, key);
        }
        held.leases -= 1;
        if held.leases == 0 {
            drop(self.leases.file.unlock());
        }
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn leases_protect_and_end() {
        let dir = Scratch::new("leases");
        let leases = Arc::new(Leases::open(dir.path()).unwrap());
        let other_process = Arc::new(Leases::open(dir.path()).unwrap());
        let digest = Digest::of(b"x");
        let roots = || leases.exclusively(|roots| Ok(roots.blobs.len())).unwrap();
        let (mut one, mut two) = (leases.begin().unwrap(), leases.begin().unwrap());
        one.blob(&digest);
        two.blob(&digest);
        two.blob(&digest);
        assert_eq!(roots(), Some(1));
        assert_eq!(other_process.exclusively(|_| Ok(())).unwrap(), None, "another process swept under us");
        drop(two);
        assert_eq!(roots(), Some(1));
        assert_eq!(other_process.exclusively(|_| Ok(())).unwrap(), None);
        drop(one);
        assert_eq!(roots(), Some(0));
        assert_eq!(other_process.exclusively(|_| Ok(())).unwrap(), Some(()));
        let theirs = other_process.begin().unwrap();
        assert_eq!(roots(), None);
        drop(theirs);
        other_process.sweep.lock().unwrap();
        assert_eq!(roots(), None, "two sweep at a time");
    }

    #[tokio::test]
    async fn one_at_a_time() {
        let flights = Flights::default();
        let first = flights.lock("a".into()).await;
        let _other = flights.lock("b".into()).await;
        let wait = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, flights.lock("a".into())).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(wait, flights.lock("a".into())).await.is_ok());
    }

    #[tokio::test]
    async fn a_failure_is_of_those_who_waited() {
        let flights = Flights::default();
        let first = flights.lock("a".into()).await;
        let mut waits = Box::pin(flights.lock("a".into()));
        assert!(futures_util::poll!(&mut waits).is_pending());
        first.failed("host", &Error::new(Kind::Unavailable, "down"));
        let mut late = Box::pin(flights.lock("a".into()));
        assert!(futures_util::poll!(&mut late).is_pending());
        drop(first);
        let waited = waits.await;
        assert_eq!(waited.failure("host").unwrap_err().kind(), Kind::Unavailable);
        waited.failure("other").unwrap();
        drop(waited);
        late.await.failure("host").unwrap();
        let first = flights.lock("b".into()).await;
        let mut waits = Box::pin(flights.lock("b".into()));
        assert!(futures_util::poll!(&mut waits).is_pending());
        first.failed("host", &Error::new(Kind::Unauthorized, "wrong password"));
        drop(first);
        waits.await.failure("host").unwrap();
    }
}
