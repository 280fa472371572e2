//! Rules that objects must keep, told as kube-apiserver tells them: a path, a reason, a sentence.

mod container;
mod ephemeral;
mod meta;
mod pod;
mod small;
mod workload;

use std::fmt::Display;

use serde_json::Value;

use super::Kind;
use crate::error::Cause;

/// Checks an object that is created.
pub fn create(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut check = Check::default();
    meta::check(kind, object, &mut check);
    by_kind(kind, object, &mut check);
    check.causes
}

/// Checks an object that replaces another.
pub fn update(kind: &Kind, subresource: &str, new: &Value, old: &Value) -> Vec<Cause> {
    let mut check = Check::default();
    meta::check(kind, new, &mut check);
    meta::update(new, old, &mut check);
    match subresource {
        "" | "scale" => by_kind_update(kind, new, old, &mut check),
        "ephemeralcontainers" => {
            check.inside("spec", |check| ephemeral::update(&new["spec"], &old["spec"], check));
        }
        _ => {}
    }
    check.causes
}

fn by_kind(kind: &Kind, object: &Value, check: &mut Check) {
    match kind.kind.as_str() {
        "Pod" => check.inside("spec", |check| pod::spec(&object["spec"], check)),
        "Deployment" => workload::deployment(&object["spec"], check),
        "ReplicaSet" => workload::replica_set(&object["spec"], check),
        "ConfigMap" => small::config_map(object, check),
        "Secret" => small::secret(object, check),
        "Service" => small::service(&object["spec"], check),
        "Event" => small::event(object, check),
        "Lease" => small::lease(&object["spec"], check),
        "PriorityClass" => small::priority_class(object, check),
        "RuntimeClass" => small::runtime_class(object, check),
        "Node" => small::node(object, check),
        _ => {}
    }
}

fn by_kind_update(kind: &Kind, new: &Value, old: &Value, check: &mut Check) {
    match kind.kind.as_str() {
        "Pod" => pod::update(&new["spec"], &old["spec"], check),
        _ => by_kind(kind, new, check),
    }
    match kind.kind.as_str() {
        "Deployment" | "ReplicaSet" => {
            check.immutable("spec.selector", &new["spec"]["selector"], &old["spec"]["selector"])
        }
        "ConfigMap" | "Secret" => small::immutable_data(new, old, check),
        "PriorityClass" => check.immutable("value", &new["value"], &old["value"]),
        "RuntimeClass" => check.immutable("handler", &new["handler"], &old["handler"]),
        _ => {}
    }
}

/// The causes found so far, and where we are.
#[derive(Debug, Default)]
struct Check {
    path: Vec<String>,
    causes: Vec<Cause>,
}

impl Check {
    /// Runs `body` one field deeper.
    fn inside(&mut self, field: &str, body: impl FnOnce(&mut Self)) {
        self.path.push(field.to_owned());
        body(self);
        self.path.pop();
    }

    /// Runs `body` for each entry of a list.
    fn each<'v>(&mut self, field: &str, list: &'v [Value], mut body: impl FnMut(&mut Self, &'v Value)) {
        for (at, entry) in list.iter().enumerate() {
            self.inside(&format!("{field}[{at}]"), |check| body(check, entry));
        }
    }

    fn at(&self, field: &str) -> String {
        let mut path = self.path.join(".");
        if !field.is_empty() {
            if !path.is_empty() && !field.starts_with('[') {
                path.push('.');
            }
            path.push_str(field);
        }
        path
    }

    fn add(&mut self, reason: &'static str, field: &str, message: String) {
        let field = self.at(field);
        self.causes.push(Cause { reason, field, message });
    }

    fn required(&mut self, field: &str, why: &str) {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        self.add("FieldValueRequired", field, message);
    }

    fn invalid(&mut self, field: &str, value: impl Display, why: &str) {
        self.add("FieldValueInvalid", field, format!("Invalid value: {value}: {why}"));
    }

    /// As [`Self::invalid`], of a text, which is quoted.
    fn invalid_text(&mut self, field: &str, value: &str, why: &str) {
        self.invalid(field, format_args!("{value:?}"), why);
    }

    fn forbidden(&mut self, field: &str, why: &str) {
        self.add("FieldValueForbidden", field, format!("Forbidden: {why}"));
    }

    fn duplicate(&mut self, field: &str, value: &str) {
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {value:?}"));
    }

    fn not_found(&mut self, field: &str, value: &str) {
        self.add("FieldValueNotFound", field, format!("Not found: {value:?}"));
    }

    fn too_long(&mut self, field: &str, limit: usize) {
        self.add("FieldValueTooLong", field, format!("Too long: may not be more than {limit} bytes"));
    }

    /// The text must be one of `choices`; nothing is nothing wrong.
    fn one_of(&mut self, field: &str, value: &Value, choices: &[&str]) {
        let Some(text) = value.as_str() else { return };
        if !choices.contains(&text) {
            let list = choices.iter().map(|c| format!("{c:?}")).collect::<Vec<_>>().join(", ");
            self.add("FieldValueNotSupported", field, format!("Unsupported value: {text:?}: supported values: {list}"));
        }
    }

    /// A number must not be negative.
    fn not_negative(&mut self, field: &str, value: &Value) {
        if let Some(number) = value.as_i64().filter(|n| *n < 0) {
            self.invalid(field, number, "must be greater than or equal to 0");
        }
    }

    fn port(&mut self, field: &str, value: &Value) {
        if let Some(number) = value.as_i64().filter(|n| !(1..=65535).contains(n)) {
            self.invalid(field, number, "must be between 1 and 65535, inclusive");
        }
    }

    fn immutable(&mut self, field: &str, new: &Value, old: &Value) {
        if new != old {
            self.invalid(field, new, "field is immutable");
        }
    }
}

/// What a DNS label must be, in the words of apimachinery.
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
'[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// What a DNS subdomain must be.
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What the name of a label or annotation must be.
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// What a label's value must be.
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
'.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
