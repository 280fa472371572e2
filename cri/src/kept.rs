//! A record in memory and on disk: read without waiting, changed one change at a time, disk first.
//!
//! Readers get an `Arc` of the last record that reached the disk. Watchers (somebody waits for an exit) are woken by
//! each change. A change runs on a blocking thread, since it ends with an fsync.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::error::{Error, Result};

/// One record; clones share it.
#[derive(Debug)]
pub struct Kept<T> {
    now: Arc<watch::Sender<Arc<T>>>,
    changing: Arc<Mutex<()>>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { now: Arc::clone(&self.now), changing: Arc::clone(&self.changing) }
    }
}

impl<T: Clone + Send + Sync + 'static> Kept<T> {
    /// A record that is on disk already.
    pub fn new(record: T) -> Self {
        Self { now: Arc::new(watch::Sender::new(Arc::new(record))), changing: Arc::default() }
    }

    /// The record as it is.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.now.borrow())
    }

    /// Tells of every change from now on.
    pub fn watch(&self) -> watch::Receiver<Arc<T>> {
        self.now.subscribe()
    }

    /// Changes the record: `change` on a copy, `save` to disk, and only then everybody sees it. `change` says whether
    /// there was anything to change. Gives the record as it is afterwards.
    pub async fn amend(
        &self,
        save: impl FnOnce(&T) -> Result<()> + Send + 'static,
        change: impl FnOnce(&mut T) -> bool + Send + 'static,
    ) -> Result<Arc<T>> {
        let own = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _turn = own.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut next = (*own.get()).clone();
            if change(&mut next) {
                save(&next)?;
                own.now.send_replace(Arc::new(next));
            }
            Ok(own.get())
        });
        task.await.map_err(|why| Error::internal(format!("a record's change was cut short: {why}")))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_could_not_be_saved_is_not_seen() {
        let kept = Kept::new(1);
        assert!(
            kept.amend(
                |_| Err(Error::internal("disk full")),
                |n| {
                    *n = 2;
                    true
                }
            )
            .await
            .is_err()
        );
        assert_eq!(*kept.get(), 1);
        assert_eq!(
            *kept
                .amend(
                    |_| Ok(()),
                    |n| {
                        *n = 3;
                        true
                    }
                )
                .await
                .unwrap(),
            3
        );
        assert_eq!(*kept.amend(|_| Err(Error::internal("not asked")), |_| false).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn changes_do_not_get_lost_and_wake() {
        let kept = Kept::new(0_u32);
        let mut watch = kept.watch();
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let kept = kept.clone();
                tokio::spawn(async move {
                    kept.amend(
                        |_| Ok(()),
                        |n| {
                            *n += 1;
                            true
                        },
                    )
                    .await
                    .unwrap()
                })
            })
            .collect();
        watch.wait_for(|n| **n == 20).await.unwrap();
        for task in tasks {
            task.await.unwrap();
        }
    }
}
