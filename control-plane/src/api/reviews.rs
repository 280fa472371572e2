//! Reviews: questions about users that are answered and not stored.

use serde_json::{Value, json};

use super::http::user_of_token;
use super::verbs::accept;
use super::{Api, Call};
use crate::access::{Attributes, Decision, MASTERS, User, authorize};
use crate::error::Result;
use crate::kinds::{Kind, form};

/// Whether a kind is a question.
pub(crate) fn is_review(kind: &Kind) -> bool {
    matches!(kind.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io")
}

/// Answers one.
pub(crate) fn review(api: &Api, call: &Call, mut body: Value) -> Result<Value> {
    accept(call, &mut body)?;
    let spec = &body["spec"];
    body["status"] = match call.kind.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": call.user.info()}),
        "TokenReview" => token(api, spec),
        "SelfSubjectAccessReview" => answer(&authorize(&api.store, &call.user, &asked(spec, &call.namespace))),
        "SelfSubjectRulesReview" => rules(&call.user),
        _ => answer(&authorize(&api.store, &subject(spec), &asked(spec, &call.namespace))),
    };
    body["metadata"]["creationTimestamp"] = Value::Null;
    Ok(body)
}

fn answer(decision: &Decision) -> Value {
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.as_str().into();
    }
    status
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn subject(spec: &Value) -> User {
    User {
        name: form::text(spec, &["user"]).to_owned(),
        uid: form::text(spec, &["uid"]).to_owned(),
        groups: strings(&spec["groups"]),
        ..Default::default()
    }
}

fn asked(spec: &Value, namespace: &str) -> Attributes {
    let resource = &spec["resourceAttributes"];
    let text = |key: &str| form::text(resource, &[key]).to_owned();
    if !resource.is_object() {
        let path = &spec["nonResourceAttributes"];
        return Attributes {
            verb: form::text(path, &["verb"]).to_owned(),
            path: form::text(path, &["path"]).to_owned(),
            ..Default::default()
        };
    }
    let given = text("namespace");
    Attributes {
        verb: text("verb"),
        group: text("group"),
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: if given.is_empty() { namespace.to_owned() } else { given },
        name: text("name"),
        path: String::new(),
        field_selector: form::text(resource, &["fieldSelector", "rawSelector"]).to_owned(),
    }
}

fn token(api: &Api, spec: &Value) -> Value {
    let audiences = strings(&spec["audiences"]);
    match user_of_token(api, form::text(spec, &["token"]), &audiences) {
        Some((user, common)) => json!({"authenticated": true, "user": user.info(), "audiences": common}),
        None => json!({"authenticated": false, "error": "the token is not valid"}),
    }
}

/// What `kubectl auth can-i --list` prints. It is complete for masters only: the rest is decided object by object.
fn rules(user: &User) -> Value {
    let masters = user.is_in(MASTERS);
    let mut resources = vec![json!({
        "verbs": ["create"], "apiGroups": ["authentication.k8s.io", "authorization.k8s.io"],
        "resources": ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    })];
    let open =
        ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version"];
    let mut paths = vec![json!({"verbs": ["get"], "nonResourceURLs": open})];
    if masters {
        resources.insert(0, json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.insert(0, json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": !masters})
}
