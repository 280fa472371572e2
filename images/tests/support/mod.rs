//! What the tests of this crate share: a store in a directory of its own whose end fails on anything left mounted, and
//! small trees and images.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod alone;
pub mod content;
pub mod damage;
pub mod forms;
pub mod http;
pub mod listing;
pub mod pki;
pub mod registry;
pub mod relay;
pub mod tape;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use gantry_images::layout::{self, Settings};
use gantry_images::{Config, Reference, Store};

/// True if this test may mount; else says so where it is seen.
pub fn may_mount(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root, to mount an overlay");
    }
    root
}

/// A directory of a test's own, removed at its end; what is still mounted below it then fails the test.
pub struct House {
    dir: PathBuf,
}

impl House {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gantry-images-{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn config(&self) -> Config {
        Config::at(self.path("store"))
    }

    pub fn store(&self) -> Store {
        Store::open(self.config()).unwrap()
    }

    /// A directory tree out of (path, content); a path that ends with a slash is a directory.
    pub fn tree(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.path(name);
        std::fs::create_dir_all(&root).unwrap();
        for (path, content) in files {
            let path = root.join(path);
            match content {
                _ if path.to_string_lossy().ends_with('/') => std::fs::create_dir_all(&path).unwrap(),
                _ => {
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, content).unwrap();
                }
            }
        }
        root
    }

    /// An OCI layout of such a tree.
    pub fn layout(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let tree = self.tree(&format!("{name}.tree"), files);
        let out = self.path(&format!("{name}.oci"));
        let settings = Settings { cmd: vec!["/bin/sh".into()], ..Settings::default() };
        let reference: Reference = format!("{name}:1").parse().unwrap();
        layout::write(&tree, &settings, &out, &reference).unwrap();
        out
    }
}

/// Mount points below a directory.
pub fn mounts(below: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(below)).map(str::to_owned).collect()
}

impl Drop for House {
    fn drop(&mut self) {
        let left = mounts(&self.dir);
        for point in left.iter().rev() {
            let _ = rustix::mount::unmount(point.as_str(), rustix::mount::UnmountFlags::DETACH);
        }
        drop(std::fs::remove_dir_all(&self.dir));
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left mounted: {left:?}");
            assert!(!self.dir.exists(), "{} cannot be removed", self.dir.display());
        }
    }
}
