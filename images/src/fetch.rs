//! From a document to an image in the store: manifest, configuration, layers; each fetched only if it is not here.
//!
//! ```text
//! document ─ index? choose ─> manifest ─> configuration ─> diff ids ─┬─ layer 0: download ─> unpack ─> commit ─┐
//!                                                                     ├─ layer 1: …             (waits for 0    ├─> index
//!                                                                     └─ layer 2: …              where it must) ┘
//! ```
//! Two locks a layer, always taken in this order: its chain id (one unpack), its blob (one download). A chain waits
//! only for shorter chains and a blob's holder waits for nobody, so there is no cycle.

use std::collections::BTreeSet;
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use tokio::sync::{Semaphore, watch};

use crate::artifact;
use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::index::{Entry, Layer};
use crate::intake::{self, Intake};
use crate::layers::{Key, Position, Unpacked};
use crate::manifest::{Descriptor, Manifest};
use crate::options::{Event, Platform, Progress};
use crate::resolve::{self, Resolved};
use crate::sound::{self, Trust};
use crate::source::{self, Served, Source};
use crate::store::{Shared, blocking};

/// What the image will be called, and which one of an index it is.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) tags: BTreeSet<String>,
    pub(crate) digests: BTreeSet<String>,
    pub(crate) platform: Platform,
    pub(crate) pinned: bool,
    /// Nanoseconds since 1970.
    pub(crate) now: u64,
}

/// Brings the image that `served` describes into the store; its id.
pub(crate) async fn image<S: Source>(
    shared: &Arc<Shared>,
    from: &S,
    served: Served,
    wanted: Wanted,
    progress: &Progress,
) -> Result<Digest> {
    let mut lease = shared.leases.begin()?;
    let found = resolve::manifest(shared, from, served, &wanted.platform, &mut lease, progress).await?;
    let Resolved { served, manifest, documents } = found;
    lease.blob(&manifest.config.digest);
    let config = configuration(shared, from, &manifest, progress).await?;
    let positions = positions(&config, &manifest)?;
    let layers = manifest.layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect();
    progress(Event::Resolved { manifest: served.digest.clone(), layers });
    for (layer, position) in manifest.layers.iter().zip(&positions) {
        lease.blob(&layer.digest);
        lease.layer(&Key::alone(&position.diff_id));
        lease.layer(&Key::chained(&position.chain_id));
    }
    all_layers(shared, from, &manifest.layers, &positions, progress).await?;
    crate::labels::warn(&served.digest, &config);
    let entry = entry(&manifest, &positions, &served, documents, wanted);
    let id = entry.config.clone();
    let shared = shared.clone();
    blocking(move || {
        shared.index.change(|record| {
            record.add(entry);
            Ok(())
        })
    })
    .await?;
    Ok(id)
}

/// The image configuration, from the store if it is there; stored else.
pub(crate) async fn configuration<S: Source>(
    shared: &Arc<Shared>,
    from: &S,
    manifest: &Manifest,
    progress: &Progress,
) -> Result<ImageConfiguration> {
    let wanted = &manifest.config;
    let limit = shared.config.limits.config_bytes;
    let body = match shared.blobs.read_small(&wanted.digest, limit)? {
        Some(body) => body,
        None => fetch_configuration(shared, from, wanted, progress).await?,
    };
    match manifest.artifact {
        Some(_) => Ok(ImageConfiguration::default()),
        None => parse_configuration(&body).context(|| format!("image configuration {}", wanted.digest)),
    }
}

/// One request, however many ask for it at once.
async fn fetch_configuration<S: Source>(
    shared: &Arc<Shared>,
    from: &S,
    wanted: &Descriptor,
    progress: &Progress,
) -> Result<Vec<u8>> {
    let turn = shared.flights.lock(format!("blob {}", wanted.digest)).await;
    let limit = shared.config.limits.config_bytes;
    if let Some(body) = shared.blobs.read_small(&wanted.digest, limit)? {
        return Ok(body);
    }
    turn.failure(&from.party())?;
    let body = source::whole(from, wanted, limit, progress).await.inspect_err(|why| turn.failed(&from.party(), why))?;
    let (shared, digest, copy) = (shared.clone(), wanted.digest.clone(), body.clone());
    blocking(move || shared.blobs.put(&digest, &copy)).await?;
    Ok(body)
}

