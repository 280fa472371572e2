//! Watches: the store's events, selected.

use crate::client::WatchEvent;
use crate::error::Result;

/// A running watch.
#[derive(Debug)]
pub(crate) struct Subscription {
    events: tokio::sync::mpsc::Receiver<Result<WatchEvent>>,
}

impl Subscription {
    /// The next event.
    pub(crate) async fn next(&mut self) -> Option<Result<WatchEvent>> {
        self.events.recv().await
    }
}
