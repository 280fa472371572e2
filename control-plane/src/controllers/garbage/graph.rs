//! DECIDE: who owns whom, and what must go because its owners went (pure).
//!
//! Kubernetes documentation, "Garbage Collection" and "Owners and Dependents":
//! - background: when the last owner is gone, so are its dependents;
//! - foreground (finalizer `foregroundDeletion`): a terminating owner waits for dependents that block it;
//! - orphan (finalizer `orphan`): dependents lose the owner reference, then the owner goes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use serde_json::Value;

use crate::controllers::informer::Key;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What is kept of every object in the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Object {
    /// `pods`, `deployments.apps`
    pub(super) resource: String,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) revision: String,
    /// `metadata.ownerReferences` as it is.
    pub(super) owners: Vec<Value>,
    pub(super) finalizers: Vec<String>,
    pub(super) terminating: bool,
}

impl Object {
    pub(super) fn of(resource: &str, object: &Value) -> Object {
        let meta = &object["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
        Object {
            resource: resource.to_owned(),
            key: Key { namespace: text("namespace"), name: text("name") },
            uid: text("uid"),
            revision: text("resourceVersion"),
            owners: meta["ownerReferences"].as_array().cloned().unwrap_or_default(),
            finalizers: strings(&meta["finalizers"]),
            terminating: !meta["deletionTimestamp"].is_null(),
        }
    }

    pub(super) fn owner_uids(&self) -> impl Iterator<Item = &str> {
        self.owners.iter().filter_map(|owner| owner["uid"].as_str())
    }

    fn waits_with(&self, finalizer: &str) -> bool {
        self.terminating && self.finalizers.iter().any(|f| f == finalizer)
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o["uid"] == owner && o["blockOwnerDeletion"] == true)
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Delete the object; in the foreground if it must wait for its own dependents.
    Delete { object: Object, foreground: bool },
    /// Take references to these owners out of the object.
    Disown { object: Object, owners: BTreeSet<String> },
    /// Take the finalizer off the object.
    Release { object: Object, finalizer: &'static str },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Delete { object, foreground: true } => {
                write!(f, "delete {} {} foreground", object.resource, object.key)
            }
            Action::Delete { object, .. } => write!(f, "delete {} {}", object.resource, object.key),
            Action::Disown { object, owners } => {
                let owners: Vec<_> = owners.iter().map(String::as_str).collect();
                write!(f, "disown {} {} from {}", object.resource, object.key, owners.join(","))
            }
            Action::Release { object, finalizer } => {
                write!(f, "release {} {} from {finalizer}", object.resource, object.key)
            }
        }
    }
}

/// Every object by uid, and the other end of its owner references.
#[derive(Default)]
pub(super) struct Graph {
    objects: HashMap<String, Object>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// Takes in an object; returns the uids that have to be looked at.
    pub(super) fn put(&mut self, object: Object) -> Vec<String> {
        let uid = object.uid.clone();
        let mut wake: Vec<String> = Vec::new();
        if let Some(was) = self.objects.get(&uid) {
            let lost: Vec<String> =
                was.owner_uids().filter(|owner| !object.owner_uids().any(|o| o == *owner)).map(str::to_owned).collect();
            for owner in lost {
                self.unlink(&owner, &uid);
                wake.push(owner);
            }
        }
        for owner in object.owner_uids() {
            self.dependents.entry(owner.to_owned()).or_default().insert(uid.clone());
        }
        if !object.owners.is_empty() || object.terminating {
            wake.push(uid.clone());
        }
        self.objects.insert(uid, object);
        wake
    }

    /// Forgets an object; returns the uids that have to be looked at.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(object) = self.objects.remove(uid) else { return Vec::new() };
        let mut wake: Vec<String> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in object.owner_uids() {
            self.unlink(owner, uid);
            wake.push(owner.to_owned());
        }
        wake
    }

    /// The uids of all objects of a resource.
    pub(super) fn of_resource(&self, resource: &str) -> HashSet<String> {
        self.objects.values().filter(|object| object.resource == resource).map(|object| object.uid.clone()).collect()
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &Object> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.objects.get(uid))
    }

    /// Owners of the object that are not in the graph: whether they exist has to be asked.
    pub(super) fn unknown_owners(&self, uid: &str) -> Vec<Value> {
        let owners = self.objects.get(uid).map(|object| object.owners.clone()).unwrap_or_default();
        owners.into_iter().filter(|o| o["uid"].as_str().is_some_and(|uid| !self.objects.contains_key(uid))).collect()
    }

    /// What to do about the object `uid`, when `absent` are the uids of owners that certainly do not exist.
    pub(super) fn decide(&self, uid: &str, absent: &HashSet<String>) -> Vec<Action> {
        let Some(object) = self.objects.get(uid) else { return Vec::new() };
        if object.waits_with(ORPHAN) {
            return self.orphan(object);
        }
        if object.waits_with(FOREGROUND) {
            return self.foreground(object);
        }
        if object.terminating || object.owners.is_empty() {
            return Vec::new();
        }
        let (gone, there): (Vec<&str>, Vec<&str>) = object.owner_uids().partition(|owner| absent.contains(*owner));
        let waiting = |owner: &&str| self.objects.get(*owner).is_some_and(|owner| owner.waits_with(FOREGROUND));
        let (going, solid): (Vec<&str>, Vec<&str>) = there.into_iter().partition(waiting);
        if solid.is_empty() && (!gone.is_empty() || !going.is_empty()) {
            let blocked = self.dependents_of(uid).any(|dependent| dependent.blocks(uid));
            return vec![Action::Delete { object: object.clone(), foreground: !going.is_empty() && blocked }];
        }
        if gone.is_empty() && going.is_empty() {
            return Vec::new();
        }
        let owners = gone.into_iter().chain(going).map(str::to_owned).collect();
        vec![Action::Disown { object: object.clone(), owners }]
    }

    fn orphan(&self, object: &Object) -> Vec<Action> {
        let owners = BTreeSet::from([object.uid.clone()]);
        let disown = |dependent: &Object| Action::Disown { object: dependent.clone(), owners: owners.clone() };
        let dependents: Vec<_> = self.dependents_of(&object.uid).map(disown).collect();
        if dependents.is_empty() {
            return vec![Action::Release { object: object.clone(), finalizer: ORPHAN }];
        }
        dependents
    }

    fn foreground(&self, object: &Object) -> Vec<Action> {
        let mut actions = Vec::new();
        for dependent in self.dependents_of(&object.uid).filter(|dependent| !dependent.terminating) {
            actions.extend(self.decide(&dependent.uid, &HashSet::new()));
        }
        if !self.dependents_of(&object.uid).any(|dependent| dependent.blocks(&object.uid)) {
            actions.push(Action::Release { object: object.clone(), finalizer: FOREGROUND });
        }
        actions
    }
}
