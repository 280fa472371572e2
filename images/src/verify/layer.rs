//! What only a verification asks of layers: what one should look like, and to take one out of use.

use std::io::Read;
use std::path::PathBuf;

use crate::config::Limits;
use crate::disk;
use crate::error::{Context, Result};
use crate::layers::{Key, Layers, Position, Unpacked};
use crate::pour::pour;
use crate::unpack::skeleton::{Contents, Skeleton};

impl Layers {
    /// There is something of the layer, whether it can be used or not.
    pub(crate) fn traces(&self, position: &Position) -> bool {
        position.keys().iter().any(|key| self.home(key).exists())
    }

    /// A free name for a layer that is taken out of use.
    pub(crate) fn aside(&self, key: &Key) -> Key {
        let mut number = 1u64;
        loop {
            let aside = key.aside(number);
            if !self.home(&aside).exists() {
                return aside;
            }
            number += 1;
        }
    }

    /// Gives a layer another name; mounts over it stay.
    pub(crate) fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        disk::rename(&self.home(from), &self.home(to)).context(|| format!("rename layer {from}"))?;
        disk::sync_dir(&self.dir_of_all())
    }

    /// A layer in the form of which a verification needs it: files without data, but their digests; over the layers
    /// `below`, lowest first. It is never committed.
    pub(crate) fn skeleton(
        &self,
        input: &mut (dyn Read + Send),
        size: u64,
        position: &Position,
        limits: &Limits,
        below: &[Key],
    ) -> Result<(Unpacked, Contents)> {
        let (mut unpacked, dir, root) = self.begin(position)?;
        let mut target = Skeleton::new(disk::open_dir(&dir.join("diff"))?);
        let summary = match &position.file {
            Some(file) => crate::artifact::place(input, size, file, root)?,
            None => pour(input, size, position, limits, &mut target)?,
        };
        unpacked.note(summary);
        if !unpacked.is_alone() && !below.is_empty() {
            let (_mounted, views) = self.below(below)?;
            unpacked.rest_on(&dir.join("diff"), &views)?;
        }
        Ok((unpacked, target.contents))
    }
}

impl Unpacked {
    /// Where its files are until it is committed.
    pub(crate) fn content(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.join("diff"))
    }

    /// The layer says itself how its root directory looks.
    pub(crate) fn says_root(&self) -> bool {
        self.facts.root
    }
}
