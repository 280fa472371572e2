//! Protobuf request bodies, as `kubectl create` and client-go send them, turned into JSON.
//!
//! A body is `k8s\0` and a `runtime.Unknown{typeMeta{apiVersion, kind}, raw}`. The field numbers come from a table
//! (`fields.txt`: type, then JSON names in the order of their numbers; `@17` sets the next number, `*Type` is a message
//! whose fields are inlined in JSON), the types from the schema. Everything is bounds-checked; nesting is limited.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine;
use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::kinds::form;
use crate::kinds::schema::{Object, Type, schema, type_name};

/// What a protobuf body starts with.
pub(crate) const MAGIC: &[u8] = b"k8s\0";

/// Deepest nesting of messages taken.
const DEPTH: usize = 64;

#[derive(Clone, Copy)]
enum Name {
    Field(&'static str),
    Inline(&'static str),
}

type Numbers = HashMap<u32, Name>;

static FIELDS: LazyLock<HashMap<&'static str, Numbers>> =
    LazyLock::new(|| include_str!("protobuf/fields.txt").lines().filter_map(row).collect());

fn row(line: &'static str) -> Option<(&'static str, Numbers)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let (mut next, mut numbers) = (1, Numbers::new());
    for word in words {
        if let Some(number) = word.strip_prefix('@') {
            next = number.parse().ok()?;
            continue;
        }
        numbers.insert(next, word.strip_prefix('*').map_or(Name::Field(word), Name::Inline));
        next += 1;
    }
    Some((name, numbers))
}

/// Decodes a body.
///
/// # Errors
/// `BadRequest` when the bytes are no such message, or the kind is not known.
pub(crate) fn decode(body: &[u8]) -> Result<Value> {
    let body = body.strip_prefix(MAGIC).ok_or_else(|| bad("does not start with k8s\\0"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    for field in Fields(body) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Fields(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let name = type_name(group, version, &kind);
    let object = schema().object(&name).ok_or_else(|| bad(&format!("no kind {kind:?} in {api_version:?}")))?;
    let mut value = Map::new();
    value.insert("apiVersion".into(), api_version.as_str().into());
    value.insert("kind".into(), kind.as_str().into());
    message(raw, object, &object.name, DEPTH, &mut value)?;
    Ok(Value::Object(value))
}

fn bad(why: &str) -> Error {
    Error::new(Kind::BadRequest, format!("the protobuf body cannot be decoded: {why}"))
}

fn utf8(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| bad("text is not UTF-8"))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(|| bad("truncated"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(bad("a number is longer than ten bytes"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| bad("truncated"))?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| bad("truncated"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Wire<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| bad("field number too large"))?;
        let little = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(little(self.take(8)?)),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Number(little(self.take(4)?)),
            other => return Err(bad(&format!("wire type {other}"))),
        };
        Ok((number, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Decodes a message into `out`. `types` has the types of its fields, `numbers_of` names the row of field numbers:
/// they differ for inlined messages.
fn message(bytes: &[u8], types: &Object, numbers_of: &str, depth: usize, out: &mut Map<String, Value>) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or_else(|| bad("nested too deeply"))?;
    let short = numbers_of.strip_prefix("io.k8s.").unwrap_or(numbers_of);
    let numbers = FIELDS.get(short).ok_or_else(|| bad(&format!("no field numbers of {short}")))?;
    for field in Fields(bytes) {
        let (number, wire) = field?;
        match (numbers.get(&number), wire) {
            (Some(Name::Inline(inner)), Wire::Bytes(bytes)) => {
                let package = types.name.rsplit_once('.').map_or("", |(package, _)| package);
                message(bytes, types, &format!("{package}.{inner}"), depth, out)?;
            }
            (Some(Name::Field(name)), wire) => {
                if let Some(field) = types.fields.get(*name) {
                    insert(name, &field.ty, types, wire, depth, out)?;
                }
            }
            // A newer client's field: dropped, as the API server does.
            _ => {}
        }
    }
    Ok(())
}

fn insert(
    name: &str,
    ty: &Type,
    of: &Object,
    wire: Wire<'_>,
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<()> {
    match ty {
        Type::List(item) => {
            let list = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let value = single(item, wire, depth)?;
            if let Value::Array(items) = list {
                items.push(value);
            }
        }
        Type::Map(item) => {
            let Wire::Bytes(bytes) = wire else { return Err(bad("a map entry is no message")) };
            let (key, value) = entry(item, bytes, depth)?;
            let map = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        }
        ty => {
            let value = single(ty, wire, depth)?;
            if !omitted(name, &value) || of.required.iter().any(|r| r == name) {
                out.insert(name.into(), value);
            }
        }
    }
    Ok(())
}

fn entry(item: &Type, bytes: &[u8], depth: usize) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), zero(item));
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            // `map<string, ExtraValue>`, where ExtraValue is a message of `repeated string items = 1`.
            (2, Wire::Bytes(inner)) if matches!(item, Type::List(_)) => {
                let Type::List(of) = item else { continue };
                let items = Fields(inner).map(|f| f.and_then(|(_, wire)| single(of, wire, depth)));
                value = Value::Array(items.collect::<Result<_>>()?);
            }
            (2, wire) => value = single(item, wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn zero(ty: &Type) -> Value {
    match ty {
        Type::Boolean => false.into(),
        Type::Integer(_) | Type::Number => 0.into(),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Object(_) | Type::Map(_) => Value::Object(Map::new()),
        _ => "".into(),
    }
}

fn single(ty: &Type, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match (ty, wire) {
        (Type::Boolean, Wire::Number(n)) => (n != 0).into(),
        (Type::Integer(true), Wire::Number(n)) => (n as i64).into(),
        (Type::Integer(false), Wire::Number(n)) => (n as i32).into(),
        (Type::Number, Wire::Number(n)) => f64::from_bits(n).into(),
        (Type::Text, Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        (Type::Bytes, Wire::Bytes(bytes)) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        (Type::Quantity, Wire::Bytes(bytes)) => only_text(bytes)?,
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Type::Time, Wire::Bytes(bytes)) => time(bytes, false)?,
        (Type::MicroTime, Wire::Bytes(bytes)) => time(bytes, true)?,
        (Type::Any, Wire::Bytes(bytes)) => raw_json(bytes)?,
        (Type::Object(number), Wire::Bytes(bytes)) => {
            let object = schema().at(*number);
            let mut map = Map::new();
            message(bytes, object, &object.name, depth, &mut map)?;
            Value::Object(map)
        }
        _ => return Err(bad("a field has another type than it should")),
    })
}

/// `Quantity{string = 1}`
fn only_text(bytes: &[u8]) -> Result<Value> {
    let mut text = String::new();
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(inner)) = field? {
            text = utf8(inner)?;
        }
    }
    Ok(if text.is_empty() { "0".into() } else { text.into() })
}

/// `IntOrString{type = 1, intVal = 2, strVal = 3}`
fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number = n as i32,
            (3, Wire::Bytes(inner)) => text = utf8(inner)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// `Time{seconds = 1, nanos = 2}`; an empty one is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Value> {
    let (mut seconds, mut nanos, mut some) = (0i64, 0i32, false);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Number(n)) => (seconds, some) = (n as i64, true),
            (2, Wire::Number(n)) => nanos = n as i32,
            _ => {}
        }
    }
    if !some {
        return Ok(Value::Null);
    }
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| bad("a time out of range"))?;
    Ok(if micro { form::micro_time(time).into() } else { form::second_time(time).into() })
}

