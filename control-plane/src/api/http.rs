//! One request: who asks, what for, may they; then the handler; errors become Status objects.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{AUTHORIZATION, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;

use super::body::Body;
use super::query::{Query, decode};
use super::route::{Route, Target, route};
use super::{Api, discovery, handle, openapi, respond};
use crate::access::{
    ACCOUNTS, AUTHENTICATED, Attributes, MASTERS, UNAUTHENTICATED, User, authorize, refers_to_objects,
};
use crate::error::{Error, Kind, Result};
use crate::kinds::form;

/// Answers a request. `certificate` is the user of the client's certificate.
pub(crate) async fn answer(api: Arc<Api>, certificate: Option<Arc<User>>, request: Request<Body>) -> Response<Body> {
    api.requests.fetch_add(1, Ordering::Relaxed);
    match answered(&api, certificate, request).await {
        Ok(response) => response,
        Err(error) => {
            if error.kind() == Kind::Internal {
                tracing::error!(error = %error.chain(), "a request failed");
            }
            respond::error(&error)
        }
    }
}

async fn answered(api: &Arc<Api>, certificate: Option<Arc<User>>, request: Request<Body>) -> Result<Response<Body>> {
    let user = authenticate(api, certificate, request.headers())?;
    let user = impersonate(user, request.headers())?;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match route(request.uri().path()) {
        Route::Document(path) => {
            let verb = match *request.method() {
                Method::GET | Method::HEAD => "get".to_owned(),
                ref other => other.as_str().to_lowercase(),
            };
            let asked = Attributes { verb, path: path.clone(), ..Default::default() };
            permit(api, &user, &asked)?;
            document(api, &path, &request)
        }
        Route::Resource(target) => {
            let verb = verb_of(request.method(), &target, &query)?;
            let asked = attributes(&target, verb, &query);
            permit(api, &user, &asked)?;
            let long = verb == "watch" || handle::is_long(&target, &query);
            let _permit = if long { None } else { Some(admit(api)?) };
            handle::resource(api, user, target, verb, query, request).await
        }
    }
}

/// A place among the requests in flight.
fn admit(api: &Api) -> Result<tokio::sync::SemaphorePermit<'_>> {
    let busy = |_| Error::new(Kind::TooManyRequests, "too many requests, please try again later").retry_after(1);
    api.inflight.try_acquire().map_err(busy)
}

fn authenticate(api: &Api, certificate: Option<Arc<User>>, headers: &HeaderMap) -> Result<Arc<User>> {
    if let Some(user) = certificate {
        return Ok(user);
    }
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(Arc::new(User::anonymous())) };
    let token = header.to_str().ok().and_then(|h| h.split_once(' '));
    let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    let user = token.and_then(|token| user_of_token(api, token, &[]));
    user.map(|(user, _)| Arc::new(user)).ok_or_else(unauthorized)
}

fn unauthorized() -> Error {
    Error::new(Kind::Unauthorized, "Unauthorized")
}

