//! The OpenAPI documents: v3, one a group version with an index of hashes, and v2, whole, as JSON.
//!
//! Schemas come from `k8s-openapi`, list rules from `kinds/lists`. `kubectl explain` reads the paths to learn a
//! resource's kind; client-side `apply` reads the list rules and whether PATCH takes `fieldValidation` and `dryRun`.

use std::collections::BTreeMap;

use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::body::Body;
use super::{Api, gnostic, respond};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::kinds::schema::{definitions, type_name};
use crate::kinds::{Kind, lists};

const REF: &str = "#/components/schemas/";

/// The finished documents: path below `/openapi/v3/` -> (hash, text); and v2.
#[derive(Debug)]
pub(crate) struct Documents {
    v3: BTreeMap<String, Document>,
    v2: Document,
    v2_protobuf: Document,
}

/// A document and its hash.
type Document = (String, bytes::Bytes);

const JSON: &str = "application/json";

fn hashed(bytes: impl Into<bytes::Bytes>) -> Document {
    let bytes = bytes.into();
    (hash(&bytes), bytes)
}

/// The first 32 hex digits of a SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02X}")).collect()
}

/// Answers `/openapi/v3`, `/openapi/v3/apis/G/V` and `/openapi/v2`.
pub(crate) fn document(api: &Api, path: &str, request: &Request<Body>) -> Result<Response<Body>> {
    let documents = api.documents.get_or_init(|| Documents::new(api));
    match path {
        "/openapi/v2" => {
            let accept = request.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
            match accept.split(',').map(|m| m.split(';').next().unwrap_or_default().trim()).find_map(v2_form) {
                _ if accept.is_empty() => Ok(tagged(request, &documents.v2, JSON)),
                Some(true) => Ok(tagged(request, &documents.v2_protobuf, gnostic::MEDIA_TYPE)),
                Some(false) => Ok(tagged(request, &documents.v2, JSON)),
                None => {
                    let text = format!("only the following media types are accepted: {JSON}, {}", gnostic::MEDIA_TYPE);
                    Err(Error::new(ErrorKind::NotAcceptable, text))
                }
            }
        }
        "/openapi/v3" => {
            let link = |(path, (hash, _)): (&String, &(String, _))| {
                (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
            };
            let paths: Map<String, Value> = documents.v3.iter().map(link).collect();
            Ok(respond::bytes(StatusCode::OK, "application/json", json!({"paths": paths}).to_string()))
        }
        _ => {
            let found = path.strip_prefix("/openapi/v3/").and_then(|p| documents.v3.get(p));
            let missing = || Error::new(ErrorKind::NotFound, "the server could not find the requested resource");
            Ok(tagged(request, found.ok_or_else(missing)?, JSON))
        }
    }
}

/// Whether a media type of the v2 document is the protobuf one; `None` if it is neither.
fn v2_form(media_type: &str) -> Option<bool> {
    match media_type {
        gnostic::MEDIA_TYPE | gnostic::ASKED => Some(true),
        JSON | "application/*" | "*/*" => Some(false),
        _ => None,
    }
}

fn tagged(request: &Request<Body>, (hash, text): &Document, media_type: &'static str) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    let known = request.headers().get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let (status, body) =
        if known { (StatusCode::NOT_MODIFIED, Default::default()) } else { (StatusCode::OK, text.clone()) };
    let mut response = respond::bytes(status, media_type, body);
    response.headers_mut().insert(ETAG, HeaderValue::from_str(&tag).expect("a hash is plain text"));
    response
}

impl Documents {
    fn new(api: &Api) -> Self {
        let mut schemas = definitions();
        for (name, schema) in &mut schemas {
            dress(name, schema);
            match name.rsplit('.').next() {
                Some("Quantity") => schema["type"] = "string".into(),
                Some("IntOrString") => {
                    schema["type"] = "string".into();
                    schema["format"] = "int-or-string".into();
                }
                _ => {}
            }
            if let Some(map) = schema.as_object_mut() {
                map.shift_remove("x-kubernetes-int-or-string");
            }
        }
        for kind in api.kinds.all() {
            kind_of(&mut schemas, &kind.group, &kind.version, &kind.kind);
            for sub in &kind.subresources {
                if let Some((group, version)) = &sub.group_version {
                    kind_of(&mut schemas, group, version, &sub.kind);
                }
            }
        }
        let mut versions: BTreeMap<String, Vec<&Kind>> = BTreeMap::new();
        for kind in api.kinds.all() {
            let path = if kind.group.is_empty() { "api" } else { "apis" };
            versions.entry(format!("{path}/{}", kind.api_version())).or_default().push(kind);
        }
        let v3 =
            versions.iter().map(|(path, kinds)| (path.clone(), hashed(version_document(kinds, &schemas).to_string())));
        let v3 = v3.collect();
        let all: Vec<&Kind> = api.kinds.all().iter().map(|k| &**k).collect();
        let text = v2_document(&all, &schemas);
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        Self { v3, v2: hashed(text), v2_protobuf: hashed(gnostic::encode(&value)) }
    }
}

/// Brings a schema into the form that Kubernetes publishes: list rules, and references that have a description of
/// their own inside `allOf`.
fn dress(name: &str, schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, property) in properties.iter_mut() {
        let Some(property) = property.as_object_mut() else { continue };
        if property.len() > 1
            && let Some(reference) = property.shift_remove("$ref")
        {
            property.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        let Some(rule) = lists::rule(name, field) else { continue };
        if !rule.list_type.is_empty() {
            property.insert("x-kubernetes-list-type".into(), rule.list_type.into());
        }
        if !rule.map_keys.is_empty() {
            property.insert("x-kubernetes-list-map-keys".into(), json!(rule.map_keys));
        }
        let strategies = [(rule.merge, "merge"), (rule.retain_keys, "retainKeys")];
        let strategy: Vec<&str> = strategies.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if !strategy.is_empty() {
            property.insert("x-kubernetes-patch-strategy".into(), strategy.join(",").into());
        }
        if !rule.merge_key.is_empty() {
            property.insert("x-kubernetes-patch-merge-key".into(), rule.merge_key.into());
        }
    }
}

fn kind_of(schemas: &mut BTreeMap<String, Value>, group: &str, version: &str, kind: &str) {
    if let Some(schema) = schemas.get_mut(&type_name(group, version, kind)) {
        schema["x-kubernetes-group-version-kind"] = json!([gvk(group, version, kind)]);
    }
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn version_document(kinds: &[&Kind], schemas: &BTreeMap<String, Value>) -> Value {
    let mut wanted = Vec::new();
    let mut paths = Map::new();
    for kind in kinds {
        wanted.push(type_name(&kind.group, &kind.version, &kind.kind));
        for sub in &kind.subresources {
            if let Some((group, version)) = &sub.group_version {
                wanted.push(type_name(group, version, &sub.kind));
            }
        }
        add_paths(kind, &mut paths, true);
    }
    wanted.push(type_name("", "v1", "DeleteOptions"));
    wanted.push(type_name("", "v1", "Status"));
    let schemas: Map<String, Value> = closure(wanted, schemas).into_iter().collect();
    json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths, "components": {"schemas": schemas},
    })
}

