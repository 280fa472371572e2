//! The store as its users see it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use oci_spec::image::ImageConfiguration;

use crate::artifact::{self, File};
use crate::blobs::Blobs;
use crate::config::Config;
use crate::digest::Digest;
use crate::disk::{self, GroupSync};
use crate::error::{Context, Error, Kind, Result};
use crate::fetch::{self, Wanted};
use crate::index::{Entry, Index, Layer, Record};
use crate::layers::{Key, Layers, Position};
use crate::manifest::Descriptor;
use crate::options::{Platform, Progress, PullOptions};
use crate::recover;
use crate::reference::Reference;
use crate::rootfs::shift::Shift;
use crate::rootfs::{self, Plan, Rootfses};
use crate::sharing::{Flights, Lease, Leases};
use crate::sound::{self, Trust};
use crate::source::registry::{Connections, Registry};
use crate::space;
use crate::used::Uses;

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its configuration, for an artifact of its manifest, `sha256:…`; the name that CRI gives back.
    pub id: String,
    /// The digest of its manifest (for a multi-platform image, of the manifest chosen).
    pub manifest: Digest,
    /// Full names with tags, `host/path:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// Full names with digests, `host/path@sha256:…`, sorted; also the digest of the index that led here.
    pub repo_digests: Vec<String>,
    /// Bytes of manifest, configuration and layers as transferred.
    pub size: u64,
    /// The image configuration: user, environment, entry point, volumes, ...; an artifact's is empty.
    pub config: ImageConfiguration,
    /// What an artifact says that it is, which can be mounted as a volume but not be run; `None` for an image.
    pub artifact: Option<String>,
    /// Never collected as garbage.
    pub pinned: bool,
    /// When the image was built, RFC 3339, as its configuration says.
    pub created: Option<String>,
    /// When it came into this store, nanoseconds since 1970.
    pub stored_at: u64,
}

/// A container's root filesystem.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// The mounted overlay.
    pub path: PathBuf,
    /// What the container has written.
    pub upper: PathBuf,
    /// The image underneath.
    pub image_id: String,
}

/// Space taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Bytes allocated on disk.
    pub bytes: u64,
    /// Files, directories, links and devices.
    pub inodes: u64,
}

/// An open store. Clones are cheap and share everything; several processes may open one root.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

/// What every clone and every task of a store shares.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) blobs: Blobs,
    pub(crate) layers: Layers,
    pub(crate) rootfses: Rootfses,
    pub(crate) mounts: Rootfses,
    pub(crate) measured: space::Measured,
    pub(crate) index: Index<Vec<Arc<Image>>>,
    pub(crate) flights: Flights,
    pub(crate) leases: Arc<Leases>,
    pub(crate) sync: GroupSync,
    pub(crate) uses: Uses,
    pub(crate) connections: Arc<Connections>,
}

/// Runs blocking work on the threads that are there for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let panicked = |why| Error::caused(Kind::System, "a worker of the image store died", why);
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

