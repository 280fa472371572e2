//! What one CRI server has in hand: its stores, its network, and a table of pods and containers.
//!
//! The table is a cache of the records on disk. Each pod has a gate of its own, read by what works in the pod and
//! written by what ends it, and each container one; there is no lock over all of them that is held while anything waits.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use gantry_cri_api::ContainerEventType;
use gantry_runtime::cgroup::Layout;
use gantry_runtime::monitor::SealedBinary;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::convert::Host;
use crate::error::{Context, Error, Kind, Result};
use crate::files::Files;
use crate::kept::Kept;
use crate::monitor::Monitor;
use crate::network::Network;
use crate::stats::Samples;
use crate::store::{ContainerRecord, PodRecord, Store};
use crate::streaming::Server;

/// Everything that the verbs work with.
#[derive(Debug)]
pub struct Node {
    /// The configuration, checked.
    pub config: Config,
    /// Records on disk.
    pub store: Store,
    /// Images and root filesystems.
    pub images: Images,
    /// Addresses of pods.
    pub network: Network,
    /// Where exec, attach and port-forward connections go.
    pub streaming: Server,
    /// What monitors are made from.
    pub binary: Arc<SealedBinary>,
    /// What this host offers.
    pub host: Host,
    /// Where its cgroup trees are.
    pub cgroups: Layout,
    /// What happens to containers, for whoever listens.
    pub events: broadcast::Sender<Happened>,
    /// The last CPU figures, for rates.
    pub samples: Samples,
    /// Ends the server; pods go on.
    pub shutdown: CancellationToken,
    table: Mutex<Table>,
}

/// The image store, which has no `Debug` of its own.
#[derive(Clone)]
pub struct Images(pub gantry_images::Store);

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Images").field(&self.0.root()).finish()
    }
}

impl std::ops::Deref for Images {
    type Target = gantry_images::Store;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Something that happened to a container or, with the pod's own id, to a pod.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Container, or pod.
    pub id: String,
    /// Its pod.
    pub pod: String,
    /// What.
    pub what: ContainerEventType,
    /// Nanoseconds since 1970.
    pub at: i64,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// 64 hex digits.
    pub id: String,
    /// What is known about it.
    pub record: Kept<PodRecord>,
    /// Read by what works in the pod, written by what stops or removes it.
    pub gate: tokio::sync::RwLock<()>,
    /// Its monitor.
    pub monitor: Monitor,
    /// Its files.
    pub files: Files,
    /// Its bind-mounted namespaces.
    pub netns: PathBuf,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// The pod that it is in.
    pub pod: Arc<Pod>,
    /// What is known about it.
    pub record: Kept<ContainerRecord>,
    /// Held by start and by remove. Not by stop, which must be able to overtake itself with a shorter grace.
    pub gate: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    pods: HashMap<String, Arc<Pod>>,
    containers: HashMap<String, Arc<Container>>,
    /// Name of a pod, or `POD/NAME` of a container, to its id.
    names: HashMap<String, String>,
}

/// The parts of a [`Node`] that are opened one by one.
#[derive(Debug)]
pub struct Parts {
    /// See [`Node::config`].
    pub config: Config,
    /// See [`Node::store`].
    pub store: Store,
    /// See [`Node::images`].
    pub images: Images,
    /// See [`Node::network`].
    pub network: Network,
    /// See [`Node::streaming`].
    pub streaming: Server,
    /// See [`Node::binary`].
    pub binary: SealedBinary,
    /// See [`Node::host`].
    pub host: Host,
    /// See [`Node::cgroups`].
    pub cgroups: Layout,
    /// See [`Node::shutdown`].
    pub shutdown: CancellationToken,
}

