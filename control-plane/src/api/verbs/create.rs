//! create.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::super::{Api, Call, admission, convert, object, timings};
use super::{accept, of_store};
use crate::error::{Error, Kind, Result};
use crate::kinds::{defaults, form, strategy, validate};
use crate::store::{self, Expect, Op};

/// How long an Event is kept, as kube-apiserver's `--event-ttl`.
const EVENT_TTL: Duration = Duration::from_secs(3600);

/// Letters of generated names: no vowels, nothing that looks alike.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Creates an object and returns what was stored.
pub(crate) async fn create(api: &Api, call: &Call, mut object: Value) -> Result<Value> {
    let received = timings::now();
    accept(call, &mut object)?;
    let generated = identify(call, &mut object)?;
    let mut tries = if generated { 8 } else { 1 };
    loop {
        tries -= 1;
        match create_named(api, call, object.clone()).await {
            Err(e) if e.is_already_exists() && tries > 0 => {
                object["metadata"]["name"] = generate(form::text(&object, &["metadata", "generateName"])).into();
            }
            done => {
                if let (Ok(made), "Pod", false) = (&done, call.kind.kind.as_str(), call.dry_run) {
                    api.timings.created(&call.namespace, form::text(made, &["metadata", "name"]), received);
                }
                return done;
            }
        }
    }
}

async fn create_named(api: &Api, call: &Call, object: Value) -> Result<Value> {
    let mut object = convert::to_stored(&call.kind, object);
    strategy::before_create(&call.kind, &mut object);
    defaults::apply(&call.kind, &mut object);
    admission::create(api, call, &mut object)?;
    let name = form::text(&object, &["metadata", "name"]).to_owned();
    refuse(call, &name, validate::create(&call.kind, &object))?;
    let key = call.kind.key(&call.namespace, &name);
    if call.dry_run {
        return match api.store.get(&key) {
            Some(_) => Err(Error::already_exists(&call.kind.group, &call.kind.plural, &name)),
            None => Ok(convert::from_stored(&call.kind, object)),
        };
    }
    let op = put(call, key, Expect::Absent, &object)?;
    let done = api.store.commit(vec![op]).await.map_err(|e| of_store(call, &name, e))?;
    object["metadata"]["resourceVersion"] = done.revision.to_string().into();
    if call.kind.kind == "Namespace" {
        // Made here rather than by a controller's leave, so that a pod can follow its namespace at once.
        Box::pin(api.default_account(&name)).await?;
    }
    Ok(convert::from_stored(&call.kind, object))
}

/// The write of an object; events are kept for a while only.
pub(super) fn put(call: &Call, key: String, expect: Expect, object: &Value) -> Result<Op> {
    let bytes = object::encode(object)?;
    Ok(if call.kind.kind == "Event" { Op::put_for(key, expect, bytes, EVENT_TTL) } else { Op::put(key, expect, bytes) })
}

/// `Err(Invalid)` if there are causes.
pub(super) fn refuse(call: &Call, name: &str, causes: Vec<crate::error::Cause>) -> Result<()> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(&call.kind.group, &call.kind.kind, name, causes))
}

/// Fills in what the server gives an object: name, namespace, uid, creation time. Returns whether the name was generated.
fn identify(call: &Call, object: &mut Value) -> Result<bool> {
    let bad = |text: String| Err(Error::new(Kind::BadRequest, text));
    let Some(metadata) = object["metadata"].as_object_mut() else { return bad("metadata is no object".into()) };
    let text = |metadata: &Map<String, Value>, key: &str| {
        metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let namespace = text(metadata, "namespace");
    if !call.kind.namespaced {
        metadata.shift_remove("namespace");
    } else if !namespace.is_empty() && namespace != call.namespace {
        let text = "the namespace of the provided object does not match the namespace sent on the request";
        return bad(text.into());
    }
    if !text(metadata, "resourceVersion").is_empty() {
        return bad("resourceVersion should not be set on objects to be created".into());
    }
    let (mut name, base) = (text(metadata, "name"), text(metadata, "generateName"));
    if name.is_empty() && !call.name.is_empty() {
        name.clone_from(&call.name);
    }
    let generated = name.is_empty() && !base.is_empty();
    if generated {
        name = generate(&base);
    }
    let mut filled = Map::new();
    filled.insert("name".into(), name.into());
    if !base.is_empty() {
        filled.insert("generateName".into(), base.into());
    }
    if call.kind.namespaced {
        filled.insert("namespace".into(), call.namespace.as_str().into());
    }
    filled.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    filled.insert("creationTimestamp".into(), form::second_time(Timestamp::now()).into());
    let ours = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "creationTimestamp",
        "selfLink",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "managedFields",
    ];
    let kept = std::mem::take(metadata).into_iter().filter(|(key, _)| !ours.contains(&key.as_str()));
    filled.extend(kept);
    *metadata = filled;
    Ok(generated)
}

/// A name from a base, cut so that it fits.
pub(crate) fn generate(base: &str) -> String {
    let mut random = [0u8; 5];
    // Without randomness the name collides and the create says so.
    let _ = getrandom::fill(&mut random);
    let base: String = base.chars().take(58).collect();
    let suffix = random.iter().map(|b| char::from(LETTERS[*b as usize % LETTERS.len()]));
    base.chars().chain(suffix).collect()
}

/// Writes an object of the control plane itself if it is not there yet.
pub(crate) async fn ensure(api: &Api, call: &Call, object: Value) -> Result<()> {
    match create(api, call, object).await {
        Err(e) if e.is_already_exists() => Ok(()),
        done => done.map(drop),
    }
}

/// Whether a failed commit may be tried again after reading anew.
pub(super) fn is_race(error: &store::Error) -> bool {
    error.kind() == store::Kind::Conflict
}