impl Store {
    /// Opens the store, creating it where it is missing, and clears away what a crash left behind.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk; [`Kind::Invalid`] if `index.json` is of a newer version. A damaged one is recovered
    /// from the one before the last change, or from the blobs, and this is logged.
    pub fn open(config: Config) -> Result<Self> {
        let root = std::path::absolute(&config.root).context(|| format!("path {}", config.root.display()))?;
        disk::private_dir(&root)?;
        let blobs = Blobs::open(&root)?;
        let cache = Mutex::new(HashMap::new());
        let (view_blobs, limit) = (blobs.clone(), config.limits.config_bytes);
        let pinning = config.clone();
        let view = move |record: &Record| {
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            let mut images = view(&view_blobs, limit, record, &mut cache);
            for image in images.iter_mut().filter(|_| !pinning.pinned.is_empty()) {
                let pins = image.repo_tags.iter().chain(&image.repo_digests).any(|name| pinning.pins(name));
                if pins {
                    Arc::make_mut(image).pinned = true;
                }
            }
            Ok(images)
        };
        let shared = Shared {
            layers: Layers::open(&root, config.layers)?,
            rootfses: Rootfses::open(&root)?,
            mounts: Rootfses::of_mounts(&root)?,
            measured: space::Measured::default(),
            index: Index::open(&root, view, || recover::images(&blobs, &config.limits, now()))?,
            flights: Flights::default(),
            leases: Arc::new(Leases::open(&root)?),
            sync: GroupSync::default(),
            uses: Uses::open(&root)?,
            connections: Arc::new(Connections::new(&config)?),
            blobs,
            config: Config { root, ..config },
        };
        // Images of layers that a process mounted which then died.
        shared.layers.unview(&shared.layers.list()?, || shared.rootfses.needed(None))?;
        sound::after_boot(&shared)?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What failed, with what to do if the store's disk is full.
    pub(crate) fn advised(&self, why: Error) -> Error {
        why.advised(&self.shared.config.root)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The directory that `Config::root` named.
    pub fn root(&self) -> &Path {
        &self.shared.config.root
    }

    /// Fetches an image from its registry, verifies and unpacks it. Content that is here already is not fetched
    /// again; several callers asking for the same content share one download and one unpack.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorized`], [`Kind::Unavailable`] for the registry's answers,
    /// [`Kind::Invalid`] and [`Kind::TooLarge`] for its content, [`Kind::Unsupported`] without our platform.
    pub async fn pull(&self, from: &Reference, options: &PullOptions, progress: Progress) -> Result<Arc<Image>> {
        let pull = async {
            let (shared, reference, auth) = (self.shared.clone(), from.clone(), options.auth.clone());
            let connect = move || Registry::connect(&shared.config, &shared.connections, &reference, auth);
            let registry = blocking(connect).await?;
            let served = crate::named::document(&self.shared, &registry, from).await?;
            let wanted = Wanted {
                // With a digest beside it a tag only informs: what it means there today was not asked.
                tags: from.tagged().filter(|_| from.digest().is_none()).into_iter().collect(),
                digests: BTreeSet::from([from.digested(&served.digest)]),
                platform: options.platform.clone().unwrap_or_else(Platform::host),
                pinned: options.pinned,
                now: now(),
            };
            fetch::image(&self.shared, &registry, served, wanted, &progress).await
        };
        let id = pull.await.map_err(|why| self.advised(why)).context(|| format!("pull {from}"))?;
        self.by_id(&id)
    }

    pub(crate) fn by_id(&self, id: &Digest) -> Result<Arc<Image>> {
        let id = id.to_string();
        let found = self.shared.index.load()?.1.iter().find(|image| image.id == id).cloned();
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("image {id} was removed meanwhile")))
    }

    /// All images, sorted by id.
    pub fn images(&self) -> Vec<Arc<Image>> {
        match self.shared.index.load() {
            Ok((_, images)) => images.to_vec(),
            Err(why) => {
                tracing::error!(%why, "the image index cannot be read");
                Vec::new()
            }
        }
    }

    /// An image by a reference in any spelling, by `name@digest`, by a bare digest of its manifest, by its id with
    /// or without `sha256:`, or by a prefix of the id that fits one image only.
    pub fn image(&self, name: &str) -> Option<Arc<Image>> {
        crate::lookup::find(&self.images(), name)
    }

