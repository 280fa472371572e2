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
    /// Any word for a flag of the mount or of its super block, whether it sets or clears.
    pub(super) changes: bool,
    /// Attributes asked for, without the kind of access times.
    set: u64,
    /// Attributes that are expressly not wanted, likewise.
    clear: u64,
    /// `relatime` (0), `noatime` or `strictatime`.
    atime: Option<u64>,
    /// For the mount and all below (`rro`, ...).
    pub(super) recursive: MountAttr,
    /// `MS_*`.
    pub(super) propagation: Vec<(u64, Depth)>,
    /// `tmpcopyup`.
    pub(super) copy_up: bool,
    /// `idmap` or `ridmap`.
    pub(super) idmap: Option<Depth>,
    /// What follows `idmap=` or `ridmap=` (crun, podman): `uids=0-1000-10#10-2000-1;gids=0-1000-10`.
    pub(super) mapping: Option<String>,
    /// A symbolic link as the source is mounted as a link is: not followed (crun).
    pub(super) source_nofollow: bool,
    /// The destination must not be a symbolic link (crun).
    pub(super) target_nofollow: bool,
    /// Flags of the super block, for fsconfig(2).
    pub(super) super_block: Vec<CString>,
    /// What only the file system knows, for fsconfig(2).
    pub(super) data: Vec<(CString, Option<CString>)>,
}

/// Word, attribute, whether it is set or cleared.
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
];

/// Kinds of access times are one field: word, value, whether it is wanted or only not wanted any more.
const ACCESS_TIMES: &[(&str, u64, bool)] = &[
    ("noatime", attr::NOATIME, true),
    ("atime", attr::NOATIME, false),
    ("strictatime", attr::STRICTATIME, true),
    ("nostrictatime", attr::STRICTATIME, false),
    ("relatime", 0, true),
    ("norelatime", 0, false),
];

/// Flags of the super block, which fsconfig(2) takes by name.
const SUPER_BLOCK: &[&str] = &["sync", "async", "dirsync", "mand", "nomand", "lazytime", "nolazytime"];

/// Flags that today's kernels do not read: `iversion` is the file system's own affair, `silent` spares a line in the
/// kernel's log.
const SILENT: &[&str] = &["silent", "loud", "iversion", "noiversion"];

const PROPAGATION: &[(&str, u64)] = &[
    ("private", libc::MS_PRIVATE),
    ("shared", libc::MS_SHARED),
    ("slave", libc::MS_SLAVE),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Words with a meaning of their own.
const SPECIAL: &[&str] =
    &["bind", "rbind", "remount", "defaults", "tmpcopyup", "idmap", "ridmap", "src-nofollow", "dest-nofollow"];

/// Every word that is not left to the file system, for `features`.
pub(super) fn words() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().chain(ACCESS_TIMES).map(|(name, _, _)| *name);
    let doubled = attributes.chain(PROPAGATION.iter().map(|(name, _)| *name));
    let doubled = doubled.flat_map(|name| [name.to_owned(), format!("r{name}")]);
    let rest = SPECIAL.iter().chain(SUPER_BLOCK).chain(SILENT);
    let mut all: Vec<String> = doubled.chain(rest.map(|word| (*word).to_owned())).collect();
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
            "defaults" => {}
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(Depth::One),
            "ridmap" => self.idmap = Some(Depth::All),
            "src-nofollow" => self.source_nofollow = true,
            "dest-nofollow" => self.target_nofollow = true,
            word => return self.take_flag(word),
        }
        Ok(())
    }

    fn take_flag(&mut self, word: &str) -> Result<()> {
        let find = |table: &[(&'static str, u64, bool)], word: &str| {
            table.iter().find(|(name, _, _)| *name == word).map(|&(_, flag, set)| (flag, set))
        };
        let below = word.strip_prefix('r').unwrap_or_default();
        if let Some((flag, set)) = find(ATTRIBUTES, word) {
            self.changes = true;
            mark(flag, set, &mut self.set, &mut self.clear);
        } else if let Some((kind, wanted)) = find(ACCESS_TIMES, word) {
            self.changes = true;
            match wanted {
                true => self.atime = Some(kind),
                false if self.atime == Some(kind) => self.atime = None,
                false => {}
            }
        } else if let Some((flag, set)) = find(ATTRIBUTES, below) {
            mark(flag, set, &mut self.recursive.set, &mut self.recursive.clear);
        } else if let Some((kind, wanted)) = find(ACCESS_TIMES, below) {
            self.recursive.clear |= attr::ATIME;
            self.recursive.set &= !attr::ATIME;
            self.recursive.set |= if wanted { kind } else { 0 };
        } else if let Some(found) = propagation(word) {
            self.propagation.push(found);
        } else if SUPER_BLOCK.contains(&word) {
            self.changes = true;
            self.super_block.push(super::c_string(word)?);
        } else if SILENT.contains(&word) {
            self.changes = true;
        } else {
            return self.take_data(word);
        }
        Ok(())
    }

    fn take_data(&mut self, word: &str) -> Result<()> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        match (key, value) {
            ("idmap" | "ridmap", Some(mapping)) => {
                self.idmap = Some(if key == "idmap" { Depth::One } else { Depth::All });
                self.mapping = Some(mapping.to_owned());
            }
            _ => self.data.push((super::c_string(key)?, value.map(super::c_string).transpose()?)),
        }
        Ok(())
    }

    /// What is to be set, and what must not stay set. The whole field of access times is cleared to be changed, also
    /// for `nodiratime` alone, which stands for `relatime` beside it.
    pub(super) fn attributes(&self) -> MountAttr {
        let kind = self.atime.or((self.set & attr::NODIRATIME != 0).then_some(0));
        MountAttr {
            set: self.set | kind.unwrap_or(0),
            clear: self.clear | if kind.is_some() { attr::ATIME } else { 0 },
            ..MountAttr::default()
        }
    }

    /// What a bind mount loses of its source's attributes though no word says so: `--bind -o ro` gives a mount that is
    /// read-only and nothing else (mount(8), runc). Without any word it stays as it is; access times stay where none
    /// are named.
    pub(super) fn replaced(&self) -> u64 {
        let asked = self.attributes();
        let times = if asked.clear & attr::ATIME != 0 { attr::NODIRATIME } else { 0 };
        let plain = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;
        if self.changes { (plain | times) & !asked.set } else { 0 }
    }

    /// Takes `ro` back; whether it was there. For what has to be written to before it becomes read-only.
    pub(super) fn take_read_only(&mut self) -> bool {
        let was = self.set & attr::RDONLY != 0;
        self.set &= !attr::RDONLY;
        was
    }

    /// As if `ro` were the last word.
    pub(super) fn add_read_only(&mut self) {
        mark(attr::RDONLY, true, &mut self.set, &mut self.clear);
    }

    /// What of the words a bind mount cannot have: the kernel would leave it aside without a word.
    pub(super) fn lost_on_bind(&self) -> Option<std::borrow::Cow<'_, str>> {
        self.data.first().map(|(key, _)| key.to_string_lossy())
    }
}

