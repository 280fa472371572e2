//! What the store is told once, when it opens: where it lives, which registries speak plain http, how much
//! it believes of what strangers send.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::network::Network;

/// Everything that can be set. `Config::at(root)` has the defaults.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The store's directory; created with mode 0700. Blobs, layers and root filesystems share it, so it must be
    /// on one filesystem that overlayfs accepts as an upper directory (ext4, xfs, btrfs, tmpfs).
    pub root: PathBuf,
    /// A directory in containerd's layout, `HOST[_PORT_]/hosts.toml` and `_default/hosts.toml`, or several of them,
    /// joined by colons as in containerd's `config_path`: the first that has a registry's directory decides. None by
    /// default.
    pub hosts_dir: Option<PathBuf>,
    /// Files with logins in Docker's or podman's form (`config.json`, `auth.json`, `.dockercfg`), the first that has
    /// one for a registry decides; one that does not exist has none. For a user's own: [`crate::credentials::of_user`].
    pub credentials: Vec<PathBuf>,
    /// Plain http for `localhost`, `127.0.0.0/8` and `[::1]` where hosts.toml says nothing.
    pub plain_http_loopback: bool,
    /// Further hosts (`name` or `name:port`) that speak plain http.
    pub plain_http: Vec<String>,
    /// What layers are unpacked as from now on; those that are here stay as they are.
    pub layers: LayerForm,
    /// How the root filesystem of a container is made.
    pub rootfs: RootfsDriver,
    /// Blobs fetched at the same time for one image.
    pub parallel_downloads: usize,
    /// Patience with registries, and the way to them.
    pub network: Network,
    /// Sizes that hostile content may not exceed.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/gantry/images"),
            hosts_dir: None,
            credentials: Vec::new(),
            plain_http_loopback: true,
            plain_http: Vec::new(),
            layers: LayerForm::Auto,
            rootfs: RootfsDriver::Auto,
            parallel_downloads: 3,
            network: Network::default(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// The defaults with another directory.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), ..Self::default() }
    }
}

/// What a layer is unpacked as.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerForm {
    /// Whichever serves better here: directories at present (ARCHITECTURE.md says why).
    #[default]
    Auto,
    /// A tree of files.
    Directories,
    /// One EROFS image a layer, mounted from its file: Linux 6.12 or later. Opening the store fails without it.
    Erofs,
}

/// How a root filesystem is made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootfsDriver {
    /// An overlay, or a copy where the kernel or the store's filesystem refuses overlays.
    #[default]
    Auto,
    /// An overlay over the image's layers.
    Overlay,
    /// A copy of the image a container, sharing blocks where the filesystem can (btrfs, xfs).
    Copy,
}

/// Upper bounds; content beyond one is refused with [`Kind::TooLarge`](crate::Kind::TooLarge).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a manifest or index (the distribution specification asks for at least 4 MiB).
    pub manifest_bytes: u64,
    /// Bytes of an image configuration.
    pub config_bytes: u64,
    /// Bytes of one layer as transferred.
    pub layer_bytes: u64,
    /// Bytes of one layer after decompression.
    pub unpacked_bytes: u64,
    /// Decompressed to transferred bytes of one layer, once 64 MiB have been unpacked.
    pub ratio: u64,
    /// Bytes of the window of a zstd frame, which unpacking holds in memory; level 20 of zstd asks for 32 MiB.
    pub zstd_window: u64,
    /// Files, directories and links in one layer.
    pub entries: u64,
    /// Layers of one image; overlayfs itself ends at 500 lower directories.
    pub layers: usize,
    /// Entries of an index.
    pub index_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            manifest_bytes: 4 * MIB,
            config_bytes: 4 * MIB,
            layer_bytes: 64 << 30,
            unpacked_bytes: 256 << 30,
            ratio: 1100,
            zstd_window: crate::unpack::packing::WINDOW,
            entries: 10_000_000,
            layers: 256,
            index_entries: 1024,
        }
    }
}
