//! Subresources that are neither status nor a stream: scale, binding, eviction, token.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::verbs::{self, accept};
use super::{Api, Call, scale, success};
use crate::access::Claims;
use crate::client::DeleteOptions;
use crate::error::{Error, Kind, Result};
use crate::kinds::form;

/// Shortest and longest life of a token, in seconds, as kube-apiserver.
const TOKEN_LIFE: std::ops::RangeInclusive<i64> = 600..=4_294_967_296;

/// Reads an object, or its scale.
pub(crate) async fn get(api: &Api, call: &Call) -> Result<Value> {
    let object = verbs::get(api, call).await?;
    Ok(if call.subresource == "scale" { scale::of(&call.kind, &object) } else { object })
}

/// POST to a subresource.
pub(crate) async fn create(api: &Api, call: &Call, mut body: Value) -> Result<(StatusCode, Value)> {
    accept(call, &mut body)?;
    match call.subresource.as_str() {
        "binding" => bind(api, call, &body).await.map(|()| (StatusCode::CREATED, success())),
        "eviction" => evict(api, call, &body).await.map(|done| (StatusCode::CREATED, done)),
        "token" => token(api, call, body).map(|token| (StatusCode::CREATED, token)),
        other => Err(Error::new(Kind::MethodNotAllowed, format!("{other} takes no POST"))),
    }
}

/// Binds a pod to a node.
///
/// # Errors
/// `Conflict` if it has a node or is going away.
pub(crate) async fn bind(api: &Api, call: &Call, body: &Value) -> Result<()> {
    let node = form::text(body, &["target", "name"]);
    let kind = form::text(body, &["target", "kind"]);
    if node.is_empty() || !matches!(kind, "" | "Node") {
        return Err(Error::new(Kind::Invalid, "target.name: Required value: a binding needs a target of kind Node"));
    }
    let conflict = |why: String| Err(Error::conflict("", "pods", &call.name, &why));
    let uid = form::text(body, &["metadata", "uid"]);
    let mut call = call.clone();
    // The spec of a pod cannot be changed otherwise; this is the one way that gives it a node.
    call.subresource = "binding".into();
    verbs::mutate(api, &call, |pod| {
        if !uid.is_empty() && uid != form::text(pod, &["metadata", "uid"]) {
            return conflict("the pod was replaced by another of its name".into());
        }
        if !form::text(pod, &["metadata", "deletionTimestamp"]).is_empty() {
            return conflict(format!("pod {} is being deleted, cannot be assigned to a host", call.name));
        }
        let present = form::text(pod, &["spec", "nodeName"]);
        if !present.is_empty() {
            return conflict(format!("pod {} is already assigned to node {present:?}", call.name));
        }
        pod["spec"]["nodeName"] = node.into();
        scheduled(&mut pod["status"]);
        for (key, value) in body["metadata"]["annotations"].as_object().into_iter().flatten() {
            pod["metadata"]["annotations"][key] = value.clone();
        }
        Ok(())
    })
    .await?;
    api.timings.bound(&call.namespace, &call.name);
    Ok(())
}

/// Sets the condition PodScheduled.
fn scheduled(status: &mut Value) {
    let now = form::second_time(Timestamp::now());
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    match status["conditions"].as_array_mut() {
        Some(list) => {
            list.retain(|c| c["type"] != "PodScheduled");
            list.push(condition);
        }
        None => status["conditions"] = json!([condition]),
    }
}

/// Evicts a pod: as there are no disruption budgets, a delete.
async fn evict(api: &Api, call: &Call, body: &Value) -> Result<Value> {
    let name = form::text(body, &["metadata", "name"]);
    if !name.is_empty() && name != call.name {
        return Err(Error::new(
            Kind::BadRequest,
            format!("name in URL does not match name in Eviction object: {name}"),
        ));
    }
    let given = &body["deleteOptions"];
    let options = DeleteOptions {
        grace_seconds: given["gracePeriodSeconds"].as_i64(),
        uid: given["preconditions"]["uid"].as_str().map(str::to_owned),
        revision: given["preconditions"]["resourceVersion"].as_str().map(str::to_owned),
        propagation: given["propagationPolicy"].as_str().map(str::to_owned),
    };
    let mut call = call.clone();
    call.subresource = String::new();
    call.dry_run |= form::list(given, &["dryRun"]).iter().any(|d| d == "All");
    verbs::delete(api, &call, &options).await.map(|_| success())
}

