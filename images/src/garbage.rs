//! DECIDE what goes: images by rules, then the content that nothing needs any more. Pure: what is needed, what is here;
//! out comes what to delete and exactly how much that frees, shared content counted once and only with its last user.
//!
//! The rules are the kubelet's (`imageMaximumGCAge`, `imageMinimumGCAge`, high and low thresholds in percent of the
//! filesystem, least recently used first) and docker's and podman's (`prune`: what has no tag; `--all`: what is not in use).
//! An image that is pinned, in use, or part of a pull under way never goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::layers::Key;
use crate::store::Usage;

/// Which images may go.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// All that have no tag.
    pub untagged: bool,
    /// All.
    pub all: bool,
    /// All that were not used for so long.
    pub max_age: Option<Duration>,
    /// None that was used or pulled more recently, whatever the other rules say.
    pub min_age: Duration,
    /// Once so much is taken, as many as are needed to come down to the second mark.
    pub marks: Option<(Mark, Mark)>,
    /// Also downloads that were given up only now, so that they cannot be continued. On a filesystem that is nearly full
    /// they go in any case.
    pub downloads: bool,
    /// Only these; empty means all.
    pub only: BTreeSet<String>,
}

/// How full the store may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Mark {
    /// Of the filesystem, counting whatever else is on it, 0 to 100.
    Percent(u8),
    /// Of the store itself.
    Bytes(u64),
}

/// A piece of content.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Content {
    Blob(Digest),
    Layer(Key),
}

/// What keeps content alive.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    /// Blobs that a pull under way has or expects.
    pub(crate) blobs: BTreeSet<Digest>,
    /// Layers of every root filesystem, and of pulls under way.
    pub(crate) layers: BTreeSet<Key>,
}

impl Roots {
    pub(crate) fn keep(&self, content: &Content) -> bool {
        match content {
            Content::Blob(digest) => self.blobs.contains(digest),
            Content::Layer(key) => self.layers.contains(key),
        }
    }
}

/// One image, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidate {
    pub(crate) id: String,
    pub(crate) names: Vec<String>,
    pub(crate) tagged: bool,
    pub(crate) pinned: bool,
    /// Who uses it.
    pub(crate) users: Vec<String>,
    /// Nanoseconds since 1970.
    pub(crate) last_used: u64,
    pub(crate) content: BTreeSet<Content>,
}

/// What is on disk.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) content: BTreeMap<Content, Usage>,
    /// Unfinished downloads that nobody continues: file name and bytes.
    pub(crate) leftovers: Vec<(String, u64)>,
    /// Capacity and free bytes of the filesystem.
    pub(crate) filesystem: (u64, u64),
}

/// Why an image goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// It was asked for.
    Asked,
    /// It has no tag.
    Untagged,
    /// It is not in use.
    Unused,
    /// It was not used for longer than allowed.
    Age,
    /// The store is too full.
    Space,
}

impl Reason {
    /// One word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Untagged => "untagged",
            Self::Unused => "unused",
            Self::Age => "age",
            Self::Space => "space",
        }
    }
}

/// An image that goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Doomed {
    /// Its id.
    pub id: String,
    /// Tags and digests that it had when this was decided.
    pub names: Vec<String>,
    /// Why.
    pub reason: Reason,
    /// Nanoseconds since 1970.
    pub last_used: u64,
    /// What becomes free with it, after those before it in the plan are gone.
    pub frees: Usage,
}

/// What is to be deleted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Images, in the order in which they were chosen.
    pub images: Vec<Doomed>,
    /// Content that no image refers to even now.
    pub orphans: Usage,
    /// Unfinished downloads that nobody continues: file name below `ingest/`, and bytes.
    pub leftovers: Vec<(String, u64)>,
    /// All that becomes free.
    pub frees: Usage,
    /// All content and downloads together, before.
    pub total: Usage,
    /// The high mark is passed and these images do not suffice: so many bytes are missing.
    pub missing: u64,
    /// Every piece with what it takes.
    pub(crate) content: Vec<(Content, Usage)>,
}

