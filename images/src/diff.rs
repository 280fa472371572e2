//! What a container has changed, as a layer: the reverse of unpacking (image-spec layer.md "Representing Changes").
//!
//! Over an overlay the upper directory is the answer: what it holds was made or changed, its markers are whiteouts. A copy
//! is compared with the layers that it was made of. Either way the layer is written as it is found, nothing is kept.

mod compare;
mod emit;

use std::io::Write;
use std::path::Path;

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::layers::Key;
use crate::rootfs::{check_key, shift::Shift};
use crate::store::{Shared, Store, blocking};
use crate::unpack::tree::{Place, is_whiteout};
use emit::{Emit, walk};

impl Store {
    /// Writes what a container has changed to `out`, as an uncompressed layer over its image; `out` is given back. With
    /// the container's `shift` the owners are those that its namespace sees. The container should not run meanwhile: a
    /// file that gets shorter while it is read is an error.
    ///
    /// Sockets are left out, as by tar.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such a key; [`Kind::Unsupported`] for what no layer can say: a file whose name begins
    /// like a whiteout's, or a path of more than 4095 bytes; [`Kind::System`] for the disk and for `out`.
    pub async fn diff<W: Write + Send + 'static>(&self, key: &str, shift: Option<Shift>, mut out: W) -> Result<W> {
        check_key(key)?;
        let _one = self.shared().flights.lock(format!("rootfs {key}")).await;
        let (store, key) = (self.clone(), key.to_owned());
        blocking(move || {
            write(store.shared(), &key, shift.as_ref(), &mut out).context(|| format!("changes of rootfs {key}"))?;
            Ok(out)
        })
        .await
    }
}

fn write(shared: &Shared, key: &str, shift: Option<&Shift>, out: &mut dyn Write) -> Result<()> {
    let missing = || Error::new(Kind::NotFound, "it is not here");
    let (writes, record) = shared.rootfses.writes(key)?.ok_or_else(missing)?;
    let mut emit = Emit::new(shift, out);
    match record.copy {
        false => upper(&writes, &mut emit)?,
        true => {
            let highest_first: Vec<Key> = shared.layers.seen(&record.layers)?.iter().rev().cloned().collect();
            let views = shared.layers.views(&highest_first)?;
            let roots = highest_first.iter().map(|key| Ok(shared.layers.facts(key)?.is_some_and(|facts| facts.root)));
            compare::write(&writes, &views, roots.collect::<Result<Vec<bool>>>()?, &mut emit)?;
        }
    }
    emit.end()
}

/// The upper directory of an overlay.
fn upper(dir: &Path, emit: &mut Emit<'_>) -> Result<()> {
    walk(disk::open_dir(dir)?, &mut |place, stat, path| {
        if is_whiteout(stat) {
            return emit.whiteout(path).map(|()| false);
        }
        emit.entry(place, stat, path)?;
        if is_opaque(place)? {
            emit.opaque(path)?;
        }
        Ok(true)
    })
}

fn is_opaque(place: &Place) -> Result<bool> {
    let xattrs = place.xattrs()?;
    Ok(xattrs.iter().any(|(name, value)| name == b"trusted.overlay.opaque" && value == b"y"))
}