/// The named schemas and all that they refer to.
fn closure(mut wanted: Vec<String>, schemas: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        if let Some(schema) = schemas.get(&name) {
            references(schema, &mut wanted);
            found.insert(name, schema.clone());
        }
    }
    found
}

fn references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REF)) {
                into.push(name.to_owned());
            }
            map.values().for_each(|value| references(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, into)),
        _ => {}
    }
}

/// The paths of a kind with their operations.
fn add_paths(kind: &Kind, paths: &mut Map<String, Value>, v3: bool) {
    let root = if kind.group.is_empty() { "/api" } else { "/apis" };
    let base = format!("{root}/{}", kind.api_version());
    let place = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{place}/{}", kind.plural);
    let operations = |pairs: &[(&str, &str, &str)]| {
        let mut item = Map::new();
        for (method, action, verb) in pairs {
            if kind.verbs.iter().any(|v| v == verb) {
                item.insert((*method).into(), operation(kind, method, action, v3));
            }
        }
        item
    };
    let many = operations(&[
        ("get", "list", "list"),
        ("post", "post", "create"),
        ("delete", "deletecollection", "deletecollection"),
    ]);
    let one = operations(&[
        ("get", "get", "get"),
        ("put", "put", "update"),
        ("patch", "patch", "patch"),
        ("delete", "delete", "delete"),
    ]);
    if kind.namespaced && kind.verbs.iter().any(|v| v == "list") {
        let everywhere = operations(&[("get", "list", "list")]);
        paths.insert(format!("{base}/{}", kind.plural), Value::Object(everywhere));
    }
    if !many.is_empty() {
        paths.insert(collection.clone(), Value::Object(many));
    }
    if !one.is_empty() {
        paths.insert(format!("{collection}/{{name}}"), Value::Object(one));
    }
}

fn operation(kind: &Kind, method: &str, action: &str, v3: bool) -> Value {
    let writes = matches!(method, "post" | "put" | "patch");
    let mut names = Vec::new();
    if writes || method == "delete" {
        names.push("dryRun");
    }
    if writes {
        names.extend(["fieldManager", "fieldValidation"]);
    }
    if method == "patch" {
        names.push("force");
    }
    let parameter = |name: &&str| {
        let ty = if *name == "force" { "boolean" } else { "string" };
        if v3 {
            json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
        } else {
            json!({"name": name, "in": "query", "type": ty, "uniqueItems": true})
        }
    };
    let reference = type_name(&kind.group, &kind.version, &kind.kind);
    let answer = if v3 {
        json!({"description": "OK", "content": {"application/json": {"schema": {"$ref": format!("{REF}{reference}")}}}})
    } else {
        json!({"description": "OK", "schema": {"$ref": format!("#/definitions/{reference}")}})
    };
    json!({
        "operationId": format!("{action}{}{}", camel(&kind.api_version()), kind.kind),
        "parameters": names.iter().map(parameter).collect::<Value>(),
        "responses": {"200": answer},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(&kind.group, &kind.version, &kind.kind),
    })
}

fn camel(text: &str) -> String {
    let words = text.split(['/', '.']);
    words.map(|w| w[..1].to_uppercase() + &w[1..]).collect()
}

fn v2_document(kinds: &[&Kind], schemas: &BTreeMap<String, Value>) -> String {
    let mut paths = Map::new();
    for kind in kinds {
        add_paths(kind, &mut paths, false);
    }
    let mut schemas = schemas.clone();
    for schema in schemas.values_mut() {
        flatten(schema);
    }
    let value = json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths, "definitions": schemas,
    });
    value.to_string().replace(REF, "#/definitions/")
}

/// In v2 a reference and its description stand side by side.
fn flatten(schema: &mut Value) {
    for property in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(|p| p.values_mut())
    {
        let reference = property.pointer_mut("/allOf/0/$ref").map(Value::take);
        if let Some(map) = property.as_object_mut()
            && let Some(reference) = reference
        {
            map.shift_remove("allOf");
            map.insert("$ref".into(), reference);
        }
    }
}
