//! Strategic merge patch: a merge patch that knows which lists are maps by a key.
//!
//! Directives: `$patch: replace|delete|merge`, `$retainKeys`, `$deleteFromPrimitiveList/F`, `$setElementOrder/F`.
//! Source: `k8s.io/apimachinery/pkg/util/strategicpatch` (its documented behaviour), with types from the schema.

use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::kinds::lists::ListRule;
use crate::kinds::schema::{Field, Object, Type, schema};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Deepest nesting taken.
const DEPTH: usize = 64;

/// Merges `patch` into `object`, whose type is `ty`.
pub(super) fn merge(object: &mut Value, patch: &Value, ty: Option<&Type>) -> Result<()> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(bad("a strategic merge patch must be an object"));
    };
    merge_map(object, patch, object_type(ty), DEPTH)
}

fn bad(why: impl Into<String>) -> Error {
    Error::new(Kind::BadRequest, why)
}

fn object_type(ty: Option<&Type>) -> Option<&'static Object> {
    match ty {
        Some(Type::Object(number)) => Some(schema().at(*number)),
        _ => None,
    }
}

/// The type of a key's value: of a field, or of a map's values.
fn inner<'a>(
    of: Option<&'a Object>,
    map_item: Option<&'a Type>,
    key: &str,
) -> (Option<&'a Type>, Option<&'a ListRule>) {
    match of.and_then(|o| o.fields.get(key)) {
        Some(Field { ty, rule }) => (Some(ty), *rule),
        None => (map_item, None),
    }
}

fn merge_map(
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    of: Option<&Object>,
    depth: usize,
) -> Result<()> {
    merge_typed(current, patch, of, None, depth)
}

fn merge_typed(
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    of: Option<&Object>,
    map_item: Option<&Type>,
    depth: usize,
) -> Result<()> {
    let depth = depth.checked_sub(1).ok_or_else(|| bad("the patch is nested too deeply"))?;
    match patch.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
        Some("replace") => {
            *current = without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            current.clear();
            return Ok(());
        }
        None | Some("merge") => {}
        Some(other) => return Err(bad(format!("unknown patch type {other:?} of {PATCH}"))),
    }
    if let Some(keys) = patch.get(RETAIN) {
        retain(current, patch, keys)?;
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(current, list, value)?;
        } else if !key.starts_with('$') || key.starts_with("$ref") {
            let (ty, rule) = inner(of, map_item, key);
            merge_key(current, key, value, (ty, rule), depth)?;
        } else if !key.starts_with(ORDER) && key != PATCH && key != RETAIN {
            return Err(bad(format!("unknown directive {key:?}")));
        }
    }
    for (key, order) in patch {
        if let Some(list) = key.strip_prefix(ORDER) {
            let (_, rule) = inner(of, map_item, list);
            set_order(current, list, order, patch.get(list), rule)?;
        }
    }
    Ok(())
}

fn merge_key(
    current: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    (ty, rule): (Option<&Type>, Option<&ListRule>),
    depth: usize,
) -> Result<()> {
    match (current.get_mut(key), value) {
        (_, Value::Null) => {
            current.shift_remove(key);
        }
        (Some(Value::Object(old)), Value::Object(new)) => {
            let item = if let Some(Type::Map(item)) = ty { Some(&**item) } else { None };
            merge_typed(old, new, object_type(ty), item, depth)?;
        }
        (old, Value::Array(new)) if rule.is_some_and(|r| r.merge) => {
            let rule = rule.expect("checked by the guard");
            let mut list = match old {
                Some(Value::Array(old)) => std::mem::take(old),
                _ => Vec::new(),
            };
            let item = if let Some(Type::List(item)) = ty { object_type(Some(item)) } else { None };
            merge_list(&mut list, new, rule, item, depth)?;
            current.insert(key.into(), Value::Array(list));
        }
        (_, Value::Object(new)) => {
            if new.get(PATCH).and_then(Value::as_str) != Some("delete") {
                current.insert(key.into(), Value::Object(without_directives(new)));
            }
        }
        (_, value) => {
            current.insert(key.into(), value.clone());
        }
    }
    Ok(())
}

