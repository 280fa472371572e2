//! The store as its users see it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;

use crate::config::Config;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::options::{Progress, PullOptions};
use crate::reference::Reference;

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of its configuration, `sha256:…`; the name that CRI gives back.
    pub id: String,
    /// The digest of its manifest (for a multi-platform image, of the manifest chosen).
    pub manifest: Digest,
    /// Full names with tags, `host/path:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// Full names with digests, `host/path@sha256:…`, sorted; also the digest of the index that led here.
    pub repo_digests: Vec<String>,
    /// Bytes of manifest, configuration and layers as transferred.
    pub size: u64,
    /// The image configuration: user, environment, entry point, volumes, ...
    pub config: ImageConfiguration,
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

struct Shared {
    config: Config,
}

fn not_yet(what: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{what}: not in this build"))
}

impl Store {
    /// Opens the store, creating it where it is missing, and clears away what a crash left behind.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk; [`Kind::Invalid`] if `index.json` is of a newer version or damaged.
    pub fn open(config: Config) -> Result<Self> {
        Ok(Self { shared: Arc::new(Shared { config }) })
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
    pub async fn pull(&self, _from: &Reference, _options: &PullOptions, _progress: Progress) -> Result<Arc<Image>> {
        Err(not_yet("pull"))
    }

    /// Reads an OCI layout directory, or a tar archive of one, into the store. `name` names the image if the
    /// layout holds exactly one; otherwise names come from its `org.opencontainers.image.ref.name` annotations.
    ///
    /// # Errors
    /// As [`Store::pull`], for the content.
    pub async fn import(&self, _path: &Path, _name: Option<Reference>) -> Result<Vec<Arc<Image>>> {
        Err(not_yet("import"))
    }

    /// All images, sorted by id.
    pub fn images(&self) -> Vec<Arc<Image>> {
        Vec::new()
    }

    /// An image by a reference in any spelling, by `name@digest`, by a bare digest of its manifest, by its id with
    /// or without `sha256:`, or by a prefix of the id that fits one image only.
    pub fn image(&self, _name: &str) -> Option<Arc<Image>> {
        None
    }

    /// Removes the image that `name` (as for [`Store::image`]) finds, with all its names, and then whatever content
    /// nothing needs any more; layers under a root filesystem stay until that is released. `false` if there was none.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub async fn remove(&self, _name: &str) -> Result<bool> {
        Err(not_yet("remove"))
    }

    /// Takes one tag or digest name off an image; removes the image with its last name. `false` if there was none.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub async fn untag(&self, _name: &Reference) -> Result<bool> {
        Err(not_yet("untag"))
    }

    /// Gives an image one more name; the name moves if another image has it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if `image` finds nothing.
    pub async fn tag(&self, _image: &str, _name: &Reference) -> Result<Arc<Image>> {
        Err(not_yet("tag"))
    }

    /// Space that blobs and unpacked layers take (not the containers' own writes).
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub async fn usage(&self) -> Result<Usage> {
        Err(not_yet("usage"))
    }

    /// Mounts a root filesystem of the image (by [`Image::id`]) for `key`, usually a container id:
    /// `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`. Unpacks layers that are missing. Idempotent: the same key again gives the
    /// same mount; after a reboot it is mounted anew with what the container had written.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such an image; [`Kind::Conflict`] if the key belongs to another image.
    pub async fn rootfs(&self, _image_id: &str, _key: &str) -> Result<Rootfs> {
        Err(not_yet("rootfs"))
    }

    /// Unmounts and deletes a root filesystem and what was written to it. Idempotent.
    ///
    /// # Errors
    /// [`Kind::System`] for the mount or the disk; call again later.
    pub async fn release_rootfs(&self, _key: &str) -> Result<()> {
        Err(not_yet("release rootfs"))
    }

    /// Space that a container's own writes take.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such a key.
    pub async fn rootfs_usage(&self, _key: &str) -> Result<Usage> {
        Err(not_yet("rootfs usage"))
    }

    /// Every key with something on disk, mounted or not: what is no container's is garbage of a crash.
    ///
    /// # Errors
    /// [`Kind::System`] for the disk.
    pub fn rootfs_keys(&self) -> Result<BTreeSet<String>> {
        Ok(BTreeSet::new())
    }
}