    /// Removes the image that `name` (as for [`Store::image`]) finds, with all its names, and then whatever content
    /// nothing needs any more; layers under a root filesystem stay until that is released. `false` if there was none.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub async fn remove(&self, name: &str) -> Result<bool> {
        let Some(image) = self.image(name) else { return Ok(false) };
        let id: Digest = image.id.parse()?;
        let shared = self.shared.clone();
        let removed = blocking(move || shared.index.change(|record| Ok(record.remove(&id)))).await;
        let removed = removed.map_err(|why| self.advised(why))?;
        self.collect().await?;
        Ok(removed)
    }

    /// Takes one tag or digest name off an image; removes the image with its last name. `false` if there was none.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub async fn untag(&self, name: &Reference) -> Result<bool> {
        let name = match name.digest() {
            Some(digest) => name.digested(digest),
            None => name.to_string(),
        };
        let shared = self.shared.clone();
        let found = blocking(move || shared.index.change(|record| Ok(record.untag(&name)))).await;
        let found = found.map_err(|why| self.advised(why))?;
        self.collect().await?;
        Ok(found)
    }

    /// Gives an image one more name; the name moves if another image has it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if `image` finds nothing.
    pub async fn tag(&self, image: &str, name: &Reference) -> Result<Arc<Image>> {
        let missing = || Error::new(Kind::NotFound, format!("image {image:?} was removed meanwhile"));
        let id: Digest = self.require(image)?.id.parse()?;
        let tag = name.tagged().filter(|_| name.digest().is_none());
        let tag = tag.ok_or_else(|| Error::new(Kind::InvalidArgument, format!("{name} is no tag")))?;
        let (shared, of) = (self.shared.clone(), id.clone());
        let tagged = blocking(move || shared.index.change(|record| Ok(record.tag(&of, tag)))).await;
        match tagged.map_err(|why| self.advised(why))? {
            true => self.by_id(&id),
            false => Err(missing()),
        }
    }

    /// Space that blobs and unpacked layers take (not the containers' own writes). Taken from records, not measured, so
    /// that it may be asked often.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub async fn usage(&self) -> Result<Usage> {
        let shared = self.shared.clone();
        blocking(move || {
            let mut usage = Usage::default();
            for (_, bytes) in shared.blobs.list()? {
                usage = Usage { bytes: usage.bytes + bytes, inodes: usage.inodes + 1 };
            }
            for key in shared.layers.list()? {
                if let Some(facts) = shared.layers.facts(&key)? {
                    usage = Usage { bytes: usage.bytes + facts.bytes, inodes: usage.inodes + facts.inodes };
                }
            }
            Ok(usage)
        })
        .await
    }

    /// Mounts a root filesystem of the image (by [`Image::id`]) for `key`, usually a container id:
    /// `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`. Unpacks layers that are missing. Idempotent: the same key again gives the
    /// same mount; after a reboot it is mounted anew with what the container had written.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such an image; [`Kind::Conflict`] if the key belongs to another image.
    pub async fn rootfs(&self, image_id: &str, key: &str) -> Result<Rootfs> {
        self.rootfs_shifted(image_id, key, None).await
    }

    /// The same for a container in a user namespace: the image's files show the owners that the namespace gives them,
    /// by mounts with mapped ids, or where the kernel has none under overlays (before 5.19) by a copy. A container that
    /// is mounted again needs the same `shift` again.
    ///
    /// # Errors
    /// As [`Store::rootfs`].
    pub async fn rootfs_shifted(&self, image_id: &str, key: &str, shift: Option<Shift>) -> Result<Rootfs> {
        rootfs::check_key(key)?;
        let _one = self.shared.flights.lock(format!("rootfs {key}")).await;
        let mount = async {
            let mut lease = self.shared.leases.begin()?;
            let layers = self.layers_for(self.shared.rootfses.record(key)?, image_id, &mut lease).await?;
            let (image_id, driver) = (image_id.to_owned(), self.shared.config.rootfs);
            let wanted = Plan { image_id, layers, driver, shift, mount: None };
            let (shared, owned) = (self.shared.clone(), key.to_owned());
            blocking(move || shared.rootfses.mount(&owned, &wanted, &shared.layers)).await
        };
        let paths = mount.await.map_err(|why| self.advised(why)).context(|| format!("rootfs {key} of {image_id}"))?;
        self.shared.uses.touch(&image_id.parse()?);
        Ok(Rootfs { path: paths.merged, upper: paths.upper, image_id: image_id.to_owned() })
    }

    /// The layers that a root filesystem stands on, lowest first.
    pub(crate) async fn layers_for(
        &self,
        record: Option<rootfs::Record>,
        image_id: &str,
        lease: &mut Lease,
    ) -> Result<Vec<Key>> {
        let record = record.filter(|record| record.image_id == image_id);
        let shared = self.shared.clone();
        let whole = move || {
            let Some(record) = record else { return Ok(None) };
            for key in &record.layers {
                if !sound::is_whole(&shared, key, Trust::SinceBoot)? {
                    return Ok(None);
                }
            }
            Ok(Some(record))
        };
        match blocking(whole).await? {
            // What is mounted, or was before a reboot, does not depend on the image any more.
            Some(record) => Ok(record.layers),
            None => self.unpacked(image_id, lease).await,
        }
    }

    /// The layers of an image, lowest first; what is missing is unpacked from its blobs.
    pub(crate) async fn unpacked(&self, image_id: &str, lease: &mut Lease) -> Result<Vec<Key>> {
        let record = self.shared.index.load()?.0;
        let entry = record.images.iter().find(|entry| entry.config.to_string() == image_id);
        let entry = entry.ok_or_else(|| Error::new(Kind::NotFound, format!("image {image_id} is not here")))?;
        let positions = positions(entry);
        for (layer, position) in entry.layers.iter().zip(&positions) {
            lease.blob(&layer.digest);
            lease.layer(&Key::alone(&position.diff_id));
            lease.layer(&Key::chained(&position.chain_id));
        }
        let (shared, all) = (self.shared.clone(), positions.clone());
        let find = move || all.iter().map(|position| sound::layer(&shared, position, Trust::SinceBoot)).collect();
        let found: Vec<Option<Key>> = blocking(find).await?;
        if let Some(keys) = found.into_iter().collect() {
            return Ok(keys);
        }
        let blobs: Vec<Descriptor> =
            entry.layers.iter().map(|layer| Descriptor::plain(&layer.digest, layer.size)).collect();
        fetch::all_layers(&self.shared, &crate::source::Nowhere, &blobs, &positions, &crate::options::quiet()).await
    }

    /// Unmounts and deletes a root filesystem and what was written to it. Idempotent.
    ///
    /// # Errors
    /// [`Kind::System`] for the mount or the disk; call again later.
    pub async fn release_rootfs(&self, key: &str) -> Result<()> {
        rootfs::check_key(key)?;
        let _one = self.shared.flights.lock(format!("rootfs {key}")).await;
        let (shared, owned) = (self.shared.clone(), key.to_owned());
        blocking(move || {
            shared.measured.forget(&shared.rootfses.paths(&owned).home);
            shared.rootfses.release(&owned, &shared.layers)
        })
        .await
        .context(|| format!("release rootfs {key}"))
    }

    /// Space that a container's own writes take; where its root filesystem is a copy, all of it. Measured by a walk. A
    /// large tree is measured again only after twenty times as long as that took, so that asking often stays cheap.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such a key.
    pub async fn rootfs_usage(&self, key: &str) -> Result<Usage> {
        rootfs::check_key(key)?;
        let (shared, key) = (self.shared.clone(), key.to_owned());
        blocking(move || {
            let missing = || Error::new(Kind::NotFound, format!("rootfs {key} is not here"));
            let (writes, _) = shared.rootfses.writes(&key)?.ok_or_else(missing)?;
            if !writes.is_dir() {
                return Err(missing());
            }
            shared.measured.of(&writes)
        })
        .await
    }

    /// When a root filesystem of the image was last made, else when the image came: nanoseconds since 1970.
    pub fn last_used(&self, image: &Image) -> u64 {
        let id: Option<Digest> = image.id.parse().ok();
        id.and_then(|id| self.shared.uses.last(&id)).unwrap_or(0).max(image.stored_at)
    }

    /// Every key with something on disk, mounted or not: what is no container's is garbage of a crash.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub fn rootfs_keys(&self) -> Result<BTreeSet<String>> {
        self.shared.rootfses.keys()
    }
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn positions(entry: &Entry) -> Vec<Position> {
    let file = |layer: &Layer| layer.file.clone().map(|name| File { name, blob: layer.digest.clone() });
    artifact::placed(entry.layers.iter().map(|layer| (layer.diff_id.clone(), file(layer))).collect())
}

