//! Label and field selectors.
//!
//! Labels: `a=b`, `a==b`, `a!=b`, `a in (x,y)`, `a notin (x,y)`, `a`, `!a`, `a>1`, `a<1`, joined by commas. Fields:
//! `f=v`, `f==v`, `f!=v`, of the fields that each kind offers ([`FIELDS`]). Source: apimachinery's labels and fields.

use serde_json::Value;

use super::pick::pick;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::kinds::Kind;
use crate::kinds::form;

/// What a list or a watch selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    op: Op,
}

#[derive(Clone, Debug, PartialEq)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

#[derive(Clone, Debug, PartialEq)]
struct FieldRequirement {
    path: Vec<&'static str>,
    equal: bool,
    value: String,
}

/// Fields that selectors may name, besides `metadata.name` and `metadata.namespace`: resource, fields.
#[rustfmt::skip]
const FIELDS: &[(&str, &[&str])] = &[
    ("pods", &["spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
        "spec.hostNetwork", "status.phase", "status.podIP", "status.nominatedNodeName"]),
    ("events", &["involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
        "reportingComponent", "source", "type"]),
    ("events.events.k8s.io", &["regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid",
        "regarding.apiVersion", "regarding.resourceVersion", "regarding.fieldPath", "reason",
        "reportingController", "type"]),
    ("nodes", &["spec.unschedulable"]),
    ("namespaces", &["status.phase"]),
    ("secrets", &["type"]),
    ("services", &["spec.clusterIP", "spec.type"]),
    ("replicasets.apps", &["status.replicas"]),
];

impl Selector {
    /// Parses both selectors for a kind.
    ///
    /// # Errors
    /// `BadRequest` for bad grammar, or for a field that the kind does not offer.
    pub(crate) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(kind, fields)? })
    }

    /// Whether everything is selected.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The prefix of the keys that can match: of one name, if the selector says `metadata.name=X`, so that a watch of
    /// one object is not woken by the others.
    pub(crate) fn prefix(&self, kind: &Kind, namespace: &str) -> String {
        let name = self.fields.iter().find(|f| f.equal && f.path == ["metadata", "name"]);
        match name {
            Some(name) if !kind.namespaced || !namespace.is_empty() => kind.key(namespace, &name.value),
            _ => kind.prefix(namespace),
        }
    }

    /// Whether the stored bytes of an object are selected.
    pub(crate) fn matches(&self, stored: &[u8]) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut paths: Vec<&[&str]> = self.fields.iter().map(|f| f.path.as_slice()).collect();
        paths.push(&["metadata", "labels"]);
        let mut found = pick(stored, &paths);
        let labels = found.pop().unwrap_or_default();
        let fields = self.fields.iter().zip(&found).all(|(f, value)| (plain(value, &f.path) == f.value) == f.equal);
        fields && self.labels.iter().all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }
}

/// The textual form of a field: nothing is empty text, or `false` of the fields that are flags, `0` of counts.
fn plain(value: &Value, path: &[&str]) -> String {
    match (value, path.last()) {
        (Value::Null, Some(&("unschedulable" | "hostNetwork"))) => "false".into(),
        (Value::Null, Some(&"replicas")) => "0".into(),
        (Value::Null, _) => String::new(),
        (Value::String(text), _) => text.clone(),
        (Value::Object(_), Some(&"source")) => form::text(value, &["component"]).to_owned(),
        (other, _) => other.to_string(),
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.op {
            Op::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Op::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Op::Exists => value.is_some(),
            Op::Absent => value.is_none(),
            Op::Above(limit) => number().is_some_and(|n| n > *limit),
            Op::Below(limit) => number().is_some_and(|n| n < *limit),
        }
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::BadRequest, format!("unable to parse requirement {text:?}: {why}"))
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>> {
    let mut list = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = end_of_requirement(rest);
        list.push(requirement(rest[..end].trim())?);
        rest = rest[end..].trim_start_matches(',').trim();
    }
    Ok(list)
}

/// Up to the next comma outside of brackets.
fn end_of_requirement(text: &str) -> usize {
    let mut inside = false;
    for (at, c) in text.char_indices() {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            ',' if !inside => return at,
            _ => {}
        }
    }
    text.len()
}

fn requirement(text: &str) -> Result<Requirement> {
    let key_ok = |key: &str| {
        if form::is_qualified_name(key) { Ok(key.to_owned()) } else { Err(bad(text, "invalid label key")) }
    };
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement { key: key_ok(key.trim())?, op: Op::Absent });
    }
    let end = text.find(|c: char| c.is_whitespace() || "=!<>(".contains(c)).unwrap_or(text.len());
    let (key, rest) = (key_ok(&text[..end])?, text[end..].trim());
    let op = operator(text, rest)?;
    Ok(Requirement { key, op })
}

