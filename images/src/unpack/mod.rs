//! One layer: a tar stream into a directory in overlayfs form.
//!
//! Whiteouts become character devices 0:0, opaque directories get `trusted.overlay.opaque` (kernel documentation,
//! filesystems/overlayfs.rst). Files may only hide what is below their own layer, so an entry of the same layer
//! always wins over a whiteout, whichever came first.

pub mod apply;
pub mod borrowed;
pub mod directory;
pub mod header;
pub(crate) mod implied;
pub mod names;
pub(crate) mod packing;
pub mod pax;
pub(crate) mod skeleton;
pub mod tar;
pub mod target;
pub mod tree;
pub mod whiteout;

pub use apply::{Options, Summary, unpack, write};
