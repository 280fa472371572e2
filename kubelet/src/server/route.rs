//! Paths to answers. Edges translate: each handler decodes, calls, encodes.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;

use super::auth::User;
use super::stream::{self, Body, Streams};
use super::{Endpoint, logs, stats};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::pod;
use crate::pods::labels;
use crate::pods::seen::{self, Seen, State, View};

fn full(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    full(status, "text/plain; charset=utf-8", body)
}

fn json_of(value: &Value) -> Response<Body> {
    full(StatusCode::OK, "application/json", value.to_string())
}

/// The query, decoded.
pub(crate) fn query(of: &str) -> Vec<(String, String)> {
    let decode = |s: &str| {
        let mut out = Vec::with_capacity(s.len());
        let mut bytes = s.bytes();
        while let Some(b) = bytes.next() {
            match b {
                b'+' => out.push(b' '),
                b'%' => {
                    let digit = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
                    match (digit(bytes.next()), digit(bytes.next())) {
                        (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                        _ => out.push(b'%'),
                    }
                }
                other => out.push(other),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    of.split('&')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(k, v)| (decode(k), decode(v)))
        .collect()
}

/// The answer to one request.
pub(crate) async fn answer(
    endpoint: &Endpoint,
    certificate: Option<&User>,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_string();
    let shared = &endpoint.shared;
    let Some(user) = endpoint.reviews.authenticate(shared, certificate, request.headers()).await else {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized");
    };
    if !endpoint.reviews.authorize(shared, &user, request.method(), &path).await {
        let resource = super::auth::subresource(&path);
        let message = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource={resource})",
            user.name,
            request.method()
        );
        return text(StatusCode::FORBIDDEN, message);
    }
    match route(endpoint, &path, request).await {
        Ok(response) => response,
        Err(why) => {
            tracing::debug!(path, user = user.name, %why, "request failed");
            text(status_of(why.kind()), why.to_string())
        }
    }
}

fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Pod => StatusCode::BAD_REQUEST,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Refused => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn route(endpoint: &Endpoint, path: &str, request: Request<Incoming>) -> Result<Response<Body>> {
    let shared = &endpoint.shared;
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    let streams = request.method() == Method::GET || request.method() == Method::POST;
    match parts.as_slice() {
        ["healthz"] if reads => Ok(text(StatusCode::OK, "ok")),
        ["pods"] if reads => Ok(json_of(&pod_list(endpoint))),
        ["runningpods"] if reads => Ok(json_of(&running_pods(endpoint).await?)),
        ["stats", "summary"] if reads => Ok(json_of(&stats::summary(shared, &endpoint.pods).await?)),
        ["metrics"] if reads => {
            Ok(full(StatusCode::OK, "text/plain; version=0.0.4", stats::metrics(shared, &endpoint.pods).await))
        }
        ["debug", "pod-timings"] if reads => Ok(json_of(&shared.timings.to_json())),
        ["containerLogs", namespace, name, container] if reads => {
            let options = logs::Options::parse(&query(request.uri().query().unwrap_or_default()), clock::wall())?;
            container_logs(endpoint, namespace, name, container, options).await
        }
        ["exec", namespace, name, container] if streams => {
            exec(endpoint, (namespace, name, None), container, request).await
        }
        ["exec", namespace, name, uid, container] if streams => {
            exec(endpoint, (namespace, name, Some(uid)), container, request).await
        }
        ["attach", namespace, name, container] if streams => {
            attach(endpoint, (namespace, name, None), container, request).await
        }
        ["attach", namespace, name, uid, container] if streams => {
            attach(endpoint, (namespace, name, Some(uid)), container, request).await
        }
        ["portForward", namespace, name] if streams => port_forward(endpoint, (namespace, name, None), request).await,
        ["portForward", namespace, name, uid] if streams => {
            port_forward(endpoint, (namespace, name, Some(uid)), request).await
        }
        _ => Ok(text(StatusCode::NOT_FOUND, "404 page not found")),
    }
}

fn pod_list(endpoint: &Endpoint) -> Value {
    let items: Vec<Value> = endpoint.pods.all().iter().filter_map(|p| serde_json::to_value(&**p).ok()).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// What the runtime runs, as upstream's bare pods.
async fn running_pods(endpoint: &Endpoint) -> Result<Value> {
    let list = endpoint.shared.cri.containers(&[]).await?;
    let mut pods: std::collections::BTreeMap<String, Value> = Default::default();
    for c in list.iter().filter(|c| c.state() == gantry_cri_api::ContainerState::ContainerRunning) {
        let label = |key: &str| c.labels.get(key).cloned().unwrap_or_default();
        let uid = label(labels::POD_UID);
        let entry = pods.entry(uid.clone()).or_insert_with(|| {
            json!({"metadata": {"name": label(labels::POD_NAME), "namespace": label(labels::POD_NAMESPACE), "uid": uid},
                "spec": {"containers": []}, "status": {}})
        });
        let image = c.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
        if let Some(containers) = entry["spec"]["containers"].as_array_mut() {
            containers.push(json!({"name": label(labels::CONTAINER_NAME), "image": image, "resources": {}}));
        }
    }
    Ok(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods.into_values().collect::<Vec<_>>()}))
}

