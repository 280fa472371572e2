//! When each image was last used: the time of an empty file a image, `used/HEX`. Not part of the index, since a container's
//! start must not wait for a disk; a power cut costs no more than some order among the oldest images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::disk;
use crate::error::Result;

/// The times of one store.
#[derive(Debug)]
pub(crate) struct Uses {
    dir: PathBuf,
}

impl Uses {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("used");
        disk::private_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Notes that an image is used now. Failing must not hinder whoever uses it.
    pub(crate) fn touch(&self, image: &Digest) {
        let path = self.dir.join(image.hex());
        let file = std::fs::File::options().write(true).create(true).truncate(false).open(&path);
        if let Err(why) = file.and_then(|file| file.set_modified(SystemTime::now())) {
            tracing::warn!(%image, %why, "the time of an image's use cannot be noted");
        }
    }

    /// Nanoseconds since 1970; `None` if it was never used.
    pub(crate) fn last(&self, image: &Digest) -> Option<u64> {
        let at = std::fs::metadata(self.dir.join(image.hex())).and_then(|meta| meta.modified()).ok()?;
        u64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
    }

    /// Removes the times of images that are no more.
    pub(crate) fn keep_only(&self, images: &BTreeSet<&str>) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(|name| images.contains(name)) {
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn times_come_and_go() {
        let dir = Scratch::new("used");
        let uses = Uses::open(dir.path()).unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        assert_eq!(uses.last(&one), None);
        uses.touch(&one);
        uses.touch(&two);
        assert!(uses.last(&one).unwrap() > 1_700_000_000_000_000_000);
        uses.keep_only(&BTreeSet::from([two.hex()]));
        assert!(uses.last(&one).is_none() && uses.last(&two).is_some());
    }
}
