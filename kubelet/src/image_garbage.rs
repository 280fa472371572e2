//! Images that nothing on this node uses, by the rules of upstream's `pkg/kubelet/images/image_gc_manager.go`: those unused
//! for longer than `imageMaximumGCAge`, and once the filesystem is as full as the high threshold, the least recently used
//! until it is as empty as the low one; never one that came less than `imageMinimumGCAge` ago, and never a pinned one.
//!
//! What is used when is known only since this kubelet runs. Everything goes through CRI: which images there are, which
//! containers have them, where they lie, their removal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_cri_api as cri;
use k8s_openapi::api::core::v1::Pod;

use crate::error::Result;
use crate::pod;
use crate::pods::pool::Pods;
use crate::shared::Shared;

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Percent of the filesystem; 100: never.
    pub high: u8,
    pub low: u8,
    pub min_age: Duration,
    /// Zero: none.
    pub max_age: Duration,
}

/// What is remembered of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    since: Instant,
    used: Instant,
}

/// An image as CRI lists it, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    id: String,
    names: BTreeSet<String>,
    bytes: u64,
    pinned: bool,
}

/// Images since when, and last used when.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: BTreeMap<String, Known>,
}

/// What a round removes, and what it would have had to free.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    remove: Vec<String>,
    missing: u64,
}

impl Memory {
    /// Takes note of what there is and what is used now; `used` holds ids, tags and digests.
    fn note(&mut self, images: &[Seen], used: &BTreeSet<String>, now: Instant) {
        self.known.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            // An image that was never seen in use counts from when it was first seen.
            let known = self.known.entry(image.id.clone()).or_insert(Known { since: now, used: now });
            if in_use(image, used) {
                known.used = now;
            }
        }
    }

    /// Decides. `space`: capacity and available bytes of the images' filesystem.
    fn decide(
        &self,
        policy: &Policy,
        images: &[Seen],
        used: &BTreeSet<String>,
        space: (u64, u64),
        now: Instant,
    ) -> Round {
        let free = |image: &&Seen| !image.pinned && !in_use(image, used);
        let mut idle: Vec<(&Seen, Known)> =
            images.iter().filter(free).filter_map(|image| Some((image, *self.known.get(&image.id)?))).collect();
        idle.retain(|(_, known)| now.saturating_duration_since(known.since) >= policy.min_age);
        idle.sort_by(|a, b| (a.1.used, a.1.since, &a.0.id).cmp(&(b.1.used, b.1.since, &b.0.id)));
        let too_old =
            |known: &Known| !policy.max_age.is_zero() && now.saturating_duration_since(known.used) > policy.max_age;
        let mut goal = to_free(policy, space);
        let mut round = Round::default();
        for (image, known) in idle {
            if too_old(&known) || goal > 0 {
                goal = goal.saturating_sub(image.bytes);
                round.remove.push(image.id.clone());
            }
        }
        round.missing = goal;
        round
    }
}

fn in_use(image: &Seen, used: &BTreeSet<String>) -> bool {
    used.contains(&image.id) || image.names.iter().any(|name| used.contains(name))
}

/// Bytes above the low threshold once the high one is reached.
fn to_free(policy: &Policy, (capacity, available): (u64, u64)) -> u64 {
    if capacity == 0 || policy.high >= 100 {
        return 0;
    }
    let share = |of: u64| (u128::from(of) * 100 / u128::from(capacity)) as u64;
    let used = 100u64.saturating_sub(share(available));
    if used < u64::from(policy.high) {
        return 0;
    }
    let wanted = u128::from(capacity) * u128::from(100 - policy.low.min(100)) / 100;
    (wanted as u64).saturating_sub(available)
}

/// One round.
///
/// # Errors
/// What the CRI server answers; an image that cannot be removed is logged and left for the next round.
pub(crate) async fn round(shared: &Arc<Shared>, pods: &Pods, memory: &mut Memory) -> Result<()> {
    let policy = shared.config.image_garbage();
    let (images, containers) = tokio::try_join!(shared.cri.images(), shared.cri.containers(&[]))?;
    let images: Vec<Seen> = images.into_iter().map(seen).collect();
    let mut used: BTreeSet<String> = containers.iter().flat_map(names_of).collect();
    used.extend(pods.all().iter().flat_map(|of| volumes_of(of)));
    memory.note(&images, &used, Instant::now());
    let filesystems = shared.cri.image_fs().await?.image_filesystems;
    let mount = filesystems.into_iter().find_map(|one| one.fs_id).map(|id| id.mountpoint).unwrap_or_default();
    let round = memory.decide(&policy, &images, &used, space(Path::new(&mount)), Instant::now());
    for id in &round.remove {
        match shared.cri.remove_image(id).await {
            Ok(()) => tracing::info!(image = id, "removed an image that nothing uses"),
            Err(why) => tracing::warn!(image = id, %why, "cannot remove an image"),
        }
    }
    if round.missing > 0 {
        tracing::warn!(bytes = round.missing, "the images' filesystem is too full, and no further image may go");
    }
    Ok(())
}

