//! A cache of all objects of a kind, kept up by list and watch, that tells its listeners what changed.
//!
//! One task a kind runs [`Cache::run`]; controllers read the cache and enqueue keys in listeners. Objects
//! are typed views behind `Arc`. [`Cache::seen`] is the newest revision that went in: as revisions are one
//! order over all kinds, a controller whose own write had revision R knows its cache is not behind
//! itself once `seen() >= R`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, ListOptions, Object, Watch, WatchEvent, resource_of};

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of<T: Object>(object: &T) -> Key {
        let meta = object.metadata();
        Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What happened to an object.
pub(crate) enum Change<'a, T> {
    Added(&'a Arc<T>),
    Modified(&'a Arc<T>, &'a Arc<T>),
    Deleted(&'a Arc<T>),
}

impl<'a, T> Change<'a, T> {
    /// The newest state there is.
    pub(crate) fn object(&self) -> &'a Arc<T> {
        match self {
            Change::Added(object) | Change::Modified(_, object) | Change::Deleted(object) => object,
        }
    }
}

type Listener<T> = Box<dyn Fn(Change<'_, T>) + Send + Sync>;

/// The cache of a kind.
pub(crate) struct Cache<T> {
    options: ListOptions,
    state: RwLock<State<T>>,
    listeners: RwLock<Vec<Listener<T>>>,
    synced: watch::Sender<bool>,
}

struct State<T> {
    objects: BTreeMap<Key, Arc<T>>,
    seen: u64,
}

impl<T: Object + Send + Sync + 'static> Cache<T> {
    pub(crate) fn new() -> Arc<Cache<T>> {
        Cache::selecting("")
    }

    /// A cache of those objects alone that a field selector selects.
    pub(crate) fn selecting(fields: &str) -> Arc<Cache<T>> {
        Arc::new(Cache {
            options: ListOptions { field_selector: fields.to_owned(), ..ListOptions::default() },
            state: RwLock::new(State { objects: BTreeMap::new(), seen: 0 }),
            listeners: RwLock::new(Vec::new()),
            synced: watch::Sender::new(false),
        })
    }

    /// Calls `listener` for each change; it must be quick and must not wait. Register before [`Cache::run`].
    pub(crate) fn listen(&self, listener: impl Fn(Change<'_, T>) + Send + Sync + 'static) {
        self.listeners.write().unwrap_or_else(|e| e.into_inner()).push(Box::new(listener));
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.state().objects.get(key).cloned()
    }

    /// All objects of a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        let state = self.state();
        let from = state.objects.range(Key::new(namespace, "")..);
        from.take_while(|(key, _)| key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.state().objects.values().cloned().collect()
    }

    /// The newest revision that the cache shows.
    pub(crate) fn seen(&self) -> u64 {
        self.state().seen
    }

    /// Waits for the first list.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as the cache: this cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Keeps the cache up until `shutdown`.
    pub(crate) async fn run(self: Arc<Self>, client: Client, shutdown: CancellationToken) {
        let resource = resource_of::<T>();
        loop {
            let watch = client.watch(&resource, "", &self.options);
            let watch = tokio::select! { () = shutdown.cancelled() => return, watch = watch => watch };
            match watch {
                Ok(watch) => self.follow(watch, &resource, &shutdown).await,
                Err(error) => tracing::warn!(%resource, error = %error.chain(), "cannot watch; trying again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
    }

    async fn follow(&self, mut watch: Watch, resource: &str, shutdown: &CancellationToken) {
        self.reset(&watch.items, watch.revision);
        watch.items = Vec::new();
        self.synced.send_replace(true);
        loop {
            let event = tokio::select! { () = shutdown.cancelled() => return, event = watch.next() => event };
            match event {
                Some(Ok(event)) => self.take(event),
                Some(Err(error)) => {
                    tracing::info!(%resource, error = %error.chain(), "watch ended; listing again");
                    return;
                }
                None => return,
            }
        }
    }

    /// Takes a whole list; listeners hear the difference.
    pub(crate) fn reset(&self, items: &[Arc<Value>], revision: u64) {
        let new: BTreeMap<Key, Arc<T>> =
            items.iter().filter_map(|item| view::<T>(item)).map(|object| (Key::of(&*object), object)).collect();
        let old = {
            let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
            state.seen = state.seen.max(revision);
            std::mem::replace(&mut state.objects, new.clone())
        };
        for (key, object) in &new {
            match old.get(key) {
                None => self.tell(&Change::Added(object)),
                Some(was) if same_uid(&**was, &**object) => {
                    if was.metadata().resource_version != object.metadata().resource_version {
                        self.tell(&Change::Modified(was, object));
                    }
                }
                Some(was) => {
                    self.tell(&Change::Deleted(was));
                    self.tell(&Change::Added(object));
                }
            }
        }
        old.iter().filter(|(key, _)| !new.contains_key(key)).for_each(|(_, was)| self.tell(&Change::Deleted(was)));
    }

    /// Takes one event.
    pub(crate) fn take(&self, event: WatchEvent) {
        let (value, gone) = match event {
            WatchEvent::Added(value) | WatchEvent::Modified(value) => (value, false),
            WatchEvent::Deleted(value) => (value, true),
            WatchEvent::Bookmark(revision) => {
                let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
                state.seen = state.seen.max(revision);
                return;
            }
        };
        let view = view::<T>(&value);
        let mut state = self.state.write().unwrap_or_else(|e| e.into_inner());
        state.seen = state.seen.max(revision_of(&value));
        let Some(object) = view else { return };
        let key = Key::of(&*object);
        let was = if gone { state.objects.remove(&key) } else { state.objects.insert(key, object.clone()) };
        drop(state);
        match (was, gone) {
            (None, false) => self.tell(&Change::Added(&object)),
            (Some(was), false) => self.tell(&Change::Modified(&was, &object)),
            (Some(_), true) => self.tell(&Change::Deleted(&object)),
            (None, true) => {}
        }
    }

    fn tell(&self, change: &Change<'_, T>) {
        for listener in self.listeners.read().unwrap_or_else(|e| e.into_inner()).iter() {
            listener(match change {
                Change::Added(object) => Change::Added(object),
                Change::Modified(was, object) => Change::Modified(was, object),
                Change::Deleted(object) => Change::Deleted(object),
            });
        }
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }
}

/// `metadata.resourceVersion` as a number; 0 if there is none.
pub(crate) fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn same_uid<T: Object>(a: &T, b: &T) -> bool {
    a.metadata().uid == b.metadata().uid
}

fn view<T: Object>(value: &Value) -> Option<Arc<T>> {
    match T::deserialize(value) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            tracing::warn!(kind = T::KIND, name, %error, "an object does not fit its type and is left alone");
            None
        }
    }
}