/// What readers see of a record. An image whose configuration is lost is left out: the next pull fetches it again.
fn view(
    blobs: &Blobs,
    limit: u64,
    record: &Record,
    cache: &mut HashMap<Digest, ImageConfiguration>,
) -> Vec<Arc<Image>> {
    cache.retain(|digest, _| record.images.iter().any(|entry| entry.config == *digest));
    let mut images = Vec::with_capacity(record.images.len());
    for entry in &record.images {
        let config = match cache.get(&entry.config) {
            Some(config) => Some(config.clone()),
            None if entry.artifact.is_some() => Some(ImageConfiguration::default()),
            None => blobs.read_small(&entry.config, limit).ok().flatten().and_then(|body| {
                let config = fetch::parse_configuration(&body).ok()?;
                cache.insert(entry.config.clone(), config.clone());
                Some(config)
            }),
        };
        let Some(config) = config else {
            tracing::error!(image = %entry.config, "the configuration is lost; pull the image again");
            continue;
        };
        images.push(Arc::new(Image {
            id: entry.config.to_string(),
            manifest: entry.manifest.clone(),
            repo_tags: entry.tags.iter().cloned().collect(),
            repo_digests: entry.digests.iter().cloned().collect(),
            size: entry.size,
            pinned: entry.pinned,
            artifact: entry.artifact.clone(),
            created: config.created().clone(),
            stored_at: entry.stored_at,
            config,
        }));
    }
    images
}
