//! Rules of `metadata`.

use serde_json::Value;

use super::{Check, LABEL, LABEL_VALUE, QUALIFIED, SUBDOMAIN};
use crate::kinds::{Kind, form};

/// Bytes that all annotations of an object may have.
const ANNOTATIONS: usize = 256 * 1024;

pub(super) fn check(kind: &Kind, object: &Value, check: &mut Check) {
    let metadata = &object["metadata"];
    check.inside("metadata", |check| {
        name(kind, form::text(metadata, &["name"]), check);
        check.inside("labels", |check| labels(&metadata["labels"], check));
        annotations(&metadata["annotations"], check);
        check.each("finalizers", form::list(metadata, &["finalizers"]), |check, finalizer| {
            let text = finalizer.as_str().unwrap_or_default();
            if !form::is_qualified_name(text) {
                check.invalid_text("", text, QUALIFIED);
            }
        });
        owners(form::list(metadata, &["ownerReferences"]), check);
    });
}

fn name(kind: &Kind, name: &str, check: &mut Check) {
    if name.is_empty() {
        return check.required("name", "name or generateName is required");
    }
    match kind.kind.as_str() {
        "Namespace" | "Service" if !form::is_dns_label(name) => check.invalid_text("name", name, LABEL),
        "Namespace" | "Service" => {}
        _ if !form::is_dns_subdomain(name) => check.invalid_text("name", name, SUBDOMAIN),
        _ => {}
    }
}

/// Labels, at the path where we are.
pub(super) fn labels(labels: &Value, check: &mut Check) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if !form::is_qualified_name(key) {
            check.invalid_text("", key, QUALIFIED);
        }
        let value = value.as_str().unwrap_or_default();
        if !value.is_empty() && !form::is_label_word(value) {
            check.invalid_text("", value, LABEL_VALUE);
        }
    }
}

fn annotations(annotations: &Value, check: &mut Check) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        if !form::is_qualified_name(&key.to_lowercase()) {
            check.invalid_text("annotations", key, QUALIFIED);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS {
        check.too_long("annotations", ANNOTATIONS);
    }
}

fn owners(owners: &[Value], check: &mut Check) {
    check.each("ownerReferences", owners, |check, owner| {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if form::text(owner, &[field]).is_empty() {
                check.invalid_text(field, "", "must not be empty");
            }
        }
    });
    if owners.iter().filter(|owner| owner["controller"] == true).count() > 1 {
        check.invalid("ownerReferences", owners.len(), "Only one reference can have Controller set to true");
    }
}

/// What an update may not change; the server's own fields were put back before.
pub(super) fn update(new: &Value, old: &Value, check: &mut Check) {
    check.immutable("metadata.name", &new["metadata"]["name"], &old["metadata"]["name"]);
    let deleting = !form::text(old, &["metadata", "deletionTimestamp"]).is_empty();
    let before = form::list(old, &["metadata", "finalizers"]);
    let added = form::list(new, &["metadata", "finalizers"]).iter().filter(|f| !before.contains(f));
    let added: Vec<String> = added.map(ToString::to_string).collect();
    if deleting && !added.is_empty() {
        let why =
            format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
        check.forbidden("metadata.finalizers", &why);
    }
}