fn operator(text: &str, rest: &str) -> Result<Op> {
    let single = |value: &str| {
        let value = value.trim();
        if value.is_empty() || form::is_label_word(value) {
            Ok(vec![value.to_owned()])
        } else {
            Err(bad(text, "invalid label value"))
        }
    };
    let number = |value: &str| value.trim().parse().map_err(|_| bad(text, "the value must be an integer"));
    if rest.is_empty() {
        return Ok(Op::Exists);
    }
    if let Some(value) = rest.strip_prefix("!=") {
        return single(value).map(Op::NotIn);
    }
    if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        return single(value).map(Op::In);
    }
    if let Some(value) = rest.strip_prefix('>') {
        return number(value).map(Op::Above);
    }
    if let Some(value) = rest.strip_prefix('<') {
        return number(value).map(Op::Below);
    }
    let set = |word: &str| rest.strip_prefix(word).map(str::trim_start).filter(|r| r.starts_with('('));
    match (set("in"), set("notin")) {
        (Some(values), _) => values_of(text, values).map(Op::In),
        (_, Some(values)) => values_of(text, values).map(Op::NotIn),
        _ => Err(bad(text, "found no operator of in, notin, =, ==, !=, gt, lt")),
    }
}

fn values_of(text: &str, values: &str) -> Result<Vec<String>> {
    let inner = values.strip_prefix('(').and_then(|v| v.strip_suffix(')'));
    let inner = inner.ok_or_else(|| bad(text, "expected '(' and ')' around the values"))?;
    Ok(inner.split(',').map(|v| v.trim().to_owned()).collect())
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<FieldRequirement>> {
    split_escaped(text).into_iter().filter(|part| !part.trim().is_empty()).map(|part| field(kind, &part)).collect()
}

/// Splits at commas that no backslash stands before.
fn split_escaped(text: &str) -> Vec<String> {
    let (mut parts, mut escaped) = (vec![String::new()], false);
    for c in text.chars() {
        match c {
            ',' if !escaped => parts.push(String::new()),
            c => parts.last_mut().expect("never empty").push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn field(kind: &Kind, text: &str) -> Result<FieldRequirement> {
    let cut = |sign: &str| text.split_once(sign);
    let (name, value, equal) = match (cut("!="), cut("=="), cut("=")) {
        (Some((name, value)), ..) => (name, value, false),
        (_, Some((name, value)), _) | (.., Some((name, value))) => (name, value, true),
        _ => {
            let text = format!("invalid selector: '{text}'; can't understand '{text}'");
            return Err(Error::new(ErrorKind::BadRequest, text));
        }
    };
    let path = path_of(kind, name.trim())?;
    let value = value.trim().replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\");
    Ok(FieldRequirement { path, equal, value })
}

fn path_of(kind: &Kind, name: &str) -> Result<Vec<&'static str>> {
    let known = FIELDS.iter().find(|(resource, _)| *resource == kind.resource()).map_or(&[][..], |(_, f)| f);
    let common = ["metadata.name", "metadata.namespace"];
    let found = common.iter().chain(known).find(|f| **f == name);
    let found = found.ok_or_else(|| {
        let text = format!("field label not supported: {name}");
        Error::new(ErrorKind::BadRequest, text)
    })?;
    // The stored form of both versions of Event is the core one.
    let stored: &'static str = match *found {
        "reportingController" => "reportingComponent",
        other => other,
    };
    let path = stored.split('.');
    Ok(path.map(|part| if part == "regarding" { "involvedObject" } else { part }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    fn select(resource: &str, labels: &str, fields: &str) -> Result<Selector> {
        Selector::parse(&Kinds::builtin().named(resource).expect("kind"), labels, fields)
    }

    #[test]
    fn label_operators() {
        let object = br#"{"metadata":{"name":"a","labels":{"app":"web","n":"5","x/y":""}}}"#;
        let table = [
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=db", true),
            ("none!=a", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db,x)", true),
            ("none notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!none", true),
            ("n>4", true),
            ("n<5", false),
            ("n > 4", true),
            ("app=web,n=5", true),
            ("app=web,n=6", false),
            ("x/y=", true),
            ("app in (web),!none,n", true),
            ("app>1", false),
            ("", true),
            ("in in (a)", false),
        ];
        for (text, expected) in table {
            let selector = select("pods", text, "").unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.matches(object), expected, "{text}");
        }
        for bad in ["a b", "=x", "a in web", "a in (x", "a>b", "a=b c", "!", "a=/"] {
            assert!(select("pods", bad, "").is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors() {
        let pod = br#"{"metadata":{"name":"a","namespace":"n"},"spec":{"nodeName":"n1"},"status":{"phase":"Running"}}"#;
        let table = [
            ("metadata.name=a", true),
            ("metadata.name!=a", false),
            ("spec.nodeName=n1,status.phase!=Failed", true),
            ("spec.nodeName=", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
            ("", true),
        ];
        for (text, expected) in table {
            assert_eq!(select("pods", "", text).expect(text).matches(pod), expected, "{text}");
        }
        let error = select("configmaps", "", "data=x").expect_err("unknown");
        assert_eq!(error.to_string(), "field label not supported: data");
        assert!(select("pods", "", "nonsense").is_err());
        let one = select("pods", "", "metadata.name=x").expect("fits");
        let kind = Kinds::builtin().named("pods").expect("kind");
        assert_eq!((one.prefix(&kind, "n").as_str(), one.prefix(&kind, "").as_str()), ("core/pods/n/x", "core/pods/"));
    }

    #[test]
    fn both_event_versions_select_the_stored_form() {
        let event =
            br#"{"metadata":{"name":"a"},"involvedObject":{"name":"p","kind":"Pod"},"source":{"component":"k"}}"#;
        assert!(select("events", "", "involvedObject.name=p,source=k").expect("fits").matches(event));
        assert!(select("events.events.k8s.io", "", "regarding.name=p").expect("fits").matches(event));
    }
}