impl Node {
    /// A node with an empty table.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            config: parts.config,
            store: parts.store,
            images: parts.images,
            network: parts.network,
            streaming: parts.streaming,
            binary: Arc::new(parts.binary),
            host: parts.host,
            cgroups: parts.cgroups,
            events: broadcast::Sender::new(1024),
            samples: Samples::default(),
            shutdown: parts.shutdown,
            table: Mutex::default(),
        })
    }

    /// Where the bind mounts of pods' namespaces are.
    pub fn netns_base(&self) -> PathBuf {
        self.config.run.join("netns")
    }

    /// Dies here if the configuration says so.
    pub fn fault(&self, here: &str) {
        crate::fault::point(self.config.fault.as_deref(), here);
    }

    /// Puts a pod into the table; its name must be free.
    pub fn add_pod(&self, record: PodRecord) -> Result<Arc<Pod>> {
        let mut table = self.table();
        reserve(&mut table.names, &record.name(), &record.id)?;
        let run = self.store.run_dir(&record.id);
        let pod = Arc::new(Pod {
            id: record.id.clone(),
            monitor: Monitor::at(&run),
            files: Files::of(&run),
            netns: self.netns_base().join(&record.id),
            record: Kept::new(record),
            gate: tokio::sync::RwLock::default(),
        });
        table.pods.insert(pod.id.clone(), Arc::clone(&pod));
        Ok(pod)
    }

    /// Puts a container into the table; its name must be free in its pod.
    pub fn add_container(&self, pod: &Arc<Pod>, record: ContainerRecord) -> Result<Arc<Container>> {
        let mut table = self.table();
        reserve(&mut table.names, &format!("{}/{}", pod.id, record.name()), &record.id)?;
        let container = Arc::new(Container {
            id: record.id.clone(),
            pod: Arc::clone(pod),
            record: Kept::new(record),
            gate: tokio::sync::Mutex::default(),
        });
        table.containers.insert(container.id.clone(), Arc::clone(&container));
        Ok(container)
    }

    /// Takes a pod out of the table.
    pub fn drop_pod(&self, pod: &Pod) {
        let mut table = self.table();
        table.pods.remove(&pod.id);
        table.names.remove(&pod.record.get().name());
    }

    /// Takes a container out of the table.
    pub fn drop_container(&self, container: &Container) {
        let mut table = self.table();
        table.containers.remove(&container.id);
        table.names.remove(&format!("{}/{}", container.pod.id, container.record.get().name()));
        drop(table);
        self.samples.forget(&container.id);
    }

    /// The pod with this id, or with the only id that begins so.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        pick(&self.table().pods, "pod sandbox", id)
    }

    /// The container with this id, or with the only id that begins so.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        pick(&self.table().containers, "container", id)
    }

    /// All pods, the oldest first.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let mut list: Vec<_> = self.table().pods.values().cloned().collect();
        list.sort_by_cached_key(|pod| (pod.record.get().created_at, pod.id.clone()));
        list
    }

    /// All containers, the oldest first.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        let mut list: Vec<_> = self.table().containers.values().cloned().collect();
        list.sort_by_cached_key(|container| (container.record.get().created_at, container.id.clone()));
        list
    }

    /// The containers of one pod, the oldest first.
    pub fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        let mut list = self.containers();
        list.retain(|container| container.pod.id == pod);
        list
    }

    /// Tells whoever listens; nobody listening is fine.
    pub fn tell(&self, id: &str, pod: &str, what: ContainerEventType) {
        let _ = self.events.send(Happened { id: id.to_owned(), pod: pod.to_owned(), what, at: now() });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pod {
    /// Writes its record down as it is.
    pub async fn save(&self, store: &Store) -> Result<()> {
        self.amend(store, |_| true).await.map(drop)
    }

    /// Changes its record, on disk first.
    pub async fn amend(
        &self,
        store: &Store,
        change: impl FnOnce(&mut PodRecord) -> bool + Send + 'static,
    ) -> Result<Arc<PodRecord>> {
        let store = store.clone();
        self.record.amend(move |record| store.save_pod(record), change).await
    }
}

impl Container {
    /// Writes its record down as it is.
    pub async fn save(&self, store: &Store) -> Result<()> {
        self.amend(store, |_| true).await.map(drop)
    }

    /// Changes its record, on disk first.
    pub async fn amend(
        &self,
        store: &Store,
        change: impl FnOnce(&mut ContainerRecord) -> bool + Send + 'static,
    ) -> Result<Arc<ContainerRecord>> {
        let store = store.clone();
        self.record.amend(move |record| store.save_container(record), change).await
    }
}

fn reserve(names: &mut HashMap<String, String>, name: &str, id: &str) -> Result<()> {
    if let Some(other) = names.get(name) {
        return Err(Error::new(Kind::Exists, format!("the name {name:?} is reserved for {other}")));
    }
    names.insert(name.to_owned(), id.to_owned());
    Ok(())
}

fn pick<T>(all: &HashMap<String, Arc<T>>, noun: &str, id: &str) -> Result<Arc<T>> {
    if let Some(found) = all.get(id) {
        return Ok(Arc::clone(found));
    }
    let mut fitting = all.iter().filter(|(known, _)| !id.is_empty() && known.starts_with(id));
    match (fitting.next(), fitting.next()) {
        (Some((_, found)), None) => Ok(Arc::clone(found)),
        (None, _) => Err(Error::not_found(noun, id)),
        (Some(_), Some(_)) => Err(Error::new(Kind::Invalid, format!("{noun} {id:?}: several ids begin so"))),
    }
}

/// A new id: 64 hex digits, as every CRI runtime gives and log collectors expect.
pub fn new_id() -> Result<String> {
    use std::fmt::Write;
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|why| Error::internal(format!("get random bytes: {why}")))?;
    Ok(bytes.iter().fold(String::with_capacity(64), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    }))
}

/// Nanoseconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Runs blocking work without holding up the runtime; once begun it runs to its end.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|why| Err(Error::internal(format!("work on a thread of its own was cut short: {why}"))))
}

/// Runs `work` to its end even when the caller goes away: a client that hangs up must not leave half a pod.
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|why| Error::internal(why.to_string())).context(|| "the work was cut short")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_hex_digits_and_differ() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert_ne!(a, b);
        assert!(a.len() == 64 && a.bytes().all(|c| c.is_ascii_hexdigit()));
    }

    #[test]
    fn a_prefix_finds_one_or_says_why_not() {
        let all: HashMap<String, Arc<u8>> =
            [("aab", 1), ("aac", 2), ("b", 3)].map(|(id, n)| (id.to_owned(), Arc::new(n))).into();
        assert_eq!(*pick(&all, "container", "aac").unwrap(), 2);
        assert_eq!(*pick(&all, "container", "b").unwrap(), 3);
        assert_eq!(pick(&all, "container", "aa").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(pick(&all, "container", "c").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(pick(&all, "container", "").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_name_is_given_once() {
        let mut names = HashMap::new();
        reserve(&mut names, "web", "1").unwrap();
        assert_eq!(reserve(&mut names, "web", "2").unwrap_err().kind(), Kind::Exists);
    }

    #[tokio::test]
    async fn work_goes_on_when_its_caller_is_gone() {
        let (done, seen) = tokio::sync::oneshot::channel();
        let caller = tokio::spawn(to_the_end(async move {
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            let _ = done.send(());
            Ok(())
        }));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        caller.abort();
        seen.await.unwrap();
    }
}
