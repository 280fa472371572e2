//! A queue of keys: each waits at most once, none is worked on twice at a time, failures come back later
//! and later.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::informer::Key;
use crate::error::{Error, Kind, Result};

/// First delay after a failure; doubles with each.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// The longest delay after a failure.
const LAST_RETRY: Duration = Duration::from_secs(60);

#[derive(Default)]
struct State {
    waiting: VecDeque<Key>,
    queued: HashSet<Key>,
    running: HashSet<Key>,
    failures: HashMap<Key, u32>,
}

/// The queue of a controller.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Notify,
}

impl Queue {
    pub(crate) fn new() -> Arc<Queue> {
        Arc::default()
    }

    /// Asks for `key` to be looked at; if it is being worked on, once more after that.
    pub(crate) fn add(&self, key: Key) {
        let mut state = self.state();
        if state.queued.insert(key.clone()) && !state.running.contains(&key) {
            state.waiting.push_back(key);
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Asks for `key` to be looked at after `delay`.
    pub(crate) fn add_after(self: &Arc<Self>, key: Key, delay: Duration) {
        let queue = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(queue) = queue.upgrade() {
                queue.add(key);
            }
        });
    }

    fn take(&self) -> Option<Key> {
        let mut state = self.state();
        let key = state.waiting.pop_front()?;
        state.queued.remove(&key);
        state.running.insert(key.clone());
        if !state.waiting.is_empty() {
            self.ready.notify_one();
        }
        Some(key)
    }

    /// Ends the work on `key`; after a failure it comes again.
    fn done(self: &Arc<Self>, key: Key, failed: bool) {
        let mut state = self.state();
        state.running.remove(&key);
        let delay = failed.then(|| {
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            retry_delay(*failures)
        });
        if !failed {
            state.failures.remove(&key);
        }
        if state.queued.contains(&key) {
            state.waiting.push_back(key);
            drop(state);
            self.ready.notify_one();
        } else if let Some(delay) = delay {
            drop(state);
            self.add_after(key, delay);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The delay after the `failures`th failure in a row (1 is the first).
fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LAST_RETRY)
}

/// Works the queue off with `workers` at a time until `shutdown`. A conflict with another writer is
/// ordinary and not logged as a failure.
pub(crate) async fn work<F, W>(
    name: &'static str,
    queue: Arc<Queue>,
    workers: usize,
    shutdown: CancellationToken,
    sync: F,
) where
    F: Fn(Key) -> W + Send + Sync + 'static,
    W: Future<Output = Result<()>> + Send,
{
    let one = async || loop {
        let Some(key) = queue.take() else {
            tokio::select! { () = shutdown.cancelled() => return, () = queue.ready.notified() => continue }
        };
        // A panic over one object must not stop the work on all others.
        let result = AssertUnwindSafe(async { sync(key.clone()).await }).catch_unwind().await;
        let result = result.unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the controller panicked")));
        if let Err(error) = &result {
            match error.kind() {
                Kind::Conflict | Kind::NotFound => {
                    tracing::debug!(controller = name, %key, error = %error.chain(), "again")
                }
                _ => tracing::warn!(controller = name, %key, error = %error.chain(), "failed; trying again"),
            }
        }
        queue.done(key, result.is_err());
        if shutdown.is_cancelled() {
            return;
        }
    };
    futures_util::future::join_all((0..workers).map(|_| one())).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("", name)
    }

    #[tokio::test]
    async fn a_key_waits_once_and_runs_once_at_a_time() {
        let queue = Queue::new();
        queue.add(key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        let a = queue.take().expect("a");
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("b")));
        assert_eq!(queue.take(), None, "a is being worked on");
        queue.done(a, false);
        assert_eq!(queue.take(), Some(key("a")), "and is looked at once more");
    }

    #[tokio::test]
    async fn failures_come_back_later_and_later() {
        let delays: Vec<_> = [1, 2, 3, 10, 40].map(|n| retry_delay(n).as_millis()).into();
        assert_eq!(delays, [5, 10, 20, 2560, 60_000]);
        let queue = Queue::new();
        queue.add(key("a"));
        let a = queue.take().expect("a");
        queue.done(a, true);
        assert_eq!(queue.take(), None);
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert_eq!(queue.take(), Some(key("a")));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_its_key_alone() {
        let (queue, shutdown) = (Queue::new(), CancellationToken::new());
        let (seen, mut said) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(work("test", queue.clone(), 1, shutdown.clone(), move |key: Key| {
            let seen = seen.clone();
            async move {
                seen.send(key.name.clone()).expect("open");
                assert_ne!(key.name, "bad");
                Ok(())
            }
        }));
        queue.add(key("bad"));
        queue.add(key("good"));
        let names = [said.recv().await, said.recv().await, said.recv().await].map(Option::unwrap_or_default);
        assert_eq!(names, ["bad", "good", "bad"], "and it is tried again");
        shutdown.cancel();
        task.await.expect("stops");
    }

    #[tokio::test]
    async fn workers_share_the_queue_and_stop_at_shutdown() {
        let (queue, shutdown) = (Queue::new(), CancellationToken::new());
        let (seen, mut said) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(work("test", queue.clone(), 3, shutdown.clone(), move |key| {
            let seen = seen.clone();
            async move {
                seen.send(key.name).expect("open");
                Ok(())
            }
        }));
        for n in 0..20 {
            queue.add(key(&n.to_string()));
        }
        let mut names = Vec::new();
        while names.len() < 20 {
            names.push(said.recv().await.expect("a name"));
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 20);
        shutdown.cancel();
        task.await.expect("stops");
    }
}
