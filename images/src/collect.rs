//! DO what [`crate::garbage`] decides: look at the store, show a plan, carry it out.
//!
//! Nothing is pulled or mounted while a plan is made or carried out: both hold the lock `in-use` alone. In between anything
//! may happen, so what is still true of each image is asked again, and no content goes that an image needs by then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::error::{Context, Error, Kind, Result};
use crate::garbage::{self, Candidate, Content, Doomed, Plan, Roots, Rules, Seen};
use crate::index::{Entry, Record};
use crate::layers::Key;
use crate::space;
use crate::store::{Shared, Store, Usage, blocking, now, positions};

/// An unfinished download that was not continued for so long is given up.
const IDLE: Duration = Duration::from_secs(3600);
/// With less than this part of the filesystem free no download is kept that nobody continues.
const NEARLY_FULL: u64 = 10;
/// How often, and how long, somebody who asked for a collection waits for another process' pull.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// What became of a plan.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Done {
    /// Ids of the images that are gone.
    pub removed: Vec<String>,
    /// Images that stayed, and why: something has changed since the plan was made.
    pub kept: Vec<(String, String)>,
    /// What has become free.
    pub freed: Usage,
}

impl Store {
    /// What `rules` would remove now. With `exact` the layers are measured, else their records are believed, which is
    /// quick and about right.
    ///
    /// # Errors
    /// [`Kind::Conflict`] while another process uses the store; [`Kind::System`] for the disk.
    pub async fn plan(&self, rules: &Rules, exact: bool) -> Result<Plan> {
        let (store, rules) = (self.clone(), rules.clone());
        self.patiently(move || {
            let shared = store.shared();
            shared.leases.exclusively(|leased| {
                let (roots, images) = world(shared, leased)?;
                Ok(garbage::plan(&rules, &roots, &images, &look(shared, &roots, exact, rules.downloads)?, now()))
            })
        })
        .await
    }

    /// Removes what a plan names, and nothing else. An image that has been used, pinned or renamed since stays, and so
    /// does content that another image needs by now.
    ///
    /// # Errors
    /// As [`Store::plan`].
    pub async fn carry_out(&self, plan: Plan) -> Result<Done> {
        let store = self.clone();
        self.patiently(move || carry_out(store.shared(), &plan)).await
    }

    /// Deletes blobs and layers that no image, root filesystem or running pull needs; the bytes that this freed. `None`
    /// if another process is using the store: try later.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub async fn collect(&self) -> Result<Option<u64>> {
        let store = self.clone();
        blocking(move || {
            let shared = store.shared();
            let plan = shared.leases.exclusively(|leased| {
                let (roots, images) = world(shared, leased)?;
                Ok(garbage::plan(&Rules::default(), &roots, &images, &look(shared, &roots, false, false)?, now()))
            })?;
            let done = plan.map(|plan| carry_out(shared, &plan)).transpose()?.flatten();
            Ok(done.map(|done| done.freed.bytes))
        })
        .await
    }

    /// Who uses an image: keys of root filesystems.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub fn users(&self, image_id: &str) -> Result<Vec<String>> {
        Ok(users(self.shared())?.remove(image_id).unwrap_or_default())
    }

    /// Space that an image takes on disk, with content that it shares.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such an id; [`Kind::System`] for the disk.
    pub async fn usage_of(&self, image_id: &str) -> Result<Usage> {
        let (store, id) = (self.clone(), image_id.to_owned());
        blocking(move || {
            let shared = store.shared();
            let record = shared.index.load()?.0;
            let gone = || Error::new(Kind::NotFound, format!("image {id} is not here"));
            let entry = record.images.iter().find(|entry| entry.config.to_string() == id).ok_or_else(gone)?;
            let seen = look(shared, &Roots::default(), true, false)?.content;
            let sizes = content(entry).into_iter().filter_map(|content| seen.get(&content).copied());
            Ok(sizes.fold(Usage::default(), |all, one| Usage {
                bytes: all.bytes + one.bytes,
                inodes: all.inodes + one.inodes,
            }))
        })
        .await
    }

    /// Collects as [`Config::garbage`](crate::Config) says, for as long as it is polled; it never ends. Failures are logged.
    pub async fn tend(&self) {
        let settings = &self.shared().config.garbage;
        let (every, rules) = (settings.interval.0, settings.rules());
        if every.is_zero() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(every).await;
            let round = async { self.carry_out(self.plan(&rules, false).await?).await };
            match round.await {
                Ok(done) if done.removed.is_empty() && done.freed.bytes == 0 => {}
                Ok(done) => {
                    tracing::info!(images = done.removed.len(), bytes = done.freed.bytes, "collected image garbage");
                }
                Err(why) => tracing::warn!(%why, "image garbage could not be collected"),
            }
        }
    }

    /// Runs `attempt` until nobody else uses the store.
    async fn patiently<T: Send + 'static>(
        &self,
        attempt: impl Fn() -> Result<Option<T>> + Clone + Send + 'static,
    ) -> Result<T> {
        for _ in 0..TRIES {
            if let Some(done) = blocking(attempt.clone()).await? {
                return Ok(done);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::new(Kind::Conflict, "another process is pulling or starting images; try again later"))
    }
}

