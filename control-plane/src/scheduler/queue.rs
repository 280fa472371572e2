//! Pods that wait for a node: those to be tried now in order, those that wait out a back-off, and those that wait for
//! the cluster to change (pure; time is an argument).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::snapshot::Candidate;

/// The first back-off; doubles with each attempt.
const FIRST: Duration = Duration::from_secs(1);
/// The longest back-off.
const LAST: Duration = Duration::from_secs(10);
/// A pod that fits nowhere is tried again after so long even if nothing changed.
const PARKED: Duration = Duration::from_secs(300);

type Order = (Reverse<i32>, u64);

/// The queue.
#[derive(Default)]
pub(super) struct Waiting {
    pods: HashMap<String, Entry>,
    active: BTreeMap<Order, String>,
    /// (when, uid) of pods that are tried again at a time.
    timed: BTreeSet<(Instant, String)>,
    arrivals: u64,
}

struct Entry {
    candidate: Candidate,
    order: Order,
    attempts: u32,
    /// Not before this time, whatever changes.
    not_before: Option<Instant>,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Active,
    Timed(Instant),
    /// Being bound.
    Out,
}

impl Waiting {
    /// Takes in a new pod, or the newer state of a waiting one, and makes it ready to be tried.
    pub(super) fn put(&mut self, candidate: Candidate) {
        let uid = candidate.uid.clone();
        match self.pods.get_mut(&uid) {
            Some(entry) if entry.candidate.pod.spec == candidate.pod.spec => entry.candidate = candidate,
            Some(entry) => {
                entry.candidate = candidate;
                entry.not_before = None;
                self.activate(&uid);
            }
            None => {
                self.arrivals += 1;
                let order = (Reverse(candidate.priority()), self.arrivals);
                self.active.insert(order, uid.clone());
                let place = Place::Active;
                self.pods.insert(uid, Entry { candidate, order, attempts: 0, not_before: None, place });
            }
        }
    }

    /// Forgets a pod.
    pub(super) fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.pods.remove(uid) {
            self.active.remove(&entry.order);
            if let Place::Timed(at) = entry.place {
                self.timed.remove(&(at, uid.to_owned()));
            }
        }
    }

    pub(super) fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Whether a pod waits whose place depends on other pods.
    pub(super) fn looks_around(&self) -> bool {
        self.pods.values().any(|entry| entry.candidate.looks_around())
    }

    pub(super) fn uids(&self) -> impl Iterator<Item = String> {
        self.pods.keys().cloned()
    }

    /// The next pod to try; it counts as being tried until [`Waiting::park`], [`Waiting::retry`] or [`Waiting::remove`].
    pub(super) fn next(&mut self) -> Option<Candidate> {
        let (_, uid) = self.active.pop_first()?;
        let entry = self.pods.get_mut(&uid)?;
        entry.place = Place::Out;
        entry.attempts += 1;
        Some(entry.candidate.clone())
    }

    /// The pod fits nowhere: it waits for a change.
    pub(super) fn park(&mut self, uid: &str, now: Instant) {
        self.wait(uid, now, PARKED);
    }

    /// The pod could not be bound: it is tried again after its back-off.
    pub(super) fn retry(&mut self, uid: &str, now: Instant) {
        self.wait(uid, now, Duration::ZERO);
    }

    fn wait(&mut self, uid: &str, now: Instant, at_least: Duration) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let back_off = FIRST.saturating_mul(1 << entry.attempts.saturating_sub(1).min(10)).min(LAST);
        entry.not_before = Some(now + back_off);
        let at = now + back_off.max(at_least);
        entry.place = Place::Timed(at);
        self.timed.insert((at, uid.to_owned()));
    }

    /// The cluster changed: every parked pod may be tried, once its back-off is over.
    pub(super) fn wake_all(&mut self, now: Instant) {
        let waiting: Vec<(Instant, String)> = std::mem::take(&mut self.timed).into_iter().collect();
        for (_, uid) in waiting {
            let Some(entry) = self.pods.get_mut(&uid) else { continue };
            match entry.not_before.filter(|at| *at > now) {
                Some(at) => {
                    entry.place = Place::Timed(at);
                    self.timed.insert((at, uid));
                }
                None => self.activate(&uid),
            }
        }
    }

    /// Makes ready what is due; returns when the next pod will be.
    pub(super) fn due(&mut self, now: Instant) -> Option<Instant> {
        while let Some((at, uid)) = self.timed.first().cloned() {
            if at > now {
                return Some(at);
            }
            self.activate(&uid);
        }
        None
    }

    fn activate(&mut self, uid: &str) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if let Place::Timed(at) = entry.place {
            self.timed.remove(&(at, uid.to_owned()));
        } else if entry.place == Place::Out {
            return; // it is being bound; the outcome decides
        }
        entry.place = Place::Active;
        self.active.insert(entry.order, uid.to_owned());
    }
}