/// The user of a bearer token and its audiences: static, or of a service account that is still there.
pub(crate) fn user_of_token(api: &Api, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
    if let Some(user) = api.access.static_token(token) {
        return Some((user, audiences.to_vec()));
    }
    let signer = api.access.signer.as_ref()?;
    let claims = signer.verify(token, Timestamp::now().as_second())?;
    let ours = [signer.issuer().to_owned()];
    let wanted = if audiences.is_empty() { &ours[..] } else { audiences };
    let common: Vec<String> = wanted.iter().filter(|a| claims.audiences.contains(a)).cloned().collect();
    if common.is_empty() {
        return None;
    }
    let uid_at = |key: String| {
        let item = api.store.get(&key)?;
        let found = super::pick::pick(&item.value, &[&["metadata", "uid"]]);
        found[0].as_str().map(str::to_owned)
    };
    let account = uid_at(format!("core/serviceaccounts/{}/{}", claims.namespace, claims.account))?;
    if account != claims.account_uid {
        return None;
    }
    if let Some((kind, name, uid)) = &claims.bound {
        let key = match kind.as_str() {
            "pod" => format!("core/pods/{}/{name}", claims.namespace),
            "secret" => format!("core/secrets/{}/{name}", claims.namespace),
            _ => format!("core/nodes/{name}"),
        };
        if uid_at(key)? != *uid {
            return None;
        }
    }
    let groups = [ACCOUNTS.to_owned(), format!("{ACCOUNTS}:{}", claims.namespace), AUTHENTICATED.to_owned()];
    let name = format!("system:serviceaccount:{}:{}", claims.namespace, claims.account);
    let mut user = User { name, uid: claims.account_uid, groups: groups.to_vec(), ..Default::default() };
    if let Some((kind, name, uid)) = claims.bound {
        user.extra.insert(format!("authentication.kubernetes.io/{kind}-name"), vec![name]);
        user.extra.insert(format!("authentication.kubernetes.io/{kind}-uid"), vec![uid]);
    }
    Some((user, common))
}

/// `Impersonate-*` headers, for masters.
fn impersonate(user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>> {
    let one = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let name = one("impersonate-user");
    if name.is_empty() {
        if headers.keys().any(|key| key.as_str().starts_with("impersonate-")) {
            return Err(Error::new(Kind::BadRequest, "requested impersonation without impersonating a user"));
        }
        return Ok(user);
    }
    if !user.is_in(MASTERS) {
        let text = format!("users {name:?} is forbidden: User {:?} cannot impersonate resource \"users\"", user.name);
        return Err(Error::new(Kind::Forbidden, text).about("", "users", &name));
    }
    let values = headers.get_all("impersonate-group").iter();
    let mut groups: Vec<String> = values.filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    if let Some((namespace, _)) = name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':'))
        && groups.is_empty()
    {
        groups = vec![ACCOUNTS.to_owned(), format!("{ACCOUNTS}:{namespace}")];
    }
    let anonymous = name == "system:anonymous";
    groups.push(if anonymous { UNAUTHENTICATED.to_owned() } else { AUTHENTICATED.to_owned() });
    groups.dedup();
    let mut other = User { name, uid: one("impersonate-uid"), groups, ..Default::default() };
    for (key, value) in headers {
        if let (Some(key), Ok(value)) = (key.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            other.extra.entry(decode(key, false)).or_default().push(value.to_owned());
        }
    }
    Ok(Arc::new(other))
}

/// `Err` (401 or 403) unless the user may.
pub(crate) fn permit(api: &Api, user: &User, asked: &Attributes) -> Result<()> {
    let decision = authorize(&api.store, user, asked);
    if decision.allowed {
        return Ok(());
    }
    if user.is_in(UNAUTHENTICATED) {
        return Err(unauthorized());
    }
    Err(forbidden(user, asked, &decision.reason))
}

fn forbidden(user: &User, asked: &Attributes, reason: &str) -> Error {
    let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !asked.path.is_empty() {
        let text = format!("forbidden: User {:?} cannot {} path {:?}{tail}", user.name, asked.verb, asked.path);
        return Error::new(Kind::Forbidden, text);
    }
    let mut resource = asked.resource.clone();
    if !asked.subresource.is_empty() {
        resource = format!("{resource}/{}", asked.subresource);
    }
    let qualified = if asked.group.is_empty() { resource.clone() } else { format!("{resource}.{}", asked.group) };
    let object = if asked.name.is_empty() { qualified } else { format!("{qualified} {:?}", asked.name) };
    let place = if asked.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", asked.namespace)
    };
    let text = format!(
        "{object} is forbidden: User {:?} cannot {} resource {resource:?} in API group {:?} {place}{tail}",
        user.name, asked.verb, asked.group
    );
    Error::new(Kind::Forbidden, text).about(&asked.group, &asked.resource, &asked.name)
}

