//! The seam between what the entries of a layer mean ([`super::apply`]) and what they are written as: a tree of files
//! ([`super::directory`]), or an EROFS image.

use std::io::BufRead;

use rustix::fs::FileType;

use crate::error::Result;
use crate::unpack::names::Names;
use crate::unpack::tar::{Archive, Entry};
use crate::unpack::tree::Attributes;

/// Owner, mode, time and attributes, checked: what an image may not bring is left out already.
#[derive(Debug)]
pub struct Look<'a> {
    /// Owner, mode and time.
    pub attributes: Attributes,
    /// Names and values.
    pub xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// What stands at a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stands {
    /// A directory.
    Directory,
    /// The marker of a name that is hidden.
    Whiteout,
    /// Anything else, by a number that its hard links share.
    Other(u64),
}

/// A tree under construction. Paths are checked components; every one of them is resolved inside the tree: links on
/// the way are followed in it, also absolute ones, the last component never.
pub trait Target {
    /// A name in a directory that is there.
    type Place;

    /// Called before anything else is asked for an entry.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn expect(&mut self, _entry: &Entry, _look: &Look<'_>) -> Result<()> {
        Ok(())
    }

    /// The root directory, as a place.
    ///
    /// # Errors
    /// [`Kind::System`](crate::Kind::System), here and below, for the disk.
    fn root(&mut self) -> Result<Self::Place>;

    /// The place of a path, which is not the root; missing directories above it are made, mode 0755, owner root.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) if something on the way is no directory or a link to nowhere.
    fn place(&mut self, parts: &[&[u8]]) -> Result<Self::Place>;

    /// As [`Target::place`], but makes nothing: `None` if its directory is missing.
    ///
    /// # Errors
    /// As [`Target::place`].
    fn find(&mut self, parts: &[&[u8]]) -> Result<Option<Self::Place>>;

    /// What is there.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn stands(&self, place: &Self::Place) -> Result<Option<Stands>>;

    /// Removes what is there with everything below it.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn remove(&mut self, place: &Self::Place, parts: &[&[u8]]) -> Result<()>;

    /// Makes a file with the data that follows in `archive`; the bytes without holes. `None`, and nothing is read, if
    /// the name is taken.
    ///
    /// # Errors
    /// Those of the archive; see [`Target::root`].
    fn file<R: BufRead>(
        &mut self,
        place: &Self::Place,
        entry: &Entry,
        look: &Look<'_>,
        archive: &mut Archive<R>,
    ) -> Result<Option<u64>>;

    /// Makes a directory; `false` if the name is taken. [`Target::dress`] follows.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn make_directory(&mut self, place: &Self::Place) -> Result<bool>;

    /// Gives a directory its look; what it held, it keeps.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn dress(&mut self, place: &Self::Place, parts: &[&[u8]], look: &Look<'_>) -> Result<()>;

    /// Makes a symbolic link; `false` if the name is taken.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn symlink(&mut self, place: &Self::Place, to: &[u8], look: &Look<'_>) -> Result<bool>;

    /// Makes a device or pipe; `false` if the name is taken.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn node(&mut self, place: &Self::Place, kind: FileType, device: (u32, u32), look: &Look<'_>) -> Result<bool>;

    /// Makes the marker that hides a name; nothing is there.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn whiteout(&mut self, place: &Self::Place) -> Result<()>;

    /// Gives a file one more name; nothing is there.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn link(&mut self, from: &Self::Place, to: &Self::Place) -> Result<()>;

    /// Marks a directory, made if missing, as hiding what is below it.
    ///
    /// # Errors
    /// As [`Target::place`].
    fn make_opaque(&mut self, parts: &[&[u8]]) -> Result<()>;

    /// Removes the whiteouts in a directory, if it is there; not in those below, which are named as well.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn clear_whiteouts(&mut self, parts: &[&[u8]]) -> Result<()>;

    /// How many directories were made so far without an entry of their own, whatever became of them.
    fn implied(&self) -> u64;

    /// Called once after the last entry; the directories that were made without an entry of their own.
    ///
    /// # Errors
    /// See [`Target::root`].
    fn finish(&mut self) -> Result<Names>;
}