/// A patch that becomes the value itself: without directives and nulls.
fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    let directive =
        |key: &str| key == PATCH || key == RETAIN || key.starts_with(DELETE_PRIMITIVES) || key.starts_with(ORDER);
    let kept = patch.iter().filter(|(key, value)| !directive(key) && !value.is_null());
    kept.map(|(key, value)| (key.clone(), clean(value))).collect()
}

fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => items.iter().filter(|i| i.get(PATCH).is_none()).map(clean).collect(),
        other => other.clone(),
    }
}

fn retain(current: &mut Map<String, Value>, patch: &Map<String, Value>, keys: &Value) -> Result<()> {
    let keys = keys.as_array().ok_or_else(|| bad(format!("{RETAIN} must be a list")))?;
    let listed = |key: &str| keys.iter().any(|k| k == key);
    if let Some(extra) = patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !listed(key)) {
        return Err(bad(format!("the key {:?} of the patch is not in {RETAIN}", extra.0)));
    }
    current.retain(|key, _| listed(key));
    Ok(())
}

fn delete_primitives(current: &mut Map<String, Value>, list: &str, gone: &Value) -> Result<()> {
    let gone = gone.as_array().ok_or_else(|| bad(format!("{DELETE_PRIMITIVES}{list} must be a list")))?;
    if let Some(Value::Array(items)) = current.get_mut(list) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_list(
    list: &mut Vec<Value>,
    patch: &[Value],
    rule: &ListRule,
    item: Option<&Object>,
    depth: usize,
) -> Result<()> {
    if rule.merge_key.is_empty() {
        for value in patch {
            if !list.contains(value) {
                list.push(value.clone());
            }
        }
        return Ok(());
    }
    let directive = |entry: &Value| entry.get(PATCH).and_then(Value::as_str).map(str::to_owned);
    if patch.iter().any(|entry| directive(entry).as_deref() == Some("replace")) {
        *list = patch.iter().filter(|entry| directive(entry).is_none()).map(clean).collect();
        return Ok(());
    }
    for entry in patch {
        let Value::Object(map) = entry else {
            return Err(bad(format!("an entry of a list merged by {:?} must be an object", rule.merge_key)));
        };
        let key = map.get(rule.merge_key).filter(|k| !k.is_null());
        let key = key.ok_or_else(|| bad(format!("map does not contain declared merge key: {}", rule.merge_key)))?;
        let same = |old: &Value| old.get(rule.merge_key) == Some(key);
        match (directive(entry).as_deref(), list.iter().position(same)) {
            (Some("delete"), _) => list.retain(|old| !same(old)),
            (_, Some(at)) => {
                if let Value::Object(old) = &mut list[at] {
                    merge_map(old, map, item, depth)?;
                }
            }
            (_, None) => list.push(Value::Object(without_directives(map))),
        }
    }
    Ok(())
}

/// `$setElementOrder`: the entries named come in the order given, the others stay near their neighbours.
fn set_order(
    current: &mut Map<String, Value>,
    list: &str,
    order: &Value,
    patch: Option<&Value>,
    rule: Option<&ListRule>,
) -> Result<()> {
    let order = order.as_array().ok_or_else(|| bad(format!("{ORDER}{list} must be a list")))?;
    let merge_key = rule.map_or("", |r| r.merge_key);
    let key_of = |entry: &Value| if merge_key.is_empty() { entry.clone() } else { entry[merge_key].clone() };
    let order: Vec<Value> = order.iter().map(key_of).collect();
    if let Some(Value::Array(patch)) = patch {
        let stray = patch.iter().find(|p| p.get(PATCH).is_none() && !order.contains(&key_of(p)));
        if let Some(stray) = stray {
            return Err(bad(format!("{ORDER}{list} does not name {}, which is in the patch", key_of(stray))));
        }
    }
    let Some(Value::Array(items)) = current.get_mut(list) else { return Ok(()) };
    let live: Vec<Value> = items.iter().map(key_of).collect();
    let place = |of: &Value| live.iter().position(|k| *k == key_of(of));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|entry| order.contains(&key_of(entry)));
    named.sort_by_key(|entry| order.iter().position(|k| *k == key_of(entry)));
    let mut others = others.into_iter().peekable();
    for entry in named {
        while let Some(other) = others.next_if(|other| place(other) < place(&entry)) {
            items.push(other);
        }
        items.push(entry);
    }
    items.extend(others);
    Ok(())
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
