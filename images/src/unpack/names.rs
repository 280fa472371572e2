//! Paths that a layer makes us remember until the layers below it are known, in a set that cannot grow without end.
//!
//! Sixteen bytes of a compressed layer can stand for a path of two thousand directories, each of which has a path of its
//! own; so what is remembered is counted, with what the set itself takes (SECURITY_CASES 15).

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};

/// What one element costs beside its bytes, about.
const EACH: usize = 64;
/// Bytes that one set may take: more than a hundred thousand directories of usual names.
const MOST: usize = 16 << 20;

/// A set of paths in the order of their components: what is below a directory follows it at once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Names {
    /// Slashes are zeros here, the one byte that no name has, so that `a/b` stands before `a-b`.
    keys: BTreeSet<Vec<u8>>,
    bytes: usize,
}

pub(super) fn key(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect()
}

pub(super) fn path(key: &[u8]) -> Vec<u8> {
    key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect()
}

/// Of two keys, `inner` is `outer` or below it; the root, an empty path, is above everything.
pub(super) fn is_within(inner: &[u8], outer: &[u8]) -> bool {
    outer.is_empty() || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest[0] == 0)
}

impl Names {
    /// Adds a path, components joined by single slashes.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] when the set takes more than 16 MiB.
    pub fn insert(&mut self, path: &[u8]) -> Result<()> {
        let key = key(path);
        let cost = key.len() + EACH;
        if self.keys.insert(key) {
            self.bytes += cost;
        }
        match self.bytes > MOST {
            true => Err(Error::new(
                Kind::TooLarge,
                format!("names of directories that say nothing of themselves take more than {} MiB", MOST >> 20),
            )),
            false => Ok(()),
        }
    }

    /// The path itself is in it.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.keys.contains(&key(path))
    }

    /// Takes out one path.
    pub fn remove(&mut self, path: &[u8]) {
        let key = key(path);
        if self.keys.remove(&key) {
            self.bytes -= key.len() + EACH;
        }
    }

    /// Takes out a path and everything below it.
    pub fn remove_within(&mut self, path: &[u8]) {
        let outer = key(path);
        let inner = self.keys.range(outer.clone()..).take_while(|key| is_within(key, &outer));
        for gone in inner.cloned().collect::<Vec<_>>() {
            self.keys.remove(&gone);
            self.bytes -= gone.len() + EACH;
        }
    }

    /// The paths, a directory before what is below it.
    pub fn paths(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.keys.iter().map(|key| path(key))
    }

    /// The paths that are in `outer` or below something in it.
    pub fn paths_within<'a>(&'a self, outer: &'a Self) -> impl Iterator<Item = Vec<u8>> + 'a {
        // Both are in one order: the nearest outer path that is not after a path, or the one over that, is above it.
        let mut others = outer.keys.iter().peekable();
        let mut above: Option<&Vec<u8>> = None;
        self.keys.iter().filter_map(move |key| {
            while let Some(next) = others.next_if(|other| *other <= key) {
                if above.is_none_or(|above| !is_within(next, above)) {
                    above = Some(next);
                }
            }
            above.is_some_and(|above| is_within(key, above)).then(|| path(key))
        })
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[&str]) -> Names {
        let mut names = Names::default();
        paths.iter().for_each(|path| names.insert(path.as_bytes()).unwrap());
        names
    }

    fn said(paths: impl Iterator<Item = Vec<u8>>) -> String {
        paths.map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_tree_goes_as_a_whole_and_nothing_beside_it() {
        let mut names = names(&["a-b", "a/b/c", "a", "a/b", "ab", "b", ""]);
        assert_eq!(said(names.paths()), " a a/b a/b/c a-b ab b");
        names.remove_within(b"a");
        assert_eq!(said(names.paths()), " a-b ab b");
        names.remove(b"ab");
        names.remove_within(b"");
        assert!(names.is_empty() && names.bytes == 0, "{names:?}");
    }

    #[test]
    fn what_lies_within_other_names() {
        let all = names(&["a", "a/x", "a/y/z", "a-b", "b/c/d", "c", "d/e"]);
        assert_eq!(said(all.paths_within(&names(&["a", "a/x/y", "b/c", "c/d"]))), "a a/x a/y/z b/c/d");
        assert_eq!(said(all.paths_within(&names(&[""]))), said(all.paths()));
        assert_eq!(said(all.paths_within(&names(&[]))), "");
    }

    #[test]
    fn it_is_bounded() {
        let mut names = Names::default();
        let long = "x".repeat(4000);
        let full = (0..20_000).find_map(|n| names.insert(format!("{long}{n}").as_bytes()).err()).unwrap();
        assert_eq!(full.kind(), Kind::TooLarge);
        assert!(names.len() < 4500);
    }
}