/// Reads an image configuration.
pub(crate) fn parse_configuration(body: &[u8]) -> Result<ImageConfiguration> {
    serde_json::from_slice(body).map_err(|why| Error::caused(Kind::Invalid, "not an OCI configuration", why))
}

pub(crate) fn positions(config: &ImageConfiguration, manifest: &Manifest) -> Result<Vec<Position>> {
    if manifest.artifact.is_some() {
        return artifact::positions(manifest);
    }
    let diff_ids = config.rootfs().diff_ids().iter().map(|text| text.parse()).collect::<Result<Vec<Digest>>>();
    let diff_ids = diff_ids.context(|| "image configuration")?;
    if diff_ids.len() != manifest.layers.len() {
        let why = format!("{} layers, but {} diff ids in the configuration", manifest.layers.len(), diff_ids.len());
        return Err(Error::new(Kind::Invalid, why));
    }
    Ok(artifact::placed(diff_ids.into_iter().map(|diff_id| (diff_id, None)).collect()))
}

/// What the index says of an image.
pub(crate) fn entry(
    manifest: &Manifest,
    positions: &[Position],
    served: &Served,
    mut documents: BTreeSet<Digest>,
    wanted: Wanted,
) -> Entry {
    let (mut config, mut config_size) = (manifest.config.digest.clone(), manifest.config.size);
    if manifest.artifact.is_some() {
        documents.insert(config);
        (config, config_size) = (served.digest.clone(), served.body.len() as u64);
    }
    let layer = |(layer, position): (&Descriptor, &Position)| Layer {
        digest: layer.digest.clone(),
        size: layer.size,
        diff_id: position.diff_id.clone(),
        file: position.file.as_ref().map(|file| file.name.clone()),
    };
    let sizes: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
    Entry {
        config,
        artifact: manifest.artifact.clone(),
        config_size,
        manifest: served.digest.clone(),
        documents,
        layers: manifest.layers.iter().zip(positions).map(layer).collect(),
        tags: wanted.tags,
        digests: wanted.digests,
        size: sizes + manifest.config.size + served.body.len() as u64,
        pinned: wanted.pinned,
        stored_at: wanted.now,
    }
}

/// Brings all layers here, several at a time; their keys, lowest first.
pub(crate) async fn all_layers<S: Source>(
    shared: &Arc<Shared>,
    from: &S,
    layers: &[Descriptor],
    positions: &[Position],
    progress: &Progress,
) -> Result<Vec<Key>> {
    let permits = Semaphore::new(shared.config.parallel_downloads.max(1));
    let ready: Vec<watch::Sender<Option<Key>>> = layers.iter().map(|_| watch::Sender::new(None)).collect();
    let tasks = layers.iter().zip(positions).enumerate().map(|(at, (layer, position))| {
        let task = OneLayer { shared, from, layer, position, progress, below: &ready[..at] };
        let (permits, ready) = (&permits, &ready[at]);
        async move {
            let key = task.run(permits).await.context(|| format!("layer {}", layer.digest))?;
            ready.send_replace(Some(key.clone()));
            Ok(key)
        }
    });
    futures_util::future::try_join_all(tasks).await
}

struct OneLayer<'a, S> {
    shared: &'a Arc<Shared>,
    from: &'a S,
    layer: &'a Descriptor,
    position: &'a Position,
    progress: &'a Progress,
    below: &'a [watch::Sender<Option<Key>>],
}

