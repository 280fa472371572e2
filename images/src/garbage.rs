//! DECIDE what nothing needs any more. Pure: what is needed, what is here; out comes what to delete.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::layers::Key;

/// What keeps content alive.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    /// Blobs of the images in the index, and those that a pull under way has or expects.
    pub(crate) blobs: BTreeSet<Digest>,
    /// Layers of the images in the index, of every root filesystem, and of pulls under way.
    pub(crate) layers: BTreeSet<Key>,
}

/// What is on disk.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) blobs: Vec<(Digest, u64)>,
    pub(crate) layers: Vec<Key>,
}

/// What to delete.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Plan {
    pub(crate) blobs: Vec<Digest>,
    pub(crate) layers: Vec<Key>,
    /// Bytes of these blobs on disk.
    pub(crate) blob_bytes: u64,
}

/// Everything seen that no root keeps.
pub(crate) fn plan(roots: &Roots, seen: &Seen) -> Plan {
    let dead: Vec<&(Digest, u64)> = seen.blobs.iter().filter(|(digest, _)| !roots.blobs.contains(digest)).collect();
    Plan {
        blob_bytes: dead.iter().map(|(_, bytes)| bytes).sum(),
        blobs: dead.into_iter().map(|(digest, _)| digest.clone()).collect(),
        layers: seen.layers.iter().filter(|key| !roots.layers.contains(key)).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_root_keeps() {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let key = |name: &str| Key::alone(&digest(name));
        let roots = Roots {
            blobs: BTreeSet::from([digest("a"), digest("not here yet")]),
            layers: BTreeSet::from([key("l"), Key::chained(&digest("m"))]),
        };
        let seen = Seen {
            blobs: vec![(digest("a"), 10), (digest("b"), 20), (digest("c"), 30)],
            layers: vec![key("l"), key("m"), Key::chained(&digest("m"))],
        };
        let expect = Plan { blobs: vec![digest("b"), digest("c")], layers: vec![key("m")], blob_bytes: 50 };
        assert_eq!(plan(&roots, &seen), expect);
        assert_eq!(plan(&Roots::default(), &Seen::default()), Plan::default());
    }
}