/// `FieldsV1{raw = 1}`, `RawExtension{raw = 1}`: JSON in bytes.
fn raw_json(bytes: &[u8]) -> Result<Value> {
    for field in Fields(bytes) {
        if let (1, Wire::Bytes(inner)) = field? {
            return serde_json::from_slice(inner).map_err(|e| bad(&format!("embedded json: {e}")));
        }
    }
    Ok(Value::Null)
}

/// Whether Go would leave the value out of JSON: the encoder writes zero values of plain (not pointer) fields too.
fn omitted(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !matches!(name, "storageClassName" | "ingressClassName"),
        Value::Bool(false) => !POINTERS.contains(&name),
        Value::Number(n) => n.as_f64() == Some(0.0) && !POINTERS.contains(&name),
        // `status: {}` and `strategy: {}` are as good as nothing; `emptyDir: {}` is not.
        Value::Object(map) => map.is_empty() && matches!(name, "status" | "strategy" | "metadata" | "resources"),
        _ => false,
    }
}

/// Fields that are pointers in Go, so that zero and false are told apart from nothing.
const POINTERS: &[&str] = &[
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "attachRequired",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "controller",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "enableServiceLinks",
    "expirationSeconds",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "leaseDurationSeconds",
    "leaseTransitions",
    "mode",
    "optional",
    "orphanDependents",
    "podInfoOnMount",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "requiresRepublish",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "started",
    "storageCapacity",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "weight",
    "count",
];

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
