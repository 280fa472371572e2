//! update and patch: read, change, check, write if nobody else did meanwhile.

use serde_json::Value;

use super::super::{Api, Call, admission, convert, object, patch as patches, scale};
use super::create::{is_race, put, refuse};
use super::{accept, body_type, of_store};
use crate::client::PatchType;
use crate::error::{Error, Kind, Result};
use crate::kinds::{defaults, form, strategy, validate};
use crate::store::{Expect, Item, Op};

/// How often a write that names no revision is tried against other writers.
const TRIES: usize = 32;

/// Replaces an object (or its subresource).
pub(crate) async fn update(api: &Api, call: &Call, mut body: Value) -> Result<Value> {
    accept(call, &mut body)?;
    let name = form::text(&body, &["metadata", "name"]);
    if name.is_empty() || name != call.name {
        let text = format!("the name of the object ({name}) does not match the name on the URL ({})", call.name);
        return Err(Error::new(Kind::BadRequest, text));
    }
    let exact = !matches!(form::text(&body, &["metadata", "resourceVersion"]), "" | "0");
    let creates = call.kind.creates_on_update() && call.subresource.is_empty() && !exact;
    if creates && api.store.get(&call.key()).is_none() {
        return super::create(api, call, body).await;
    }
    change(api, call, exact, |_| Ok(body.clone())).await
}

/// Patches an object (or its subresource).
pub(crate) async fn patch(api: &Api, call: &Call, kind: PatchType, body: &Value) -> Result<Value> {
    let exact = !form::text(body, &["metadata", "resourceVersion"]).is_empty();
    let ty = body_type(call);
    change(api, call, exact, |current| {
        let mut object = patches::apply(kind, current, body, ty.as_ref())?;
        accept(call, &mut object)?;
        Ok(object)
    })
    .await
}

/// Changes an object through a function of its present state, as the control plane itself does.
pub(crate) async fn mutate(api: &Api, call: &Call, edit: impl Fn(&mut Value) -> Result<()>) -> Result<Value> {
    change(api, call, false, |current| {
        let mut object = current.clone();
        edit(&mut object)?;
        Ok(object)
    })
    .await
}

async fn change(api: &Api, call: &Call, exact: bool, make: impl Fn(&Value) -> Result<Value>) -> Result<Value> {
    for _ in 0..TRIES {
        let item = api.store.get(&call.key()).ok_or_else(|| call.kind.not_found(&call.name))?;
        let old = convert::from_stored(&call.kind, object::of_item(&item)?);
        let new = if call.subresource == "scale" {
            let scaled = make(&scale::of(&call.kind, &old))?;
            scale::apply(&call.kind, &old, &scaled)?
        } else {
            make(&old)?
        };
        match replace(api, call, &item, old, new).await? {
            Some(done) if call.subresource == "scale" => return Ok(scale::of(&call.kind, &done)),
            Some(done) => return Ok(done),
            None if exact => break,
            None => {}
        }
    }
    Err(Error::modified(&call.kind.group, &call.kind.plural, &call.name))
}

/// Writes `new` in place of `item`; `None` if another writer was quicker.
async fn replace(api: &Api, call: &Call, item: &Item, old: Value, mut new: Value) -> Result<Option<Value>> {
    precondition(call, item, &old, &new)?;
    strategy::before_update(&call.kind, &call.subresource, &mut new, &old);
    let (old, mut new) = (convert::to_stored(&call.kind, old), convert::to_stored(&call.kind, new));
    defaults::apply(&call.kind, &mut new);
    admission::update(api, call, &mut new, &old)?;
    strategy::generation(&call.kind, &mut new, &old);
    refuse(call, &call.name, validate::update(&call.kind, &call.subresource, &new, &old))?;
    let expect = Expect::Revision(item.revision);
    let bytes = object::encode(&new)?;
    if bytes == item.value || call.dry_run {
        new["metadata"]["resourceVersion"] = item.revision.to_string().into();
        return Ok(Some(convert::from_stored(&call.kind, new)));
    }
    let op = if strategy::is_finished(&call.kind, &new) {
        Op::delete(item.key.clone(), expect)
    } else {
        put(call, item.key.to_string(), expect, &new)?
    };
    match api.store.commit(vec![op]).await {
        Ok(done) => {
            new["metadata"]["resourceVersion"] = done.revision.to_string().into();
            Ok(Some(convert::from_stored(&call.kind, new)))
        }
        Err(e) if is_race(&e) => Ok(None),
        Err(e) => Err(of_store(call, &call.name, e)),
    }
}

/// The revision and the uid that the new object names must be the stored ones.
fn precondition(call: &Call, item: &Item, old: &Value, new: &Value) -> Result<()> {
    let (group, plural, name) = (&call.kind.group, &call.kind.plural, &call.name);
    let revision = form::text(new, &["metadata", "resourceVersion"]);
    if !matches!(revision, "" | "0") && revision != item.revision.to_string() {
        return Err(Error::modified(group, plural, name));
    }
    let (wanted, uid) = (form::text(new, &["metadata", "uid"]), form::text(old, &["metadata", "uid"]));
    if !wanted.is_empty() && wanted != uid {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Error::conflict(group, plural, name, &why));
    }
    Ok(())
}
