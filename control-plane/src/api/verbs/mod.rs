//! The verbs, as functions over the store. HTTP and the in-process client both end here.

mod create;
mod delete;
mod read;
mod update;

pub(crate) use create::{create, ensure, generate};
pub(crate) use delete::{delete, delete_collection};
pub(crate) use read::{ListQuery, Page, get, list_all, list_and_watch, page};
pub(crate) use update::{mutate, patch, update};

use serde_json::Value;

use super::Call;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::kinds::normal::normalise;
use crate::kinds::schema::{Type, schema};
use crate::store;

/// Whether unknown fields are an error, a warning, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// The store's error about a key, as an error about the object.
pub(crate) fn of_store(call: &Call, name: &str, error: store::Error) -> Error {
    let (group, plural) = (&call.kind.group, &call.kind.plural);
    match error.kind() {
        store::Kind::Exists => Error::already_exists(group, plural, name),
        store::Kind::Missing => Error::not_found(group, plural, name),
        store::Kind::Conflict => Error::modified(group, plural, name),
        store::Kind::Compacted | store::Kind::Slow => {
            Error::new(ErrorKind::Expired, format!("too old resource version: {error}"))
        }
        store::Kind::Future => {
            Error::new(ErrorKind::Timeout, format!("Too large resource version: {error}")).retry_after(1)
        }
        store::Kind::Closed => Error::new(ErrorKind::Unavailable, "the server is stopping"),
        _ => Error::internal("the store", error),
    }
}

/// The type of what a call takes: of the kind, or of its subresource.
pub(crate) fn body_type(call: &Call) -> Option<Type> {
    let (group, version, kind) = call.body_kind();
    schema().kind(group, version, kind)
}

/// Takes a body: checks apiVersion and kind, normalises by type, and judges unknown fields.
pub(crate) fn accept(call: &Call, object: &mut Value) -> Result<()> {
    let (group, version, kind) = call.body_kind();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let Some(map) = object.as_object_mut() else {
        return Err(Error::new(ErrorKind::BadRequest, "the body is no object"));
    };
    for (key, wanted) in [("apiVersion", api_version.as_str()), ("kind", kind)] {
        let given = map.get(key).and_then(Value::as_str).unwrap_or_default();
        if !given.is_empty() && given != wanted {
            let text = format!("the {key} in the data ({given}) does not match the expected {key} ({wanted})");
            return Err(Error::new(ErrorKind::BadRequest, text));
        }
        map.insert(key.into(), wanted.into());
    }
    if !matches!(map.get("metadata"), Some(Value::Object(_))) {
        map.insert("metadata".into(), Value::Object(Default::default()));
    }
    let Some(ty) = body_type(call) else { return Ok(()) };
    let unknown = normalise(object, &ty)?;
    judge(call, kind, version, unknown)
}

fn judge(call: &Call, kind: &str, version: &str, unknown: Vec<String>) -> Result<()> {
    let told: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    match call.field_validation {
        _ if told.is_empty() => Ok(()),
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            call.warn(told);
            Ok(())
        }
        FieldValidation::Strict => {
            let list = told.join(", ");
            let text =
                format!("{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {list}");
            Err(Error::new(ErrorKind::BadRequest, text))
        }
    }
}
