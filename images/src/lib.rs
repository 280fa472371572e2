//! Gantry's image store: pulls or imports OCI and Docker images into a content-addressed directory, unpacks
//! their layers and mounts one overlay root filesystem a container.
//!
//! ```no_run
//! # async fn demo() -> gantry_images::Result<()> {
//! use gantry_images::{Config, PullOptions, Store, quiet};
//! let store = Store::open(Config::at("/var/lib/gantry/images"))?;
//! let image = store.pull(&"127.0.0.1:5000/web:1".parse()?, &PullOptions::default(), quiet()).await?;
//! let rootfs = store.rootfs(&image.id, "container-1").await?;
//! println!("{} is at {}", image.id, rootfs.path.display());
//! store.release_rootfs("container-1").await?;
//! # Ok(()) }
//! ```
//!
//! # The store on disk (everything 0700 below the root)
//!
//! ```text
//! index.json              which images there are: names, manifest, layers. Versioned, replaced atomically
//! index.old.json          the same before the last change, for the day on which the first cannot be read
//! lock                    flock: writers of index.json, also from other processes
//! in-use, sweep           flock: shared by pulls, exclusive for the garbage collector; one collector at a time
//! blobs/sha256/HEX        manifests, configurations, layers as transferred; here only once verified and synced
//! ingest/sha256-HEX       downloads under way; each flocked by its owner, resumed after a crash
//! layers/KEY/             unpacked layers in overlayfs form, as diff/ or image.erofs (mounted on mnt/ while a container
//!                         needs it); here only once verified and synced
//! unpack/NAME             layers being unpacked; removed at the next open if their owner died
//! used/HEX                when an image was last used: the file's time
//! mounts/KEY/             the same for images mounted elsewhere
//! rootfs/KEY/             record.json, upper, work, merged: one container's root filesystem
//! ```
//!
//! # Invariants
//!
//! - Nothing has its final name before its digest was checked and its data reached the disk, so whatever can be
//!   seen under `blobs/` and `layers/` is whole, whenever the power was cut.
//! - `index.json` is the truth: an image exists when it is named there; all else is garbage or cache.
//! - Only a reboot can lose what was written: `boot`, here and beside each layer, says in which one it was looked at last,
//!   and the next use looks again ([`Store::verify`] reads everything).
//! - Names out of a layer are resolved only by [`unpack::tree`], inside the layer's directory and never through a
//!   symbolic link (SECURITY_CASES 13).
//! - Credentials are sent to the host that they were given for and are never printed (case 27).

#![forbid(unsafe_code)]

pub mod amount;
mod artifact;
mod blobs;
pub mod cli;
mod collect;
mod config;
pub mod credentials;
mod diff;
pub mod digest;
mod disk;
mod erofs;
mod error;
mod exchange;
mod faces;
mod fault;
mod fetch;
pub mod garbage;
mod import;
mod index;
mod intake;
mod labels;
mod layers;
pub mod layout;
pub(crate) mod lookup;
pub mod manifest;
mod mounts;
mod named;
mod network;
mod options;
mod platform;
mod pour;
mod recover;
mod reference;
mod resolve;
mod rootfs;
#[cfg(test)]
mod scratch;
mod sharing;
mod sound;
pub mod source;
mod space;
mod span;
mod store;
pub mod unpack;
mod used;
mod verify;
mod views;

pub use collect::Done;
pub use config::{Config, LayerForm, Limits, RootfsDriver};
pub use digest::Digest;
pub use error::{Error, Kind, Result};
pub use exchange::{ImportOptions, Input, LayerInfo, Output};
pub use layout::export::Form;
pub use mounts::{MountRequest, Mounted};
pub use network::{Network, Proxies};
pub use oci_spec::image::ImageConfiguration;
pub use options::{Auth, Event, Platform, Progress, PullOptions, Secret, quiet};
pub use reference::Reference;
pub use rootfs::shift::{IdRange, SetIdMap, Shift};
pub use store::{Image, Rootfs, Store, Usage};
pub use verify::{Fault, Outcome, Part, Report, Verify, Verifying, Watch};