/// Decides. `now`: nanoseconds since 1970.
pub(crate) fn plan(rules: &Rules, roots: &Roots, images: &[Candidate], seen: &Seen, now: u64) -> Plan {
    let mut users: HashMap<&Content, usize> = HashMap::new();
    for content in images.iter().flat_map(|image| &image.content) {
        *users.entry(content).or_default() += 1;
    }
    let mut plan = Plan { leftovers: seen.leftovers.clone(), ..Plan::default() };
    for (content, size) in &seen.content {
        if !users.contains_key(content) && !roots.keep(content) {
            add(&mut plan.orphans, *size);
            plan.content.push((content.clone(), *size));
        }
    }
    plan.frees = plan.orphans;
    seen.content.values().for_each(|size| add(&mut plan.total, *size));
    for (_, bytes) in &seen.leftovers {
        add(&mut plan.frees, Usage { bytes: *bytes, inodes: 1 });
        add(&mut plan.total, Usage { bytes: *bytes, inodes: 1 });
    }
    let goal = rules.marks.map_or(0, |(high, low)| to_free(high, low, seen));
    for (image, reason) in chosen(rules, images, now) {
        if reason == Reason::Space && plan.frees.bytes >= goal {
            break;
        }
        let freed = release(image, &mut users, roots, seen, &mut plan.content);
        add(&mut plan.frees, freed);
        let (id, names, last_used) = (image.id.clone(), image.names.clone(), image.last_used);
        plan.images.push(Doomed { id, names, reason, last_used, frees: freed });
    }
    plan.missing = goal.saturating_sub(plan.frees.bytes);
    plan
}

/// The images that may go, those of the rules without a mark first, the least recently used first.
fn chosen<'a>(rules: &Rules, images: &'a [Candidate], now: u64) -> impl Iterator<Item = (&'a Candidate, Reason)> {
    let age = |image: &Candidate| Duration::from_nanos(now.saturating_sub(image.last_used));
    let only = |image: &Candidate| rules.only.is_empty() || rules.only.contains(&image.id);
    let may = |image: &&Candidate| !image.pinned && image.users.is_empty() && only(image);
    let reason = |image: &Candidate| match () {
        () if !rules.only.is_empty() => Some(Reason::Asked),
        () if age(image) < rules.min_age => None,
        () if rules.max_age.is_some_and(|most| age(image) > most) => Some(Reason::Age),
        () if rules.untagged && !image.tagged => Some(Reason::Untagged),
        () if rules.all => Some(Reason::Unused),
        () => rules.marks.map(|_| Reason::Space),
    };
    let mut all: Vec<(&Candidate, Reason)> =
        images.iter().filter(may).filter_map(|image| Some((image, reason(image)?))).collect();
    all.sort_by_key(|(image, reason)| (*reason == Reason::Space, image.last_used, image.id.clone()));
    all.into_iter()
}

/// Bytes to free so that the low mark is reached; 0 below the high one. As the kubelet counts: what is not available is
/// used (`pkg/kubelet/images/image_gc_manager.go`).
fn to_free(high: Mark, low: Mark, seen: &Seen) -> u64 {
    let (capacity, free) = seen.filesystem;
    let own: u64 = seen.content.values().map(|usage| usage.bytes).sum::<u64>()
        + seen.leftovers.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let percent = |part: u8| (u128::from(capacity) * u128::from(part.min(100)) / 100) as u64;
    let used = capacity.saturating_sub(free);
    let passed = match high {
        Mark::Percent(part) => capacity > 0 && used >= percent(part),
        Mark::Bytes(most) => own >= most,
    };
    match low {
        _ if !passed => 0,
        Mark::Percent(part) => used.saturating_sub(percent(part)),
        Mark::Bytes(most) => own.saturating_sub(most),
    }
}

/// Takes an image off its content; what nothing else needs goes into `dead`.
fn release<'a>(
    image: &'a Candidate,
    users: &mut HashMap<&'a Content, usize>,
    roots: &Roots,
    seen: &Seen,
    dead: &mut Vec<(Content, Usage)>,
) -> Usage {
    let mut freed = Usage::default();
    for content in &image.content {
        let Some(count) = users.get_mut(content) else { continue };
        *count -= 1;
        if let (0, false, Some(size)) = (*count, roots.keep(content), seen.content.get(content)) {
            add(&mut freed, *size);
            dead.push((content.clone(), *size));
        }
    }
    freed
}

fn add(sum: &mut Usage, more: Usage) {
    sum.bytes += more.bytes;
    sum.inodes += more.inodes;
}

#[cfg(test)]
#[path = "garbage_tests.rs"]
mod tests;
