//! The graph of owners as text.

use super::graph::{FOREGROUND, ORPHAN};
use super::*;

/// `uid [going] [foreground] [orphan] [<-owner] [<=blocked owner]`
fn object(words: &str) -> Object {
    let mut words = words.split(' ');
    let uid = words.next().expect("uid").to_owned();
    let mut object = Object { resource: "pods".into(), key: Key::new("d", &uid), uid, ..Object::default() };
    for word in words {
        match word {
            "going" => object.terminating = true,
            "foreground" => object.finalizers.push(FOREGROUND.into()),
            "orphan" => object.finalizers.push(ORPHAN.into()),
            owner => {
                let block = owner.starts_with("<=");
                object.owners.push(json!({"uid": &owner[2..], "blockOwnerDeletion": block}));
            }
        }
    }
    object
}

fn graph(objects: &[&str]) -> Graph {
    let mut graph = Graph::default();
    objects.iter().for_each(|words| drop(graph.put(object(words))));
    graph
}

fn check(objects: &[&str], uid: &str, absent: &[&str], expect: &[&str]) {
    let absent = absent.iter().map(ToString::to_string).collect();
    let actions = graph(objects).decide(uid, &absent);
    assert_eq!(actions.iter().map(ToString::to_string).collect::<Vec<_>>(), expect, "{objects:?}");
}

#[test]
fn dependents_go_with_their_last_owner() {
    check(&["rs", "pod <=rs"], "pod", &[], &[]);
    check(&["pod <=rs"], "pod", &["rs"], &["delete pods d/pod"]);
    check(&["pod <=rs"], "pod", &[], &[]); // nobody has said that the owner is absent
    check(&["b", "pod <=a <=b"], "pod", &["a"], &["disown pods d/pod from a"]);
    check(&["pod <=a <=b"], "pod", &["a", "b"], &["delete pods d/pod"]);
    check(&["pod going <=a"], "pod", &["a"], &[]);
    check(&["pod"], "pod", &["a"], &[]);
}

#[test]
fn foreground_waits_for_what_blocks() {
    let all = ["d going foreground", "rs <=d", "pod <=rs"];
    check(&all, "d", &[], &["delete pods d/rs foreground"]);
    check(&["d going foreground", "rs <=d"], "d", &[], &["delete pods d/rs"]);
    check(&["d going foreground", "rs going foreground <=d", "pod <=rs"], "rs", &[], &["delete pods d/pod"]);
    check(&["d going foreground", "rs going <=d"], "d", &[], &[]);
    check(&["d going foreground"], "d", &[], &["release pods d/d from foregroundDeletion"]);
    let free = ["delete pods d/pod", "release pods d/d from foregroundDeletion"];
    check(&["d going foreground", "pod <-d"], "d", &[], &free);
    check(&["d going foreground", "e", "pod <=d <=e"], "pod", &[], &["disown pods d/pod from d"]);
}

#[test]
fn orphans_are_set_free_before_the_owner_goes() {
    check(&["d going orphan", "rs <=d", "x <=d"], "d", &[], &["disown pods d/rs from d", "disown pods d/x from d"]);
    check(&["d going orphan"], "d", &[], &["release pods d/d from orphan"]);
}

#[test]
fn events_wake_those_they_concern() {
    let mut graph = graph(&["rs", "a <=rs", "b <=rs"]);
    assert_eq!(graph.remove("rs"), ["a", "b"], "the dependents of what is gone");
    assert_eq!(graph.remove("a"), ["rs"], "and the owner, which may wait for its last dependent");
    assert_eq!(graph.put(object("b")), ["rs"], "a reference taken away");
    assert_eq!(graph.put(object("b going")), ["b"]);
    assert!(graph.put(object("c")).is_empty());
    assert_eq!(graph.unknown_owners("b").len(), 0);
    graph.put(object("b <=gone"));
    assert_eq!(graph.unknown_owners("b").len(), 1);
    assert_eq!(graph.of_resource("pods").len(), 2);
}
