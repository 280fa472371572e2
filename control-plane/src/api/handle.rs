//! Resource requests: from method, path and body to a verb, and its result to a response.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use http::{Request, Response, StatusCode};
use serde_json::Value;

use super::body::{self, Body};
use super::http::restrict_node;
use super::negotiate::choose;
use super::query::Query;
use super::route::Target;
use super::{Api, Call, node, respond, reviews, stream, subresources, verbs};
use crate::access::User;
use crate::client::{DeleteOptions, PatchType};
use crate::error::{Error, Kind, Result};
use crate::kinds::form;

/// Whether a request may last for ever, so that it takes no place among those in flight.
pub(crate) fn is_long(target: &Target, query: &Query) -> bool {
    match target.subresource.as_str() {
        "exec" | "attach" | "portforward" | "proxy" => true,
        "log" => query.flag("follow"),
        _ => false,
    }
}

/// Answers a request for a resource. The user may do it: that was checked.
pub(crate) async fn resource(
    api: &Arc<Api>,
    user: Arc<User>,
    target: Target,
    verb: &'static str,
    query: Query,
    request: Request<Body>,
) -> Result<Response<Body>> {
    let call = call_of(api, user, &target, verb, &query)?;
    if matches!(target.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
        return node::pass(api, &call, &target, request).await;
    }
    let form = choose(header(request.headers(), ACCEPT.as_str()))?;
    let include = query.get("includeObject").to_owned();
    if verb == "watch" {
        return stream::watch(api, call, form, &query);
    }
    if verb == "list" {
        let page = verbs::page(api, &call, &query.list(&call.kind)?)?;
        return respond::list(&call, form, &include, &page);
    }
    let (status, object) = one(api, &call, verb, &query, request).await?;
    let mut response = respond::one(&call, form, &include, status, object);
    respond::warn(&mut response, call.warnings());
    Ok(response)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn call_of(api: &Api, user: Arc<User>, target: &Target, verb: &str, query: &Query) -> Result<Call> {
    let missing = || Error::new(Kind::NotFound, "the server could not find the requested resource");
    let kind = api.kinds.at(&target.group, &target.version, &target.plural).ok_or_else(missing)?;
    if !target.subresource.is_empty() && kind.subresource(&target.subresource).is_none() {
        // Details without a name tell kubectl that it is the subresource that is missing, not the object.
        return Err(missing().about(&kind.group, &kind.plural, ""));
    }
    if !kind.namespaced && !target.namespace.is_empty() {
        return Err(missing());
    }
    let creates_named = verb == "create" && !target.name.is_empty() && target.subresource.is_empty();
    if creates_named || !kind.allows(&target.subresource, verb) {
        let text = "the server does not allow this method on the requested resource";
        return Err(Error::new(Kind::MethodNotAllowed, text).about(&kind.group, &kind.plural, &target.name));
    }
    let single = !target.name.is_empty() || verb == "create";
    if kind.namespaced && single && target.namespace.is_empty() {
        return Err(Error::new(Kind::BadRequest, "an empty namespace may not be set when a resource name is provided"));
    }
    let mut call = Call::new(kind.clone(), &target.namespace, &target.name, &target.subresource, user);
    call.dry_run = query.dry_run()?;
    call.field_validation = query.field_validation()?;
    Ok(call)
}

/// A verb on one object (or a deletecollection).
async fn one(
    api: &Arc<Api>,
    call: &Call,
    verb: &str,
    query: &Query,
    request: Request<Body>,
) -> Result<(StatusCode, Value)> {
    let media_type = header(request.headers(), CONTENT_TYPE.as_str()).to_owned();
    let ok = |value: Value| Ok((StatusCode::OK, value));
    if verb == "get" {
        return ok(subresources::get(api, call).await?);
    }
    let bytes = body::read(request.into_body()).await?;
    match verb {
        "create" => create(api, call, body::parse(&media_type, &bytes)?).await,
        "update" => {
            let new = body::parse(&media_type, &bytes)?;
            let before = call.kind.creates_on_update() && api.store.get(&call.key()).is_none();
            let status = if before { StatusCode::CREATED } else { StatusCode::OK };
            Ok((status, verbs::update(api, call, new).await?))
        }
        "patch" => {
            let (kind, patch) = patch(&media_type, &bytes)?;
            ok(verbs::patch(api, call, kind, &patch).await?)
        }
        "delete" => {
            let (options, dry) = delete_options(&media_type, &bytes, query)?;
            let mut call = call.clone();
            call.dry_run |= dry;
            ok(verbs::delete(api, &call, &options).await?)
        }
        _ => {
            let (options, dry) = delete_options(&media_type, &bytes, query)?;
            let mut call = call.clone();
            call.dry_run |= dry;
            ok(verbs::delete_collection(api, &call, &query.list(&call.kind)?, &options).await?)
        }
    }
}

async fn create(api: &Arc<Api>, call: &Call, object: Value) -> Result<(StatusCode, Value)> {
    if !call.subresource.is_empty() {
        return subresources::create(api, call, object).await;
    }
    if reviews::is_review(&call.kind) {
        return Ok((StatusCode::CREATED, reviews::review(api, call, object)?));
    }
    if call.kind.kind == "Binding" {
        let mut call = call.clone();
        call.kind = api.kinds.named("pods")?;
        call.name = form::text(&object, &["metadata", "name"]).to_owned();
        call.subresource = "binding".into();
        return subresources::create(api, &call, object).await;
    }
    restrict_node(&call.user, &call.kind.plural, &object)?;
    Ok((StatusCode::CREATED, verbs::create(api, call, object).await?))
}

fn patch(media_type: &str, bytes: &[u8]) -> Result<(PatchType, Value)> {
    let kind = match media_type.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => PatchType::Json,
        "application/merge-patch+json" => PatchType::Merge,
        "application/strategic-merge-patch+json" => PatchType::Strategic,
        other => {
            let text = format!(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json (not {other:?})"
            );
            return Err(Error::new(Kind::UnsupportedMediaType, text));
        }
    };
    let bad = |e| Error::new(Kind::BadRequest, format!("error decoding patch: {e}"));
    Ok((kind, serde_json::from_slice(bytes).map_err(bad)?))
}

/// DeleteOptions of the body, or else of the query; and whether it is a dry run.
fn delete_options(media_type: &str, bytes: &[u8], query: &Query) -> Result<(DeleteOptions, bool)> {
    let body = if bytes.is_empty() { Value::Null } else { body::parse(media_type, bytes)? };
    let text = |path: &[&str]| Some(form::text(&body, path).to_owned()).filter(|t| !t.is_empty());
    let orphan = match &body["orphanDependents"] {
        Value::Bool(true) => Some("Orphan".to_owned()),
        Value::Bool(false) => Some("Background".to_owned()),
        _ => None,
    };
    let from_query = Some(query.get("propagationPolicy").to_owned()).filter(|t| !t.is_empty());
    let options = DeleteOptions {
        grace_seconds: body["gracePeriodSeconds"].as_i64().or(query.number("gracePeriodSeconds")?),
        uid: text(&["preconditions", "uid"]),
        revision: text(&["preconditions", "resourceVersion"]),
        propagation: text(&["propagationPolicy"]).or(orphan).or(from_query),
    };
    Ok((options, form::list(&body, &["dryRun"]).iter().any(|d| d == "All")))
}
