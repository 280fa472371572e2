//! Mount options: the words of `mounts[].options` as attributes, propagation, and what is left for the file system.
//!
//! The words are those of mount(8) and of runc's table. Attributes are set or cleared only where a word says so; a bind
//! mount otherwise keeps those of its source.

use std::ffi::CString;

use crate::error::Result;
use crate::sys::mount::{Depth, MountAttr, attr};

/// What a list of options comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `bind` or `rbind`.
    pub(super) bind: Option<Depth>,
    /// `remount`.
    pub(super) remount: bool,
    /// For the mount itself.
    pub(super) attributes: MountAttr,
    /// For it and all below.
    pub(super) recursive: MountAttr,
    /// `MS_*`.
    pub(super) propagation: Vec<(u64, Depth)>,
    /// `tmpcopyup`.
    pub(super) copy_up: bool,
    /// `idmap` or `ridmap`.
    pub(super) idmap: Option<Depth>,
    /// For fsconfig(2).
    pub(super) data: Vec<(CString, Option<CString>)>,
}

/// Word, attribute, whether it is set or cleared. Access times are one field: clear it, then set.
const ATTRIBUTES: &[(&str, u64, bool)] = &[
    ("ro", attr::RDONLY, true),
    ("rw", attr::RDONLY, false),
    ("nosuid", attr::NOSUID, true),
    ("suid", attr::NOSUID, false),
    ("nodev", attr::NODEV, true),
    ("dev", attr::NODEV, false),
    ("noexec", attr::NOEXEC, true),
    ("exec", attr::NOEXEC, false),
    ("nodiratime", attr::NODIRATIME, true),
    ("diratime", attr::NODIRATIME, false),
    ("nosymfollow", attr::NOSYMFOLLOW, true),
    ("symfollow", attr::NOSYMFOLLOW, false),
    ("noatime", attr::NOATIME, true),
    ("atime", attr::NOATIME, false),
    ("strictatime", attr::STRICTATIME, true),
    ("nostrictatime", attr::STRICTATIME, false),
    ("relatime", 0, true),
    ("norelatime", 0, false),
];

/// Flags of the super block, which fsconfig(2) takes by name.
const SUPER_BLOCK: &[&str] = &["sync", "async", "dirsync", "mand", "nomand", "lazytime", "nolazytime", "iversion"];

/// Words that change nothing.
const SILENT: &[&str] = &["defaults", "silent", "loud", "noiversion"];

const PROPAGATION: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Every word that is not left to the file system, for `features`.
pub(super) fn words() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().flat_map(|(name, _, _)| [(*name).to_owned(), format!("r{name}")]);
    let propagation = PROPAGATION.iter().flat_map(|(name, _)| [(*name).to_owned(), format!("r{name}")]);
    let rest = ["bind", "rbind", "remount"].iter().chain(SUPER_BLOCK).chain(SILENT);
    let mut all: Vec<String> = attributes.chain(propagation).chain(rest.map(|word| (*word).to_owned())).collect();
    all.sort();
    all
}

/// The flag and depth of `rslave` and its like; for `linux.rootfsPropagation` as well.
pub(super) fn propagation(word: &str) -> Option<(u64, Depth)> {
    let find = |word: &str| PROPAGATION.iter().find(|(name, _)| *name == word).map(|(_, flag)| *flag);
    match find(word) {
        Some(flag) => Some((flag, Depth::One)),
        None => find(word.strip_prefix('r')?).map(|flag| (flag, Depth::All)),
    }
}

/// Reads the words from left to right; a later one wins.
pub(super) fn decide(words: &[String]) -> Result<Options> {
    let mut options = Options::default();
    for word in words {
        options.take(word)?;
    }
    Ok(options)
}

impl Options {
    fn take(&mut self, word: &str) -> Result<()> {
        match word {
            "bind" => self.bind = Some(Depth::One),
            "rbind" => self.bind = Some(Depth::All),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(Depth::One),
            "ridmap" => self.idmap = Some(Depth::All),
            word if SILENT.contains(&word) => {}
            word => return self.take_attribute(word),
        }
        Ok(())
    }

    fn take_attribute(&mut self, word: &str) -> Result<()> {
        let find = |word: &str| ATTRIBUTES.iter().find(|(name, _, _)| *name == word);
        if let Some(&(_, flag, set)) = find(word) {
            apply(&mut self.attributes, word, flag, set);
        } else if let Some(&(name, flag, set)) = word.strip_prefix('r').and_then(find) {
            apply(&mut self.recursive, name, flag, set);
        } else if let Some(found) = propagation(word) {
            self.propagation.push(found);
        } else if SUPER_BLOCK.contains(&word) {
            self.data.push((super::c_string(word)?, None));
        } else {
            self.data.push(match word.split_once('=') {
                Some((key, value)) => (super::c_string(key)?, Some(super::c_string(value)?)),
                None => (super::c_string(word)?, None),
            });
        }
        Ok(())
    }
}

fn apply(attributes: &mut MountAttr, word: &str, flag: u64, set: bool) {
    if word.ends_with("atime") && flag != attr::NODIRATIME {
        attributes.clear |= attr::ATIME;
        attributes.set &= !attr::ATIME;
        if set {
            attributes.set |= flag;
        }
    } else if set {
        attributes.set |= flag;
        attributes.clear &= !flag;
    } else {
        attributes.clear |= flag;
        attributes.set &= !flag;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Options {
        decide(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_later_word_wins() {
        assert_eq!(read(&["ro", "rw"]).attributes, MountAttr { clear: attr::RDONLY, ..MountAttr::default() });
        assert_eq!(read(&["rw", "ro"]).attributes, MountAttr { set: attr::RDONLY, ..MountAttr::default() });
    }

    #[test]
    fn recursive_words_are_not_mistaken_for_plain_ones() {
        let options = read(&["rro", "relatime", "rnoexec", "rw"]);
        assert_eq!(options.recursive, MountAttr { set: attr::RDONLY | attr::NOEXEC, ..MountAttr::default() });
        assert_eq!(options.attributes.clear, attr::ATIME | attr::RDONLY);
        assert_eq!(read(&["rrw"]).recursive.clear, attr::RDONLY);
        assert_eq!(read(&["rstrictatime"]).recursive.set, attr::STRICTATIME);
    }

    #[test]
    fn access_times_are_one_field() {
        let options = read(&["noatime", "strictatime"]);
        assert_eq!((options.attributes.set, options.attributes.clear), (attr::STRICTATIME, attr::ATIME));
    }

    #[test]
    fn the_rest_is_the_file_systems() {
        let options = read(&["mode=755", "newinstance", "lowerdir=/a:/b", "sync"]);
        let text: Vec<_> = options.data.iter().map(|(key, value)| (key.to_str().unwrap(), value.is_some())).collect();
        assert_eq!(text, [("mode", true), ("newinstance", false), ("lowerdir", true), ("sync", false)]);
    }

    #[test]
    fn propagation_in_both_depths() {
        assert_eq!(propagation("rslave"), Some((libc::MS_SLAVE, Depth::All)));
        assert_eq!(propagation("shared"), Some((libc::MS_SHARED, Depth::One)));
        assert_eq!(propagation("rw"), None);
        assert_eq!(read(&["rprivate"]).propagation, [(libc::MS_PRIVATE, Depth::All)]);
    }
}