fn seen(image: cri::Image) -> Seen {
    let names = image.repo_tags.into_iter().chain(image.repo_digests).collect();
    Seen { id: image.id, names, bytes: image.size, pinned: image.pinned }
}

/// Under every name that a container may have its image.
fn names_of(container: &cri::Container) -> Vec<String> {
    let asked = container.image.as_ref().map(|image| image.image.clone());
    [container.image_id.clone(), container.image_ref.clone()]
        .into_iter()
        .chain(asked)
        .filter(|n| !n.is_empty())
        .collect()
}

/// Images that a pod has as volumes; CRI does not tell of them.
fn volumes_of(of: &Pod) -> Vec<String> {
    let volumes = pod::spec(of).volumes.iter().flatten();
    volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone()).collect()
}

/// Capacity and available bytes; zeros if that cannot be told.
fn space(mount: &Path) -> (u64, u64) {
    match nix::sys::statvfs::statvfs(mount) {
        Ok(found) => (found.blocks() * found.fragment_size(), found.blocks_available() * found.fragment_size()),
        Err(_) => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { high: 85, low: 80, min_age: Duration::from_secs(120), max_age: Duration::ZERO };

    fn image(id: &str, bytes: u64) -> Seen {
        Seen { id: id.into(), names: BTreeSet::from([format!("{id}:1")]), bytes, pinned: false }
    }

    fn used(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Three images: `a` was used an hour ago, `b` half an hour ago, `c` is in use.
    fn memory() -> (Memory, Vec<Seen>, Instant) {
        let images = vec![image("a", 30), image("b", 30), image("c", 30)];
        let start = Instant::now();
        let mut memory = Memory::default();
        let minutes = |n: u64| start + Duration::from_secs(60 * n);
        memory.note(&images, &used(&["a", "b:1", "c"]), start);
        memory.note(&images, &used(&["b:1", "c"]), minutes(30));
        memory.note(&images, &used(&["c"]), minutes(60));
        (memory, images, minutes(60))
    }

    fn said(policy: &Policy, space: (u64, u64), change: impl FnOnce(&mut Vec<Seen>)) -> String {
        let (memory, mut images, now) = memory();
        change(&mut images);
        let round = memory.decide(policy, &images, &used(&["c"]), space, now);
        format!("{} missing {}", round.remove.join(" "), round.missing)
    }

    #[test]
    fn thresholds() {
        assert_eq!(said(&POLICY, (1000, 151), |_| ()), "a b missing 0", "84.9 percent count as 85, as upstream");
        assert_eq!(said(&POLICY, (1000, 160), |_| ()), " missing 0");
        assert_eq!(said(&POLICY, (1000, 150), |_| ()), "a b missing 0", "50 bytes to free");
        assert_eq!(said(&POLICY, (1000, 180), |_| ()), " missing 0");
        assert_eq!(said(&POLICY, (1000, 100), |_| ()), "a b missing 40", "the one in use stays");
        assert_eq!(said(&POLICY, (1000, 100), |images| images[0].pinned = true), "b missing 70");
        assert_eq!(said(&Policy { high: 100, ..POLICY }, (1000, 0), |_| ()), " missing 0");
        assert_eq!(said(&POLICY, (0, 0), |_| ()), " missing 0", "a filesystem that cannot be asked");
    }

    #[test]
    fn ages() {
        let policy = |max: u64, min: u64| Policy {
            max_age: Duration::from_secs(60 * max),
            min_age: Duration::from_secs(60 * min),
            ..POLICY
        };
        assert_eq!(said(&policy(45, 2), (1000, 900), |_| ()), "a missing 0");
        assert_eq!(said(&policy(20, 2), (1000, 900), |_| ()), "a b missing 0");
        assert_eq!(said(&policy(20, 90), (1000, 900), |_| ()), " missing 0");
        assert_eq!(said(&policy(0, 90), (1000, 100), |_| ()), " missing 100", "all are too young");
        assert_eq!(said(&policy(20, 2), (1000, 900), |images| images.push(image("new", 1))), "a b missing 0");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let (mut memory, _, now) = memory();
        memory.note(&[image("b", 1)], &used(&[]), now);
        assert_eq!(memory.known.keys().collect::<Vec<_>>(), ["b"]);
    }
}