fn carry_out(shared: &Shared, plan: &Plan) -> Result<Option<Done>> {
    shared.leases.exclusively(|leased| {
        let users = users(shared)?;
        let mut done = Done::default();
        shared.index.change(|record| {
            for doomed in &plan.images {
                match obstacle(shared, record, doomed, &leased, &users) {
                    Some(why) => done.kept.push((doomed.id.clone(), why)),
                    None => {
                        record.remove(&doomed.id.parse()?);
                        done.removed.push(doomed.id.clone());
                    }
                }
            }
            Ok(())
        })?;
        let (roots, images) = world(shared, leased)?;
        let needed: BTreeSet<&Content> = images.iter().flat_map(|image| &image.content).collect();
        // First what needs no room to go: on a full disk the removal of a layer does.
        for (name, bytes) in &plan.leftovers {
            if shared.blobs.remove_leftover(name) {
                done.freed = Usage { bytes: done.freed.bytes + bytes, inodes: done.freed.inodes + 1 };
            }
        }
        for (content, size) in plan.content.iter().filter(|(content, _)| !needed.contains(content)) {
            if !roots.keep(content) {
                remove(shared, content)?;
                done.freed = Usage { bytes: done.freed.bytes + size.bytes, inodes: done.freed.inodes + size.inodes };
            }
        }
        shared.index.keep_reserve();
        Ok(done)
    })
}

/// Why an image stays although the plan names it.
fn obstacle(
    shared: &Shared,
    record: &Record,
    doomed: &Doomed,
    leased: &Roots,
    users: &BTreeMap<String, Vec<String>>,
) -> Option<String> {
    let Some(entry) = record.images.iter().find(|entry| entry.config.to_string() == doomed.id) else {
        return Some("it is gone already".into());
    };
    match users.get(&doomed.id) {
        _ if is_pinned(shared, entry) => Some("it is pinned".into()),
        Some(users) => Some(format!("it is in use by {}", users.join(", "))),
        _ if leased.blobs.contains(&entry.manifest) => Some("it is being pulled".into()),
        _ if names(entry) != doomed.names => Some("it has other names now".into()),
        _ => None,
    }
}

fn remove(shared: &Shared, content: &Content) -> Result<()> {
    match content {
        Content::Blob(digest) => shared.blobs.remove(digest).map(drop),
        Content::Layer(key) => shared.layers.remove(key),
    }
}

fn names(entry: &Entry) -> Vec<String> {
    entry.tags.iter().chain(&entry.digests).cloned().collect()
}

fn is_pinned(shared: &Shared, entry: &Entry) -> bool {
    entry.pinned || entry.tags.iter().chain(&entry.digests).any(|name| shared.config.pins(name))
}

/// Image id to the keys of its root filesystems.
fn users(shared: &Shared) -> Result<BTreeMap<String, Vec<String>>> {
    let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (home, record) in shared.rootfses.everywhere()? {
        let key = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let by = record.mount.map_or(key, |(at, _)| format!("the mount on {}", at.display()));
        users.entry(record.image_id).or_default().push(by);
    }
    Ok(users)
}

/// What keeps content alive: leases and root filesystems; and all images.
fn world(shared: &Shared, leased: Roots) -> Result<(Roots, Vec<Candidate>)> {
    let record = shared.index.load()?.0;
    shared.uses.keep_only(&record.images.iter().map(|entry| entry.config.hex()).collect());
    let mut users = users(shared)?;
    let mut candidates = Vec::with_capacity(record.images.len());
    for entry in &record.images {
        let id = entry.config.to_string();
        let mut by = users.remove(&id).unwrap_or_default();
        if leased.blobs.contains(&entry.manifest) {
            by.push("a pull under way".into());
        }
        candidates.push(Candidate {
            names: names(entry),
            tagged: !entry.tags.is_empty(),
            pinned: is_pinned(shared, entry),
            users: by,
            last_used: shared.uses.last(&entry.config).unwrap_or(0).max(entry.stored_at),
            content: content(entry),
            id,
        });
    }
    let mut roots = leased;
    roots.layers.extend(shared.rootfses.needed(None)?);
    Ok((roots, candidates))
}

/// Everything on disk that an image needs. A layer may lie under either of its two keys.
fn content(entry: &Entry) -> BTreeSet<Content> {
    let blobs = entry.documents.iter().chain([&entry.config, &entry.manifest]);
    let blobs = blobs.chain(entry.layers.iter().map(|layer| &layer.digest)).cloned().map(Content::Blob);
    let keys = positions(entry);
    let keys = keys.iter().flat_map(|at| [Key::alone(&at.diff_id), Key::chained(&at.chain_id)]).map(Content::Layer);
    blobs.chain(keys).collect()
}

fn look(shared: &Shared, roots: &Roots, exact: bool, all_downloads: bool) -> Result<Seen> {
    let root = &shared.config.root;
    let found = rustix::fs::statvfs(root).context(|| format!("stat the filesystem of {}", root.display()))?;
    let (capacity, free) = (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize);
    let idle = match all_downloads || free < capacity / NEARLY_FULL {
        true => Duration::ZERO,
        false => IDLE,
    };
    let mut seen = Seen { leftovers: shared.blobs.leftovers(idle)?, filesystem: (capacity, free), ..Seen::default() };
    for (digest, bytes) in shared.blobs.list()? {
        seen.content.insert(Content::Blob(digest), Usage { bytes, inodes: 1 });
    }
    for key in shared.layers.list()? {
        let content = Content::Layer(key.clone());
        let size = match exact && !roots.keep(&content) {
            true => space::of(&shared.layers.home(&key))?,
            false => shared.layers.facts(&key)?.map_or(Usage::default(), |facts| facts.usage()),
        };
        seen.content.insert(content, size);
    }
    Ok(seen)
}
