//! delete and deletecollection: now, with grace (pods), or after finalizers.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::{Api, Call, convert, object};
use super::create::{is_race, put};
use super::of_store;
use super::read::{ListQuery, page};
use crate::client::DeleteOptions;
use crate::error::{Error, Kind, Result};
use crate::kinds::form;
use crate::store::{Expect, Item, Op};

/// What a delete does to the stored object.
#[derive(Debug, PartialEq)]
enum Step {
    /// It goes now.
    Remove,
    /// It stays, marked, until its kubelet or its finalizers are done.
    Mark(Value),
    /// It is marked already; nothing changes.
    Nothing,
}

/// Deletes an object. Returns the object if it stays for a while, else a Status that it is gone.
pub(crate) async fn delete(api: &Api, call: &Call, options: &DeleteOptions) -> Result<Value> {
    loop {
        let item = api.store.get(&call.key()).ok_or_else(|| call.kind.not_found(&call.name))?;
        if let Some(done) = delete_item(api, call, &item, options).await? {
            return Ok(done);
        }
    }
}

async fn delete_item(api: &Api, call: &Call, item: &Item, options: &DeleteOptions) -> Result<Option<Value>> {
    let old = object::of_item(item)?;
    check(call, &old, item.revision, options)?;
    let expect = Expect::Revision(item.revision);
    let (op, answer) = match decide(call, &old, options, Timestamp::now())? {
        Step::Nothing => return Ok(Some(convert::from_stored(&call.kind, old))),
        Step::Remove => (Op::delete(item.key.clone(), expect), None),
        Step::Mark(new) => (put(call, item.key.to_string(), expect, &new)?, Some(new)),
    };
    let gone = || gone(call, &old);
    if call.dry_run {
        return Ok(Some(answer.unwrap_or_else(gone)));
    }
    match api.store.commit(vec![op]).await {
        Ok(done) => Ok(Some(match answer {
            Some(mut new) => {
                new["metadata"]["resourceVersion"] = done.revision.to_string().into();
                convert::from_stored(&call.kind, new)
            }
            // A pod that goes at once is shown as it was, as the API server does.
            None if call.kind.kind == "Pod" => old,
            None => gone(),
        })),
        Err(e) if is_race(&e) => Ok(None),
        Err(e) => Err(of_store(call, &call.name, e)),
    }
}

fn gone(call: &Call, old: &Value) -> Value {
    let details = json!({
        "name": call.name, "group": call.kind.group, "kind": call.kind.plural, "uid": old["metadata"]["uid"],
    });
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn check(call: &Call, old: &Value, revision: u64, options: &DeleteOptions) -> Result<()> {
    let conflict = |why: String| Err(Error::conflict(&call.kind.group, &call.kind.plural, &call.name, &why));
    let uid = form::text(old, &["metadata", "uid"]);
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return conflict(format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"));
    }
    if let Some(wanted) = options.revision.as_deref().filter(|wanted| *wanted != revision.to_string()) {
        return conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {revision}"
        ));
    }
    if call.kind.kind == "Namespace" && matches!(call.name.as_str(), "default" | "kube-system" | "kube-public") {
        let text = format!("namespaces {:?} is forbidden: this namespace may not be deleted", call.name);
        return Err(Error::new(Kind::Forbidden, text).about("", "namespaces", &call.name));
    }
    Ok(())
}

/// What to do, given the object as stored.
fn decide(call: &Call, old: &Value, options: &DeleteOptions, now: Timestamp) -> Result<Step> {
    let grace = grace(call, old, options);
    let marked = !form::text(old, &["metadata", "deletionTimestamp"]).is_empty();
    let finalizers = finalizers(old, options)?;
    let namespace = call.kind.kind == "Namespace" && !form::list(old, &["spec", "finalizers"]).is_empty();
    let waits = !finalizers.is_empty() || namespace;
    let present = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if marked && present.is_some_and(|present| grace >= present) && (waits || present != Some(0)) {
        return Ok(Step::Nothing);
    }
    if grace == 0 && !waits {
        return Ok(Step::Remove);
    }
    let mut new = old.clone();
    let metadata = &mut new["metadata"];
    let until = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    metadata["deletionTimestamp"] = form::second_time(until).into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
    if !finalizers.is_empty() {
        metadata["finalizers"] = finalizers.into();
    }
    if let Some(generation) = metadata["generation"].as_i64() {
        metadata["generation"] = (generation + 1).into();
    }
    if call.kind.kind == "Namespace" {
        new["status"]["phase"] = "Terminating".into();
    }
    Ok(Step::Mark(new))
}

/// Seconds of grace: only pods that run somewhere have any.
fn grace(call: &Call, old: &Value, options: &DeleteOptions) -> i64 {
    if call.kind.kind != "Pod" {
        return 0;
    }
    let finished = matches!(form::text(old, &["status", "phase"]), "Succeeded" | "Failed");
    if form::text(old, &["spec", "nodeName"]).is_empty() || finished {
        return 0;
    }
    let wanted = options.grace_seconds.or_else(|| old["spec"]["terminationGracePeriodSeconds"].as_i64());
    match wanted.unwrap_or(30) {
        negative if negative < 0 => 1,
        seconds => seconds,
    }
}

/// The finalizers that the object has after this delete was asked for.
fn finalizers(old: &Value, options: &DeleteOptions) -> Result<Vec<Value>> {
    let mut list: Vec<Value> = form::list(old, &["metadata", "finalizers"]).to_vec();
    let mut set = |name: &str, wanted: bool| {
        list.retain(|f| f != name);
        if wanted {
            list.push(name.into());
        }
    };
    match options.propagation.as_deref() {
        None | Some("") => {}
        Some("Background") => {
            set("foregroundDeletion", false);
            set("orphan", false);
        }
        Some("Foreground") => {
            set("orphan", false);
            set("foregroundDeletion", true);
        }
        Some("Orphan") => {
            set("foregroundDeletion", false);
            set("orphan", true);
        }
        Some(other) => {
            let text = format!("propagationPolicy {other:?} is not one of Foreground, Background, Orphan");
            return Err(Error::new(Kind::BadRequest, text));
        }
    }
    Ok(list)
}

/// Deletes every selected object; returns a Status.
pub(crate) async fn delete_collection(
    api: &Api,
    call: &Call,
    query: &ListQuery,
    options: &DeleteOptions,
) -> Result<Value> {
    for item in page(api, call, query)?.items {
        let old = object::of_item(&item)?;
        let mut one = call.clone();
        one.name = form::text(&old, &["metadata", "name"]).to_owned();
        one.namespace = form::text(&old, &["metadata", "namespace"]).to_owned();
        match delete(api, &one, options).await {
            Err(e) if e.is_not_found() => {}
            done => drop(done?),
        }
    }
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
}

#[cfg(test)]
#[path = "delete_tests.rs"]
mod tests;
