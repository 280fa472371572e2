//! What `kubectl get` prints: the columns of each kind, and their cells.
//!
//! Names, order, priorities (1: only with `-o wide`) and cells follow `pkg/printers/internalversion` of Kubernetes 1.33.

mod duration;
mod node;
mod pod;
mod small;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use duration::human;

use super::{Kind, form};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header, `Ready`.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`.
    pub kind: &'static str,
    /// 1: only with `-o wide`.
    pub priority: u8,
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", priority: 0 }
}
const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", priority: 0 }
}
const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", priority: 1 }
}

const NAME: Column = text("Name");
const AGE: Column = text("Age");

/// Group and kind, the columns, and what fills them.
type Row = (&'static str, &'static str, &'static [Column], fn(&Value, Timestamp) -> Vec<Value>);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("", "Pod", &[NAME, text("Ready"), text("Status"), text("Restarts"), AGE, wide("IP"), wide("Node"),
        wide("Nominated Node"), wide("Readiness Gates")], pod::cells),
    ("", "Node", &[NAME, text("Status"), text("Roles"), AGE, text("Version"), wide("Internal-IP"),
        wide("External-IP"), wide("OS-Image"), wide("Kernel-Version"), wide("Container-Runtime")], node::cells),
    ("apps", "Deployment", &[NAME, text("Ready"), number("Up-to-date"), number("Available"), AGE,
        wide("Containers"), wide("Images"), wide("Selector")], workload::deployment),
    ("apps", "ReplicaSet", &[NAME, number("Desired"), number("Current"), number("Ready"), AGE,
        wide("Containers"), wide("Images"), wide("Selector")], workload::replica_set),
    ("", "Event", &[text("Last Seen"), text("Type"), text("Reason"), text("Object"), wide("Subobject"),
        wide("Source"), text("Message"), wide("First Seen"), wide("Count"), wide("Name")], small::event),
    ("events.k8s.io", "Event", &[text("Last Seen"), text("Type"), text("Reason"), text("Object"), wide("Subobject"),
        wide("Source"), text("Message"), wide("First Seen"), wide("Count"), wide("Name")], small::event),
    ("", "Namespace", &[NAME, text("Status"), AGE], small::namespace),
    ("", "ConfigMap", &[NAME, number("Data"), AGE], small::config_map),
    ("", "Secret", &[NAME, text("Type"), number("Data"), AGE], small::secret),
    ("", "ServiceAccount", &[NAME, number("Secrets"), AGE], small::service_account),
    ("coordination.k8s.io", "Lease", &[NAME, text("Holder"), AGE], small::lease),
    ("", "Service", &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE,
        wide("Selector")], small::service),
    ("", "Endpoints", &[NAME, text("Endpoints"), AGE], small::endpoints),
    ("discovery.k8s.io", "EndpointSlice", &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE],
        small::endpoint_slice),
    ("scheduling.k8s.io", "PriorityClass", &[NAME, number("Value"),
        Column { name: "Global-Default", kind: "boolean", priority: 0 }, AGE, text("PreemptionPolicy")],
        small::priority_class),
    ("node.k8s.io", "RuntimeClass", &[NAME, text("Handler"), AGE], small::runtime_class),
    ("storage.k8s.io", "CSINode", &[NAME, number("Drivers"), AGE], small::csi_node),
];

const OTHER: &[Column] = &[NAME, text("Created At")];

fn row(kind: &Kind) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.0 == kind.group && row.1 == kind.kind)
}

/// The columns of a kind.
pub fn columns(kind: &Kind) -> &'static [Column] {
    row(kind).map_or(OTHER, |row| row.2)
}

/// The cells of an object, one a column.
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    match row(kind) {
        Some(row) => row.3(object, now),
        None => vec![name(object), object["metadata"]["creationTimestamp"].clone()],
    }
}

/// `columnDefinitions` of a Table.
pub fn definitions(kind: &Kind) -> Value {
    let one = |c: &Column| {
        let format = if c.name == "Name" { "name" } else { "" };
        json!({"name": c.name, "type": c.kind, "format": format, "description": describe(c.name), "priority": c.priority})
    };
    columns(kind).iter().map(one).collect()
}

fn describe(name: &str) -> String {
    match name {
        "Name" => "Name must be unique within a namespace.".into(),
        "Age" | "Created At" => "When the server created the object.".into(),
        other => other.to_owned(),
    }
}

fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// Age since a time at a path; `<unknown>` without one.
fn since(object: &Value, path: &[&str], now: Timestamp) -> Value {
    match form::text(object, path).parse::<Timestamp>() {
        Ok(then) => human(now.duration_since(then).as_secs()).into(),
        Err(_) => "<unknown>".into(),
    }
}

fn age(object: &Value, now: Timestamp) -> Value {
    since(object, &["metadata", "creationTimestamp"], now)
}

/// Text, or `<none>`.
fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

fn count(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.len().into(),
        Value::Array(list) => list.len().into(),
        _ => 0.into(),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
