//! DECIDE: device rules -> `DevicePolicy` and `DeviceAllow`. systemd.resource-control(5).
//!
//! systemd knows a list of what is allowed and nothing else. What it cannot say (a denied piece of an allowed range,
//! any major with one minor) is enforced by our own program or list, which is installed afterwards; what it is told
//! matters when it reloads and installs its own again.

use super::properties::{Property, property};
use super::wire::Value;
use crate::cgroup::devices::{ALL, MKNOD, READ, Rule, Type, WRITE};

/// One line of the list: kind, major, minor, accesses.
type Entry = (Type, Option<u32>, Option<u32>, u32);

/// The properties for `rules` as [`crate::cgroup::devices::rules`] orders them.
pub(super) fn properties(rules: &[Rule]) -> Vec<Property> {
    let list = |entries: Vec<Value>| property("DeviceAllow", Value::List("(ss)".into(), entries));
    let policy = |policy: &str| property("DevicePolicy", Value::text(policy));
    match allowed(rules) {
        List::All => vec![list(Vec::new()), policy("auto")],
        // Nothing at all rather than too much, until ours is installed.
        List::AllBut => vec![list(Vec::new()), policy("strict")],
        // The empty list first: a list that is set is added to the one before.
        List::Only(entries) => {
            vec![list(Vec::new()), policy("strict"), list(entries.into_iter().filter_map(line).collect())]
        }
    }
}

enum List {
    All,
    AllBut,
    Only(Vec<Entry>),
}

fn allowed(rules: &[Rule]) -> List {
    let mut list = List::Only(Vec::new());
    for rule in rules {
        let everything = rule.kind == Type::Any && rule.access == ALL;
        list = match (list, rule.allow) {
            (_, true) if everything => List::All,
            (_, false) if everything => List::Only(Vec::new()),
            (List::Only(mut entries), true) => {
                add(&mut entries, rule);
                List::Only(entries)
            }
            (List::Only(mut entries), false) => {
                remove(&mut entries, rule);
                List::Only(entries)
            }
            (list, true) => list,
            (List::All | List::AllBut, false) => List::AllBut,
        };
    }
    list
}

fn kinds(kind: Type) -> &'static [Type] {
    match kind {
        Type::Any => &[Type::Block, Type::Char],
        Type::Block => &[Type::Block],
        Type::Char => &[Type::Char],
    }
}

fn add(entries: &mut Vec<Entry>, rule: &Rule) {
    for kind in kinds(rule.kind) {
        let same = entries.iter_mut().find(|entry| (entry.0, entry.1, entry.2) == (*kind, rule.major, rule.minor));
        match same {
            Some(entry) => entry.3 |= rule.access,
            None => entries.push((*kind, rule.major, rule.minor, rule.access)),
        }
    }
}

/// Takes the accesses from every entry that lies within the rule.
fn remove(entries: &mut Vec<Entry>, rule: &Rule) {
    let within = |outer: Option<u32>, inner: Option<u32>| outer.is_none() || outer == inner;
    for entry in entries.iter_mut() {
        if kinds(rule.kind).contains(&entry.0) && within(rule.major, entry.1) && within(rule.minor, entry.2) {
            entry.3 &= !rule.access;
        }
    }
    entries.retain(|entry| entry.3 != 0);
}

/// `char-*`, `block-8`, `/dev/char/1:3`; `None` for any major with one minor, which has no name.
fn line((kind, major, minor, access): Entry) -> Option<Value> {
    let word = if kind == Type::Block { "block" } else { "char" };
    let path = match (major, minor) {
        (None, None) => format!("{word}-*"),
        (Some(major), None) => format!("{word}-{major}"),
        (Some(major), Some(minor)) => format!("/dev/{word}/{major}:{minor}"),
        (None, Some(_)) => return None,
    };
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].into_iter();
    let letters: String = letters.filter(|(bit, _)| access & bit != 0).map(|(_, letter)| letter).collect();
    Some(Value::Struct(vec![Value::Text(path), Value::Text(letters)]))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxResources;

    use super::*;

    fn lines(devices: &str) -> String {
        let resources: LinuxResources = serde_json::from_str(&format!(r#"{{"devices":{devices}}}"#)).unwrap();
        let rules = crate::cgroup::devices::rules(Some(&resources)).unwrap();
        properties(&rules).iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    const DEFAULTS: &str = r#"("char-*", "m"), ("block-*", "m"), ("/dev/char/1:3", "rwm"), ("/dev/char/1:5", "rwm"), ("/dev/char/1:7", "rwm"), ("/dev/char/1:8", "rwm"), ("/dev/char/1:9", "rwm"), ("/dev/char/5:0", "rwm"), ("/dev/char/5:2", "rwm"), ("/dev/char/10:200", "rwm"), ("char-136", "rwm")"#;

    #[test]
    fn the_usual_rules_are_a_list() {
        let head = "DeviceAllow=[]\nDevicePolicy=\"strict\"\n";
        assert_eq!(lines(r#"[{"allow":false,"access":"rwm"}]"#), format!("{head}DeviceAllow=[{DEFAULTS}]\n"));
        let more = r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
          {"allow":true,"type":"b","major":8,"access":"rm"},{"allow":true,"type":"b","major":8,"access":"w"},
          {"allow":true,"type":"c","minor":7,"access":"r"}]"#;
        let expected = format!(r#"{head}DeviceAllow=[("/dev/char/10:229", "rw"), ("block-8", "rwm"), {DEFAULTS}]"#);
        assert_eq!(lines(more), expected + "\n");
    }

    #[test]
    fn a_denied_one_is_taken_from_the_list() {
        let rules = r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"},
          {"allow":true,"type":"c","major":10,"minor":230,"access":"rwm"},
          {"allow":false,"type":"c","major":10,"access":"wm"},{"allow":false,"type":"c","major":10,"minor":230,"access":"r"}]"#;
        assert!(
            lines(rules).contains(r#"DeviceAllow=[("/dev/char/10:229", "r"), ("char-*", "m")"#),
            "{}",
            lines(rules)
        );
    }

    #[test]
    fn everything_is_no_list() {
        assert_eq!(lines(r#"[{"allow":true,"access":"rwm"}]"#), "DeviceAllow=[]\nDevicePolicy=\"auto\"\n");
        let but = r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"minor":0,"access":"w"}]"#;
        assert_eq!(lines(but), "DeviceAllow=[]\nDevicePolicy=\"strict\"\n");
    }
}