/// The verb of a request, as authorisation knows it.
fn verb_of(method: &Method, target: &Target, query: &Query) -> Result<&'static str> {
    let collection = target.name.is_empty();
    Ok(match method.as_str() {
        "GET" | "HEAD" if query.flag("watch") && target.subresource.is_empty() => "watch",
        "GET" | "HEAD" if collection => "list",
        "GET" | "HEAD" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if collection => "deletecollection",
        "DELETE" => "delete",
        other => return Err(Error::new(Kind::MethodNotAllowed, format!("the method {other} is not supported"))),
    })
}

fn attributes(target: &Target, verb: &str, query: &Query) -> Attributes {
    // A watch of one name may say so in the path or in the selector.
    let verb = match (verb, target.subresource.as_str()) {
        // Opening a stream is as good as creating one, whichever method opens it.
        ("get", "exec" | "attach" | "portforward") => "create",
        (verb, _) => verb,
    };
    // A namespace is in itself.
    let own = target.plural == "namespaces" && target.namespace.is_empty();
    Attributes {
        verb: verb.to_owned(),
        group: target.group.clone(),
        resource: target.plural.clone(),
        subresource: target.subresource.clone(),
        namespace: if own { target.name.clone() } else { target.namespace.clone() },
        name: target.name.clone(),
        path: String::new(),
        field_selector: query.get("fieldSelector").to_owned(),
    }
}

/// What is no resource: discovery, schemas, health.
fn document(api: &Api, path: &str, request: &Request<Body>) -> Result<Response<Body>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Error::new(
            Kind::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        ));
    }
    let plain = |text: &str| Ok(respond::bytes(StatusCode::OK, "text/plain; charset=utf-8", text.to_owned()));
    match path {
        "/healthz" | "/livez" | "/healthz/ping" | "/livez/ping" => plain("ok"),
        "/readyz" | "/readyz/ping" if !api.shutdown.is_cancelled() => plain("ok"),
        "/readyz" | "/readyz/ping" => Err(Error::new(Kind::Unavailable, "the server is stopping")),
        "/metrics" => plain(&metrics(api)),
        "/debug/pod-timings" => {
            let all = api.timings.to_json().to_string();
            Ok(respond::bytes(StatusCode::OK, "application/json", all))
        }
        _ if path.starts_with("/openapi") => openapi::document(api, path, request),
        _ => discovery::document(api, path, request),
    }
}

fn metrics(api: &Api) -> String {
    format!(
        "# HELP apiserver_request_total Requests answered.\n# TYPE apiserver_request_total counter\n\
         apiserver_request_total {}\n\
         # HELP apiserver_storage_revision Revision of the store.\n# TYPE apiserver_storage_revision gauge\n\
         apiserver_storage_revision {}\n\
         # HELP apiserver_current_inflight_requests Requests in flight.\n\
         # TYPE apiserver_current_inflight_requests gauge\napiserver_current_inflight_requests {}\n",
        api.requests.load(Ordering::Relaxed),
        api.store.revision(),
        super::INFLIGHT - api.inflight.available_permits(),
    )
}

/// What a node may write is more than a path tells: a Node of its own name, a mirror pod bound to itself.
pub(crate) fn restrict_node(user: &User, plural: &str, object: &serde_json::Value) -> Result<()> {
    let Some(node) = user.node() else { return Ok(()) };
    let name = form::text(object, &["metadata", "name"]);
    let mirror = object["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some();
    let fits = match plural {
        "nodes" | "csinodes" | "leases" => name == node,
        "pods" => mirror && form::text(object, &["spec", "nodeName"]) == node && !refers_to_objects(&object["spec"]),
        _ => true,
    };
    if fits {
        return Ok(());
    }
    let text = format!("{plural} {name:?} is forbidden: node {node:?} is not allowed to create it");
    Err(Error::new(Kind::Forbidden, text).about("", plural, name))
}