type Named<'a> = (&'a str, &'a str, Option<&'a str>);

async fn find(endpoint: &Endpoint, (namespace, name, uid): Named<'_>) -> Result<(std::sync::Arc<Pod>, View)> {
    let found = endpoint.pods.find(namespace, name, uid);
    let of = found.ok_or_else(|| Error::new(Kind::NotFound, format!("pod {namespace}/{name} is not on this node")))?;
    let view = seen::look(&endpoint.shared.cri, pod::uid(&of), &View::default()).await?;
    Ok((of, view))
}

fn running<'a>(view: &'a View, of: &Pod, container: &str) -> Result<&'a Seen> {
    let found = view.newest(container).filter(|s| s.state == State::Running);
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("container {container} of pod {} is not running", pod::full_name(of)))
    })
}

async fn exec(
    endpoint: &Endpoint,
    named: Named<'_>,
    container: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let (of, view) = find(endpoint, named).await?;
    let wanted = Streams::parse(&query(request.uri().query().unwrap_or_default()));
    let url = stream::exec(&endpoint.shared, &running(&view, &of, container)?.id, wanted).await?;
    stream::proxy(request, &url).await
}

async fn attach(
    endpoint: &Endpoint,
    named: Named<'_>,
    container: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>> {
    let (of, view) = find(endpoint, named).await?;
    let wanted = Streams::parse(&query(request.uri().query().unwrap_or_default()));
    // Whether there is a terminal is the container's to say.
    let tty = pod::container(&of, container).is_some_and(|(_, c)| c.tty == Some(true));
    let url = stream::attach(&endpoint.shared, &running(&view, &of, container)?.id, tty, &wanted).await?;
    stream::proxy(request, &url).await
}

async fn port_forward(endpoint: &Endpoint, named: Named<'_>, request: Request<Incoming>) -> Result<Response<Body>> {
    let (of, view) = find(endpoint, named).await?;
    let missing = || Error::new(Kind::NotFound, format!("pod {} has no sandbox", pod::full_name(&of)));
    let sandbox = view.sandbox().ok_or_else(missing)?.id.clone();
    let wanted = Streams::parse(&query(request.uri().query().unwrap_or_default()));
    let url = stream::port_forward(&endpoint.shared, &sandbox, &wanted).await?;
    stream::proxy(request, &url).await
}

async fn container_logs(
    endpoint: &Endpoint,
    namespace: &str,
    name: &str,
    container: &str,
    options: logs::Options,
) -> Result<Response<Body>> {
    let (of, view) = find(endpoint, (namespace, name, None)).await?;
    if pod::container(&of, container).is_none() {
        return Err(Error::new(Kind::NotFound, format!("container {container} is not in pod {namespace}/{name}")));
    }
    let begun: Vec<&Seen> = view.named(container).filter(|s| s.state != State::Created).collect();
    let chosen = if options.previous { previous(&begun) } else { begun.first().copied() };
    let Some(chosen) = chosen.cloned() else {
        let message = if options.previous {
            format!("previous terminated container {container:?} in pod {name:?} not found")
        } else {
            format!("container {container:?} in pod {name:?} is waiting to start")
        };
        return Err(Error::pod(message));
    };
    let path = if chosen.log_path.is_empty() {
        let dir = crate::garbage::log_dir(&endpoint.shared, &of);
        dir.join(crate::pods::container::log_path(container, chosen.restarts))
    } else {
        chosen.log_path.clone().into()
    };
    if !path.exists() {
        return Err(Error::new(Kind::NotFound, format!("the log of container {container} is not there any more")));
    }
    let (out, lines) = tokio::sync::mpsc::channel(16);
    let cri = endpoint.shared.cri.clone();
    tokio::spawn(async move {
        let id = chosen.id;
        let alive = || {
            let (cri, id) = (cri.clone(), id.clone());
            async move {
                let status = cri.container_status(&id).await;
                status.is_ok_and(|s| s.state() == gantry_cri_api::ContainerState::ContainerRunning)
            }
        };
        if let Err(why) = logs::send(path, options, out, alive).await {
            tracing::debug!(%why, "a log ended");
        }
    });
    let frames = ReceiverStream::new(lines).map(|bytes| Ok::<_, std::io::Error>(Frame::data(bytes)));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// The run before the current one. A container that is over and waits to start again has no current one:
/// its newest run is the one before.
fn previous<'a>(begun: &[&'a Seen]) -> Option<&'a Seen> {
    begun.iter().find(|s| s.state == State::Exited).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let got = query("a=b+c%20d&x&%zz=1&command=%2Fbin%2Fsh");
        let want = [("a", "b c d"), ("x", ""), ("%=1", ""), ("command", "/bin/sh")];
        assert_eq!(got[0], (want[0].0.into(), want[0].1.into()));
        assert_eq!(got[1], (want[1].0.into(), want[1].1.into()));
        assert_eq!(got[3], (want[3].0.into(), want[3].1.into()));
    }
}
