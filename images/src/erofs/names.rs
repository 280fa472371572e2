//! The names of a layer in memory: who lies in which directory, compactly.
//!
//! An entry costs a [`Link`] of 20 bytes, a [`Node`] of 16, its name and 8 to 16 bytes of hash table; a directory 72 more.

use std::hash::{BuildHasher, RandomState};

use crate::unpack::tree::Attributes;

/// No link, no node.
pub(crate) const NONE: u32 = u32::MAX;
/// The root directory's node.
pub(crate) const ROOT: u32 = 0;

/// A name in a directory. One whose node is [`NONE`] is gone; its place serves again if the name comes back.
#[derive(Clone, Copy, Debug)]
struct Link {
    parent: u32,
    node: u32,
    name: u32,
    length: u8,
    /// The next one of the same directory.
    next: u32,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    /// The inode's number; of a directory its index in the list of directories.
    pub(crate) at: u64,
    /// How many names it has.
    pub(crate) links: u32,
    pub(crate) is: Is,
}

/// Kinds that matter for names; `Other` with the type of a directory entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Is {
    Directory,
    Symlink,
    Whiteout,
    Other(u8),
}

/// A directory: all that is known of it stays in memory, because any later entry may change it.
#[derive(Clone, Debug)]
pub(crate) struct Dir {
    first: u32,
    pub(crate) parent: u32,
    pub(crate) attributes: Attributes,
    /// As [`super::format::xattr_body`] makes it, without the opaque marker.
    pub(crate) xattrs: Box<[u8]>,
    pub(crate) opaque: bool,
    /// Its inode's number, once that is decided.
    pub(crate) nid: u64,
}

/// All names.
pub(crate) struct Names {
    links: Vec<Link>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) dirs: Vec<Dir>,
    text: Vec<u8>,
    /// Open addressing: index of a link plus one.
    table: Vec<u32>,
    hasher: RandomState,
    /// Bytes of attributes kept.
    xattr_bytes: usize,
}

/// How a directory looks that no entry describes.
pub(crate) const IMPLIED: Attributes = Attributes { uid: 0, gid: 0, mode: 0o755, mtime: (0, 0) };

impl Names {
    /// With an empty root directory.
    pub(crate) fn new() -> Self {
        let mut names = Self {
            links: Vec::new(),
            nodes: Vec::new(),
            dirs: Vec::new(),
            text: Vec::new(),
            table: vec![0; 256],
            hasher: RandomState::new(),
            xattr_bytes: 0,
        };
        names.new_directory(ROOT);
        names
    }

    /// Bytes of memory in use, nearly.
    pub(crate) fn memory(&self) -> usize {
        self.links.len() * size_of::<Link>()
            + self.nodes.len() * size_of::<Node>()
            + self.dirs.len() * size_of::<Dir>()
            + self.text.len()
            + self.table.len() * 4
            + self.xattr_bytes
    }

    /// A node of a directory without a name yet.
    pub(crate) fn new_directory(&mut self, parent: u32) -> u32 {
        self.dirs.push(Dir { first: NONE, parent, attributes: IMPLIED, xattrs: Box::default(), opaque: false, nid: 0 });
        self.new_node(Node { at: self.dirs.len() as u64 - 1, links: 1, is: Is::Directory })
    }

