//! The receiving end of a watch: a backlog out of history, then a bounded queue of live events.
//!
//! The writer never waits for a watcher: a full queue ends the watch, and the watcher hears
//! [`Kind::Slow`] after the events that still fitted. Events are shared, not copied.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;

use super::index::Shared;
use super::{Error, Event, Kind, Result};

/// The sending end, kept in the index.
pub(super) struct Feed {
    prefix: String,
    queue: mpsc::Sender<Arc<Event>>,
    slow: Arc<AtomicBool>,
}

impl Feed {
    /// Hands over an event; false when this watch is over (dropped, or too slow).
    pub(super) fn push(&self, event: &Arc<Event>) -> bool {
        if !event.key.starts_with(&self.prefix) {
            return !self.queue.is_closed();
        }
        match self.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.slow.store(true, Ordering::Release);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

/// A running watch: a stream of events that ends with one error ([`Kind::Slow`] or [`Kind::Closed`]).
/// Dropping it ends the watch.
pub struct Watcher {
    backlog: VecDeque<Arc<Event>>,
    queue: mpsc::Receiver<Arc<Event>>,
    slow: Arc<AtomicBool>,
    shared: Weak<Shared>,
    limit: usize,
    ended: bool,
}

/// Both ends of a new watch. `backlog` holds what has already happened.
pub(super) fn pair(prefix: &str, backlog: VecDeque<Arc<Event>>, shared: &Arc<Shared>, limit: usize) -> (Feed, Watcher) {
    let (send, queue) = mpsc::channel(limit);
    let slow = Arc::new(AtomicBool::new(false));
    let feed = Feed { prefix: prefix.to_owned(), queue: send, slow: slow.clone() };
    (feed, Watcher { backlog, queue, slow, shared: Arc::downgrade(shared), limit, ended: false })
}

impl Watcher {
    /// The next event; `None` after the error that ended the watch. Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Arc<Event>>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The next event if one is already there.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        self.backlog.pop_front().or_else(|| self.queue.try_recv().ok())
    }

    /// If everything up to the store's present revision has been delivered by this watcher, that
    /// revision (what a bookmark may say); `None` while events wait.
    pub fn progress(&self) -> Option<u64> {
        // The revision is read first: events are queued before it moves, under the same lock.
        let revision = self.shared.upgrade()?.read().revision;
        (self.backlog.is_empty() && self.queue.is_empty() && !self.slow.load(Ordering::Acquire)).then_some(revision)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Event>>>> {
        if let Some(event) = self.backlog.pop_front() {
            return Poll::Ready(Some(Ok(event)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        match self.queue.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(event)) => Poll::Ready(Some(Ok(event))),
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Some(Err(self.why_ended())))
            }
        }
    }

    fn why_ended(&self) -> Error {
        if self.slow.load(Ordering::Acquire) {
            let limit = self.limit;
            return Error::new(
                Kind::Slow,
                format!("the watch was ended: its reader lags more than {limit} events behind"),
            );
        }
        Error::closed()
    }
}

impl Stream for Watcher {
    type Item = Result<Arc<Event>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll(cx)
    }
}
