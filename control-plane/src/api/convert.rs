//! The one kind that is served in two versions: Event of `v1` and of `events.k8s.io/v1`. The stored form is `v1`.

use serde_json::Value;

use crate::kinds::Kind;

/// v1 name, events.k8s.io/v1 name
const FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Whether objects of the kind differ from their stored form.
pub(crate) fn differs(kind: &Kind) -> bool {
    kind.group == "events.k8s.io"
}

/// From the kind's own form to the stored one.
pub(crate) fn to_stored(kind: &Kind, object: Value) -> Value {
    if differs(kind) { renamed(object, "v1", |(core, new)| (new, core)) } else { object }
}

/// From the stored form to the kind's own.
pub(crate) fn from_stored(kind: &Kind, object: Value) -> Value {
    if differs(kind) { renamed(object, "events.k8s.io/v1", |pair| pair) } else { object }
}

type Pair = (&'static str, &'static str);

fn renamed(mut object: Value, api_version: &str, order: impl Fn(Pair) -> Pair) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
        for (from, to) in FIELDS.iter().map(|pair| order(*pair)) {
            if let Some(value) = map.shift_remove(from) {
                map.insert(to.into(), value);
            }
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;
    use serde_json::json;

    #[test]
    fn events_go_there_and_back() {
        let kind = Kinds::builtin().named("events.events.k8s.io").expect("kind");
        let new = json!({"apiVersion": "events.k8s.io/v1", "note": "hi", "regarding": {"name": "x"}, "reason": "R"});
        let stored = to_stored(&kind, new.clone());
        assert_eq!(stored["message"], "hi");
        assert_eq!(stored["involvedObject"]["name"], "x");
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(from_stored(&kind, stored), new);
    }
}
