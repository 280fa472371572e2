//! The verbs. (First the signatures: whoever calls is told to come back later.)

use serde_json::Value;

use super::watch::Subscription;
use super::{Api, Call};
use crate::client::{DeleteOptions, List, ListOptions, PatchType};
use crate::error::{Error, Kind, Result};

fn later<T>(_api: &Api, call: &Call) -> Result<T> {
    Err(Error::new(
        Kind::Unavailable,
        format!("{} are not served yet", call.kind.resource()),
    ))
}

pub(crate) async fn get(api: &Api, call: &Call) -> Result<Value> {
    later(api, call)
}
pub(crate) async fn list_all(api: &Api, call: &Call, _options: &ListOptions) -> Result<List> {
    later(api, call)
}
pub(crate) async fn create(api: &Api, call: &Call, _object: Value) -> Result<Value> {
    later(api, call)
}
pub(crate) async fn update(api: &Api, call: &Call, _object: Value) -> Result<Value> {
    later(api, call)
}
pub(crate) async fn patch(
    api: &Api,
    call: &Call,
    _patch: PatchType,
    _body: &Value,
) -> Result<Value> {
    later(api, call)
}
pub(crate) async fn delete(api: &Api, call: &Call, _options: &DeleteOptions) -> Result<Value> {
    later(api, call)
}
pub(crate) async fn bind(api: &Api, call: &Call, _body: &Value) -> Result<()> {
    later(api, call)
}
pub(crate) async fn list_and_watch(
    api: &Api,
    call: &Call,
    _options: &ListOptions,
) -> Result<(List, Subscription)> {
    later(api, call)
}