    pub(crate) fn new_node(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// The directory behind a node that is one.
    pub(crate) fn dir(&self, node: u32) -> &Dir {
        &self.dirs[self.nodes[node as usize].at as usize]
    }

    pub(crate) fn dir_mut(&mut self, node: u32) -> &mut Dir {
        &mut self.dirs[self.nodes[node as usize].at as usize]
    }

    /// Sets a directory's attributes.
    pub(crate) fn dress(&mut self, node: u32, attributes: Attributes, xattrs: Vec<u8>) {
        self.xattr_bytes += xattrs.len();
        let dir = self.dir_mut(node);
        dir.attributes = attributes;
        let old = std::mem::replace(&mut dir.xattrs, xattrs.into_boxed_slice());
        self.xattr_bytes -= old.len();
    }

    fn name(&self, link: &Link) -> &[u8] {
        &self.text[link.name as usize..][..usize::from(link.length)]
    }

    /// The slot of a name in the table: where its link is, or where it would go.
    fn slot(&self, parent: u32, name: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = self.hasher.hash_one((parent, name)) as usize & mask;
        loop {
            match self.table[slot] {
                0 => return slot,
                index => {
                    let link = &self.links[index as usize - 1];
                    if link.parent == parent && self.name(link) == name {
                        return slot;
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The node that a name in a directory stands for.
    pub(crate) fn get(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let index = self.table[self.slot(parent, name)];
        (index != 0).then(|| self.links[index as usize - 1].node).filter(|node| *node != NONE)
    }

    /// Gives a node a name that is free; names have at most 255 bytes.
    pub(crate) fn add(&mut self, parent: u32, name: &[u8], node: u32) {
        let slot = self.slot(parent, name);
        if let Some(index) = self.table[slot].checked_sub(1) {
            self.links[index as usize].node = node;
            return;
        }
        let text = self.text.len() as u32;
        self.text.extend_from_slice(name);
        let own = self.links.len() as u32;
        let next = std::mem::replace(&mut self.dir_mut(parent).first, own);
        self.links.push(Link { parent, node, name: text, length: name.len() as u8, next });
        self.table[slot] = self.links.len() as u32;
        if self.links.len() * 4 > self.table.len() * 3 {
            self.grow();
        }
    }

    fn grow(&mut self) {
        self.table = vec![0; self.table.len() * 2];
        for index in 0..self.links.len() {
            let link = self.links[index];
            let slot = self.slot(link.parent, self.name(&link));
            self.table[slot] = index as u32 + 1;
        }
    }

    /// Takes a name away, with everything below it.
    pub(crate) fn remove(&mut self, parent: u32, name: &[u8]) {
        let index = self.table[self.slot(parent, name)];
        let Some(index) = index.checked_sub(1) else { return };
        let mut todo = vec![index];
        while let Some(index) = todo.pop() {
            let node = std::mem::replace(&mut self.links[index as usize].node, NONE);
            if node == NONE {
                continue;
            }
            let node = &mut self.nodes[node as usize];
            node.links -= 1;
            if node.is == Is::Directory {
                let mut next = self.dirs[node.at as usize].first;
                while next != NONE {
                    todo.push(next);
                    next = self.links[next as usize].next;
                }
            }
        }
    }

    /// The names in a directory with their nodes, unsorted.
    pub(crate) fn children(&self, dir: u32) -> impl Iterator<Item = (&[u8], u32)> {
        let mut next = self.dir(dir).first;
        std::iter::from_fn(move || {
            while next != NONE {
                let link = &self.links[next as usize];
                next = link.next;
                if link.node != NONE {
                    return Some((self.name(link), link.node));
                }
            }
            None
        })
    }

    /// Every directory that is reached from the root, the root first and each before what is in it.
    pub(crate) fn reached(&self) -> Vec<u32> {
        let mut found = vec![ROOT];
        let mut at = 0;
        while at < found.len() {
            let below = self.children(found[at]).filter(|(_, node)| self.nodes[*node as usize].is == Is::Directory);
            let below: Vec<u32> = below.map(|(_, node)| node).collect();
            found.extend(below);
            at += 1;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_go_and_come_back() {
        let mut names = Names::new();
        let file = |names: &mut Names, at| names.new_node(Node { at, links: 1, is: Is::Other(1) });
        let dir = names.new_directory(ROOT);
        names.add(ROOT, b"d", dir);
        for n in 0..2000u64 {
            let node = file(&mut names, n);
            names.add(dir, format!("f{n}").as_bytes(), node);
        }
        let shared = names.get(dir, b"f7").unwrap();
        names.nodes[shared as usize].links += 1;
        names.add(ROOT, b"link", shared);
        assert_eq!(names.children(dir).count(), 2000);
        names.remove(dir, b"f9");
        assert!(names.get(dir, b"f9").is_none() && names.get(dir, b"f10").is_some());
        let again = file(&mut names, 5);
        names.add(dir, b"f9", again);
        assert_eq!(names.children(dir).count(), 2000);
        names.remove(ROOT, b"d");
        assert!(names.get(ROOT, b"d").is_none());
        assert_eq!(names.nodes[shared as usize].links, 1, "the other name is left");
        assert_eq!(names.reached(), [ROOT]);
        let empty = names.new_directory(ROOT);
        names.add(ROOT, b"d", empty);
        assert_eq!(names.children(empty).count(), 0, "what was in the old one is not in the new one");
        assert!(names.memory() < 2010 * 80, "{}", names.memory());
    }
}
