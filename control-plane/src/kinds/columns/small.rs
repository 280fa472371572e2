//! The rows of the smaller kinds.

use jiff::Timestamp;
use serde_json::Value;

use super::{age, count, name, or_none, since};
use crate::kinds::form::{self, selector_text};

/// The first of several paths with a text.
fn first<'a>(object: &'a Value, paths: &[&[&str]]) -> &'a str {
    paths.iter().map(|path| form::text(object, path)).find(|text| !text.is_empty()).unwrap_or_default()
}

/// Both versions of Event.
pub(super) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let about = if event["involvedObject"].is_object() { &event["involvedObject"] } else { &event["regarding"] };
    let kind = form::text(about, &["kind"]).to_lowercase();
    let object = format!("{kind}/{}", form::text(about, &["name"]));
    let counted = event["count"].as_i64().or(event["deprecatedCount"].as_i64()).filter(|n| *n > 0);
    let total = event["series"]["count"].as_i64().or(counted).unwrap_or(1);
    let created = ["metadata", "creationTimestamp"];
    let begun: &[&[&str]] = &[&["firstTimestamp"], &["deprecatedFirstTimestamp"], &["eventTime"], &created];
    let seen: &[&[&str]] =
        &[&["series", "lastObservedTime"], &["lastTimestamp"], &["deprecatedLastTimestamp"], &["eventTime"], &created];
    let when = |paths: &[&[&str]]| {
        let path = paths.iter().find(|path| !form::text(event, path).is_empty());
        path.map_or_else(|| "<unknown>".into(), |path| since(event, path, now))
    };
    vec![
        when(seen),
        form::text(event, &["type"]).into(),
        form::text(event, &["reason"]).into(),
        object.into(),
        form::text(about, &["fieldPath"]).into(),
        source(event).into(),
        first(event, &[&["message"], &["note"]]).trim().into(),
        when(begun),
        total.to_string().into(),
        name(event),
    ]
}

fn source(event: &Value) -> String {
    let component: &[&[&str]] = &[
        &["source", "component"],
        &["deprecatedSource", "component"],
        &["reportingComponent"],
        &["reportingController"],
    ];
    let parts = [first(event, component), first(event, &[&["source", "host"], &["deprecatedSource", "host"]])];
    parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", ")
}

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), object["status"]["phase"].clone(), age(object, now)]
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let total = ["data", "binaryData"].iter().filter_map(|k| object[*k].as_object()).map(|m| m.len()).sum::<usize>();
    vec![name(object), total.into(), age(object, now)]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), object["type"].clone(), count(&object["data"]), age(object, now)]
}

pub(super) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), count(&object["secrets"]), age(object, now)]
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), form::text(object, &["spec", "holderIdentity"]).into(), age(object, now)]
}

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &object["spec"];
    let ports = form::list(spec, &["ports"]).iter().map(|port| {
        let node = port["nodePort"].as_u64().map_or(String::new(), |n| format!(":{n}"));
        format!("{}{node}/{}", port["port"], form::text(port, &["protocol"]))
    });
    let ports = ports.collect::<Vec<_>>().join(",");
    let labels = selector_text(&serde_json::json!({"matchLabels": spec["selector"]}));
    let external = match form::text(spec, &["type"]) {
        "ExternalName" => form::text(spec, &["externalName"]),
        "LoadBalancer" => "<pending>",
        _ => "",
    };
    vec![
        name(object),
        spec["type"].clone(),
        or_none(form::text(spec, &["clusterIP"])),
        or_none(external),
        or_none(&ports),
        age(object, now),
        or_none(&labels),
    ]
}

/// At most three, then `+ n more...`.
fn shorten(list: &[String]) -> Value {
    match list {
        [] => "<none>".into(),
        [shown @ .., _] if list.len() > 3 => format!("{} + {} more...", shown[..3].join(","), list.len() - 3).into(),
        all => all.join(",").into(),
    }
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in form::list(object, &["subsets"]) {
        for address in form::list(subset, &["addresses"]) {
            let ip = form::text(address, &["ip"]);
            let ports = form::list(subset, &["ports"]);
            if ports.is_empty() {
                list.push(ip.to_owned());
            }
            list.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    vec![name(object), shorten(&list), age(object, now)]
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = form::list(object, &["ports"]).iter().map(|p| p["port"].to_string()).collect();
    let each = form::list(object, &["endpoints"]).iter().flat_map(|e| form::list(e, &["addresses"]));
    let addresses: Vec<String> = each.filter_map(Value::as_str).map(str::to_owned).collect();
    let ports = if ports.is_empty() { "<unset>".into() } else { shorten(&ports) };
    let addresses = if addresses.is_empty() { "<unset>".into() } else { shorten(&addresses) };
    vec![name(object), object["addressType"].clone(), ports, addresses, age(object, now)]
}

pub(super) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let default = (object["globalDefault"] == true).into();
    vec![name(object), object["value"].clone(), default, age(object, now), object["preemptionPolicy"].clone()]
}

pub(super) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), object["handler"].clone(), age(object, now)]
}

pub(super) fn csi_node(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), count(&object["spec"]["drivers"]), age(object, now)]
}
