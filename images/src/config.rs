//! What the store is told once, when it opens: where it lives, which registries speak plain http, how much
//! it believes of what strangers send.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::amount::Span;
use crate::error::{Error, Kind, Result};
use crate::garbage::{Mark, Rules};
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
    /// Hosts (`name` or `name:port`) whose certificates are not checked where hosts.toml says nothing.
    pub insecure: Vec<String>,
    /// Images that are never collected as garbage: full names, `*` and `?` stand for any text and any character.
    pub pinned: Vec<String>,
    /// What layers are unpacked as from now on; those that are here stay as they are.
    pub layers: LayerForm,
    /// How the root filesystem of a container is made.
    pub rootfs: RootfsDriver,
    /// Blobs fetched at the same time for one image.
    pub parallel_downloads: usize,
    /// Patience with registries, and the way to them.
    pub network: Network,
    /// What the daemon collects by itself.
    pub garbage: Garbage,
    /// Sizes that hostile content may not exceed.
    pub limits: Limits,
}

/// Automatic collection. Content that nothing needs always goes; images only by these rules, which are off by default,
/// because the kubelet collects images by rules of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Garbage {
    /// How often; `0`: never.
    pub interval: Span,
    /// Images that no container has used for so long; `0`: none.
    pub max_age: Span,
    /// No image that was pulled or used more recently.
    pub min_age: Span,
    /// Images without a tag.
    pub untagged: bool,
    /// When the filesystem (`85%`) or the store (`20GiB`) is so full, the least recently used images go ...
    pub high: Option<Mark>,
    /// ... until it is no fuller than this.
    pub low: Option<Mark>,
}

impl Default for Garbage {
    fn default() -> Self {
        let (interval, min_age) = (Span(Duration::from_secs(300)), Span(Duration::from_secs(120)));
        Self { interval, max_age: Span::default(), min_age, untagged: false, high: None, low: None }
    }
}

impl Garbage {
    /// As rules; without [`Garbage::check`] having found anything.
    pub fn rules(&self) -> Rules {
        Rules {
            untagged: self.untagged,
            max_age: Some(self.max_age.0).filter(|age| !age.is_zero()),
            min_age: self.min_age.0,
            marks: self.high.zip(self.low),
            ..Rules::default()
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::new(Kind::InvalidArgument, format!("garbage: {why}")));
        match (self.high, self.low) {
            (None, None) => {}
            (Some(Mark::Percent(high)), Some(Mark::Percent(low))) if low <= high => {}
            (Some(Mark::Bytes(high)), Some(Mark::Bytes(low))) if low <= high => {}
            (Some(high), Some(low)) => {
                return wrong(format!(
                    "low ({low}) must be a mark of the same kind as high ({high}), and not above it"
                ));
            }
            _ => return wrong("high and low go together".into()),
        }
        if !self.max_age.0.is_zero() && self.max_age.0 < self.min_age.0 {
            return wrong(format!("max_age ({}) is shorter than min_age ({})", self.max_age, self.min_age));
        }
        match self.interval.0.as_secs() {
            1..10 => wrong(format!("interval ({}) is shorter than 10s", self.interval)),
            _ => Ok(()),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/gantry/images"),
            hosts_dir: None,
            credentials: Vec::new(),
            plain_http_loopback: true,
            plain_http: Vec::new(),
            insecure: Vec::new(),
            pinned: Vec::new(),
            layers: LayerForm::Auto,
            rootfs: RootfsDriver::Auto,
            parallel_downloads: 3,
            network: Network::default(),
            garbage: Garbage::default(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] naming the key.
    pub fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::new(Kind::InvalidArgument, why));
        if !self.root.is_absolute() {
            return wrong(format!("root: {} is not an absolute path", self.root.display()));
        }
        for dir in self.hosts_dir.iter().flat_map(|dirs| std::env::split_paths(dirs).collect::<Vec<_>>()) {
            if !dir.is_absolute() {
                return wrong(format!("hosts_dir: {} is not an absolute path", dir.display()));
            }
        }
        for file in &self.credentials {
            if !file.is_absolute() {
                return wrong(format!("credentials: {} is not an absolute path", file.display()));
            }
        }
        if self.parallel_downloads == 0 {
            return wrong("parallel_downloads: at least 1".into());
        }
        for name in self.plain_http.iter().chain(&self.insecure) {
            if name.is_empty() || name.contains('/') {
                return wrong(format!("plain_http, insecure: {name:?} is neither a host nor host:port"));
            }
        }
        self.garbage.check()
    }

    /// Whether an image of this name is never collected.
    pub(crate) fn pins(&self, name: &str) -> bool {
        self.pinned.iter().any(|pattern| crate::lookup::like(name, pattern))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        match toml::from_str::<Config>(text) {
            Ok(config) => config.check().map_or_else(|why| why.to_string(), |()| "fine".into()),
            Err(why) => why.message().to_owned(),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "fine"),
            ("[garbage]\nhigh = \"85%\"\nlow = \"80%\"\nmax_age = \"30d\"\nuntagged = true", "fine"),
            ("[garbage]\nhigh = \"20GiB\"\nlow = \"10GiB\"", "fine"),
            ("[garbage]\ninterval = \"0\"", "fine"),
            ("[garbage]\nhigh = \"85%\"", "garbage: high and low go together"),
            ("[garbage]\nhigh = \"80%\"\nlow = \"85%\"", "low (85%) must be"),
            ("[garbage]\nhigh = \"80%\"\nlow = \"1GiB\"", "same kind"),
            ("[garbage]\nhigh = \"101%\"\nlow = \"1%\"", "mark \"101%\""),
            ("[garbage]\nmax_age = \"1s\"", "shorter than min_age"),
            ("[garbage]\nmax_age = \"soon\"", "duration \"soon\""),
            ("[garbage]\ninterval = \"1s\"", "shorter than 10s"),
            ("[garbage]\nhihg = \"1%\"", "hihg"),
            ("root = \"images\"", "root: images is not an absolute path"),
            ("hosts_dir = \"/a:b\"", "hosts_dir: b"),
            ("credentials = [\"x\"]", "credentials: x"),
            ("parallel_downloads = 0", "parallel_downloads"),
            ("plain_http = [\"http://x\"]", "neither a host"),
            ("layers = \"tar\"", "tar"),
            ("[limits]\nlayer = 1", "layer"),
        ] {
            assert!(said(text).contains(part), "{text}: {}", said(text));
        }
    }

    #[test]
    fn a_written_configuration_is_read_back() {
        let text = "[garbage]\nhigh = \"85%\"\nlow = \"80%\"\nmax_age = \"36h\"";
        let config: Config = toml::from_str(text).unwrap();
        let rules = config.garbage.rules();
        assert_eq!(rules.marks, Some((Mark::Percent(85), Mark::Percent(80))));
        assert_eq!(rules.max_age, Some(Duration::from_secs(36 * 3600)));
        let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again.garbage.rules(), rules);
        assert_eq!(Config::default().garbage.rules(), Rules { min_age: Duration::from_secs(120), ..Rules::default() });
    }
}