fn mark(flag: u64, set: bool, to_set: &mut u64, to_clear: &mut u64) {
    let (to, from) = if set { (to_set, to_clear) } else { (to_clear, to_set) };
    *to |= flag;
    *from &= !flag;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Options {
        decide(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn attributes(words: &[&str]) -> (u64, u64) {
        let found = read(words).attributes();
        (found.set, found.clear)
    }

    #[test]
    fn a_later_word_wins() {
        assert_eq!(attributes(&["ro", "rw"]), (0, attr::RDONLY));
        assert_eq!(attributes(&["rw", "ro"]), (attr::RDONLY, 0));
        assert_eq!(attributes(&["noatime", "atime"]), (0, 0));
    }

    #[test]
    fn recursive_words_are_not_mistaken_for_plain_ones() {
        let options = read(&["rro", "relatime", "rnoexec", "rw"]);
        assert_eq!(options.recursive, MountAttr { set: attr::RDONLY | attr::NOEXEC, ..MountAttr::default() });
        assert_eq!(options.attributes().clear, attr::ATIME | attr::RDONLY);
        assert_eq!(read(&["rrw"]).recursive.clear, attr::RDONLY);
        assert_eq!(read(&["rstrictatime"]).recursive.set, attr::STRICTATIME);
        assert_eq!(read(&["rsymfollow"]).recursive.clear, attr::NOSYMFOLLOW);
        assert_eq!(read(&["rdiratime"]).recursive.clear, attr::NODIRATIME);
        assert_eq!(read(&["rnorelatime"]).recursive, MountAttr { clear: attr::ATIME, ..MountAttr::default() });
    }

    #[test]
    fn access_times_are_one_field() {
        assert_eq!(attributes(&["noatime", "strictatime"]), (attr::STRICTATIME, attr::ATIME));
        assert_eq!(attributes(&["nodiratime"]), (attr::NODIRATIME, attr::ATIME));
        assert_eq!(attributes(&["nodiratime", "noatime"]), (attr::NODIRATIME | attr::NOATIME, attr::ATIME));
        assert_eq!(attributes(&["norelatime"]), (0, 0), "as with mount(8) and runc");
    }

    #[test]
    fn one_word_is_enough_to_lose_the_attributes_of_the_source() {
        let all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;
        assert_eq!(read(&["rbind", "rprivate"]).replaced(), 0);
        assert_eq!(read(&["rbind", "rro"]).replaced(), 0);
        assert_eq!(read(&["bind", "ro"]).replaced(), all & !attr::RDONLY);
        assert_eq!(read(&["bind", "dev"]).replaced(), all);
        assert_eq!(read(&["bind", "sync"]).replaced(), all);
        assert_eq!(read(&["bind", "relatime"]).replaced(), all | attr::NODIRATIME);
    }

    #[test]
    fn the_rest_is_the_file_systems() {
        let options = read(&["mode=755", "newinstance", "lowerdir=/a:/b", "sync", "iversion"]);
        let text: Vec<_> = options.data.iter().map(|(key, value)| (key.to_str().unwrap(), value.is_some())).collect();
        assert_eq!(text, [("mode", true), ("newinstance", false), ("lowerdir", true)]);
        assert_eq!(options.super_block, [c"sync".to_owned()]);
    }

    #[test]
    fn id_maps_with_and_without_a_text() {
        assert_eq!(read(&["idmap"]).idmap, Some(Depth::One));
        let options = read(&["ridmap=uids=0-1-2;gids=0-1-2"]);
        assert_eq!((options.idmap, options.mapping.as_deref()), (Some(Depth::All), Some("uids=0-1-2;gids=0-1-2")));
        assert!(options.data.is_empty());
    }

    #[test]
    fn propagation_in_both_depths() {
        assert_eq!(propagation("rslave"), Some((libc::MS_SLAVE, Depth::All)));
        assert_eq!(propagation("shared"), Some((libc::MS_SHARED, Depth::One)));
        assert_eq!(propagation("rw"), None);
        assert_eq!(read(&["rprivate"]).propagation, [(libc::MS_PRIVATE, Depth::All)]);
    }

    #[test]
    fn every_word_of_runc_is_known() {
        let ours = words();
        let runcs = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev \
            nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime \
            rbind rdev rdiratime relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime \
            rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow \
            runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable";
        let missing: Vec<&str> = runcs.split_whitespace().filter(|word| !ours.iter().any(|our| our == word)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