impl<S: Source> OneLayer<'_, S> {
    async fn run(&self, permits: &Semaphore) -> Result<Key> {
        let turn = self.shared.flights.lock(format!("chain {}", self.position.chain_id)).await;
        let (shared, position) = (self.shared.clone(), self.position.clone());
        let here = blocking(move || sound::layer(&shared, &position, Trust::OwnEyes)).await?;
        if let Some(key) = here {
            self.keep_blob(permits).await?;
            (self.progress)(Event::Exists(self.layer.digest.clone()));
            return Ok(key);
        }
        turn.failure(&self.from.party())?;
        let unpacked = self.content(permits).await.inspect_err(|why| turn.failed(&self.from.party(), why))?;
        let below = match unpacked.is_alone() {
            true => Vec::new(),
            false => self.keys_below().await?,
        };
        let (shared, position) = (self.shared.clone(), self.position.clone());
        let key = blocking(move || shared.layers.commit(unpacked, &position, &below, &shared.sync)).await?;
        (self.progress)(Event::Done(self.layer.digest.clone()));
        Ok(key)
    }

    async fn keys_below(&self) -> Result<Vec<Key>> {
        let mut keys = Vec::with_capacity(self.below.len());
        for layer in self.below {
            let gone = |_| Error::new(Kind::System, "a layer below was given up");
            let key = layer.subscribe().wait_for(Option::is_some).await.map_err(gone)?.clone();
            keys.extend(key);
        }
        Ok(keys)
    }

    /// The layer unpacked, from the blob that is here or from the source.
    async fn content(&self, permits: &Semaphore) -> Result<Unpacked> {
        let download = self.shared.flights.lock(format!("blob {}", self.layer.digest)).await;
        let _permit = permits.acquire().await.map_err(given_up)?;
        if !self.shared.blobs.has(&self.layer.digest, self.layer.size) {
            return self.download_and_unpack().await;
        }
        drop(download);
        (self.progress)(Event::Exists(self.layer.digest.clone()));
        match intake::unpack_blob(self.shared, self.layer, self.position).await {
            Err(why) if why.kind() == Kind::Invalid => {
                // The blob was good when it was committed; the disk has changed it since, or the image lies.
                tracing::warn!(layer = %self.layer.digest, %why, "a damaged blob is fetched again");
                self.shared.blobs.remove(&self.layer.digest)?;
                let _download = self.shared.flights.lock(format!("blob {}", self.layer.digest)).await;
                self.download_and_unpack().await
            }
            other => other,
        }
    }

    /// Fetches the blob of a layer that is unpacked already: a damaged blob was removed, or another image brought the
    /// same layer in another packing. Without it the layer could not be unpacked again, nor the image exported.
    async fn keep_blob(&self, permits: &Semaphore) -> Result<()> {
        let _download = self.shared.flights.lock(format!("blob {}", self.layer.digest)).await;
        let _permit = permits.acquire().await.map_err(given_up)?;
        match self.from.has_blobs() && !self.shared.blobs.has(&self.layer.digest, self.layer.size) {
            true => self.download(|_, _| Ok(())).await,
            false => Ok(()),
        }
    }

    async fn download_and_unpack(&self) -> Result<Unpacked> {
        let (position, size) = (self.position.clone(), self.layer.size);
        let unpack = move |shared: &Shared, intake: &mut Intake| {
            shared.layers.unpack(intake, size, &position, &shared.config.limits)
        };
        self.download(unpack).await
    }

    async fn download<T, F>(&self, take: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Shared, &mut Intake) -> Result<T> + Clone + Send + 'static,
    {
        let stream = || intake::stream(self.shared, self.from, self.layer, take.clone(), self.progress);
        match stream().await {
            // What an earlier download had left was wrong (a power cut loses unsynced data), or what a mirror sent: once
            // more from the start, and from others first. A blob that is here was good, and its image is not.
            Err(failed)
                if failed.why.kind() == Kind::Invalid
                    && (failed.continued || !self.shared.blobs.has(&self.layer.digest, self.layer.size)) =>
            {
                tracing::warn!(layer = %self.layer.digest, why = %failed.why, "the download starts over");
                stream().await.map_err(|failed| failed.why)
            }
            other => other.map_err(|failed| failed.why),
        }
    }
}

fn given_up<T>(_: T) -> Error {
    Error::new(Kind::System, "the pull was given up")
}