/// A token of a service account.
fn token(api: &Api, call: &Call, mut request: Value) -> Result<Value> {
    let signer = api.access.signer.as_ref();
    let signer = signer.ok_or_else(|| Error::new(Kind::Unavailable, "this server has no key to sign tokens with"))?;
    let uid_of = |key: String, missing: Error| {
        let item = api.store.get(&key).ok_or(missing)?;
        let found = super::pick::pick(&item.value, &[&["metadata", "uid"]]);
        Ok::<_, Error>(found[0].as_str().unwrap_or_default().to_owned())
    };
    let account_uid = uid_of(call.key(), call.kind.not_found(&call.name))?;
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    if !TOKEN_LIFE.contains(&seconds) {
        let text = "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes or more than 2^32 seconds";
        return Err(Error::new(Kind::Invalid, text));
    }
    let audiences = form::list(&request, &["spec", "audiences"]);
    let mut audiences: Vec<String> = audiences.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(signer.issuer().to_owned());
    }
    let reference = &request["spec"]["boundObjectRef"];
    if let Some(node) = call.user.node() {
        for_own_pod(api, call, node, reference)?;
    }
    let bound = if reference.is_object() { Some(bound(call, reference, uid_of)?) } else { None };
    let issued = Timestamp::now().as_second();
    let claims = Claims {
        namespace: call.namespace.clone(),
        account: call.name.clone(),
        account_uid,
        audiences: audiences.clone(),
        issued,
        expires: issued + seconds,
        bound,
    };
    let until = Timestamp::from_second(claims.expires).map_err(|e| Error::internal("the token's end", e))?;
    request["metadata"]["name"] = call.name.as_str().into();
    request["metadata"]["namespace"] = call.namespace.as_str().into();
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({"token": signer.sign(&claims)?, "expirationTimestamp": form::second_time(until)});
    Ok(request)
}

/// A node gets tokens for its pods only, each bound to the pod.
fn for_own_pod(api: &Api, call: &Call, node: &str, reference: &Value) -> Result<()> {
    let name = form::text(reference, &["name"]);
    let pod = api.store.get(&format!("core/pods/{}/{name}", call.namespace));
    let paths: [&[&str]; 2] = [&["spec", "nodeName"], &["spec", "serviceAccountName"]];
    let found = pod.map(|pod| super::pick::pick(&pod.value, &paths));
    let own = found.is_some_and(|found| found[0] == node && found[1] == call.name.as_str());
    if own && form::text(reference, &["kind"]) == "Pod" {
        return Ok(());
    }
    let why = format!("node {node:?} may only ask for tokens that are bound to a pod of its own");
    let text = format!("serviceaccounts {:?} is forbidden: {why}", call.name);
    Err(Error::new(Kind::Forbidden, text).about("", "serviceaccounts", &call.name))
}

/// The object that a token is bound to: kind, name, uid.
fn bound(
    call: &Call,
    reference: &Value,
    uid_of: impl Fn(String, Error) -> Result<String>,
) -> Result<(String, String, String)> {
    let (kind, name) = (form::text(reference, &["kind"]), form::text(reference, &["name"]));
    let (key, plural) = match kind {
        "Pod" => (format!("core/pods/{}/{name}", call.namespace), "pods"),
        "Secret" => (format!("core/secrets/{}/{name}", call.namespace), "secrets"),
        "Node" => (format!("core/nodes/{name}"), "nodes"),
        other => {
            let text = format!(
                "spec.boundObjectRef.kind: Invalid value: cannot bind token for serviceaccount to object of kind {other:?}"
            );
            return Err(Error::new(Kind::Invalid, text));
        }
    };
    let uid = uid_of(key, Error::not_found("", plural, name))?;
    let wanted = form::text(reference, &["uid"]);
    if !wanted.is_empty() && wanted != uid {
        let why = format!("the UID in the bound object reference ({wanted}) does not match the UID in record ({uid})");
        return Err(Error::conflict("", plural, name, &why));
    }
    Ok((kind.to_lowercase(), name.to_owned(), uid))
}
