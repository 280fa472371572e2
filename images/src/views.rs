//! How a layer is seen: as its directory, or through the mount of its image on `layers/KEY/mnt`.
//!
//! An image is mounted once, however many containers stand on it, so that they share its pages; when the first needs
//! it, and until the last one is released. Who mounts or unmounts holds a lock on `layers/`, and what is needed is read
//! from the records of root filesystems, which are written before anything is mounted: so a process that was killed
//! anywhere leaves nothing behind that the next one does not find.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::layers::{Form, Key, Layers};
use crate::rootfs::{file_mount, overlay};

impl Layers {
    /// The mount point of a layer's image.
    fn mount_point(&self, key: &Key) -> PathBuf {
        self.home(key).join("mnt")
    }

    /// Directories that show these layers, in their order. Images are mounted where they are not yet; the record of who
    /// needs them must be on disk.
    ///
    /// # Errors
    /// [`Kind::System`] if a layer is missing or cannot be mounted.
    pub(crate) fn views(&self, keys: &[Key]) -> Result<Vec<PathBuf>> {
        let mut lock = None;
        let mut views = Vec::with_capacity(keys.len());
        for key in keys {
            let missing = || Error::new(Kind::System, format!("layer {key} is missing"));
            if self.form(key).ok_or_else(missing)? == Form::Directory {
                views.push(self.diff(key));
                continue;
            }
            if lock.is_none() {
                lock = Some(self.lock()?);
            }
            let at = self.mount_point(key);
            if !overlay::is_mounted(&at)? {
                disk::private_dir(&at)?;
                file_mount::mount(&self.image(key), &at).context(|| format!("layer {key}"))?;
            }
            views.push(at);
        }
        Ok(views)
    }

    /// Unmounts the images of these layers, except those that `needed` has, which is asked under the lock.
    ///
    /// # Errors
    /// [`Kind::System`].
    pub(crate) fn unview(&self, keys: &[Key], needed: impl FnOnce() -> Result<BTreeSet<Key>>) -> Result<()> {
        let mounted = |key: &&Key| overlay::is_mounted(&self.mount_point(key)).unwrap_or(true);
        let keys: Vec<&Key> = keys.iter().filter(mounted).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let needed = needed()?;
        keys.into_iter()
            .filter(|key| !needed.contains(key))
            .try_for_each(|key| overlay::unmount(&self.mount_point(key)))
    }

    fn lock(&self) -> Result<File> {
        let dir = self.dir_of_all();
        let what = || format!("lock {}", dir.display());
        let file = File::open(&dir).context(what)?;
        file.lock().context(what)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_missing_layer_is_an_error() {
        let dir = Scratch::new("views");
        let layers = Layers::open(dir.path(), crate::config::LayerForm::Directories).unwrap();
        let key = Key::alone(&crate::Digest::of(b"none"));
        assert!(layers.views(std::slice::from_ref(&key)).unwrap_err().to_string().contains("is missing"));
        layers.unview(&[key], || panic!("nothing is mounted")).unwrap();
    }
}
