//! Responses: objects, lists, Tables, errors.

use http::header::{CONTENT_TYPE, HeaderValue, WARNING};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::{Body, full};
use super::negotiate::{Encoding, Form, Shape};
use super::verbs::Page;
use super::{Call, convert, object, table};
use crate::error::{Error, Result};

/// A response of bytes.
pub(crate) fn bytes(status: StatusCode, media_type: &'static str, bytes: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A response of a value.
pub(crate) fn value(status: StatusCode, encoding: Encoding, value: &Value) -> Response<Body> {
    match encoding {
        Encoding::Json => bytes(status, "application/json", value.to_string()),
        Encoding::Yaml => {
            let text = serde_yaml_ng::to_string(value).unwrap_or_default();
            bytes(status, "application/yaml", text)
        }
    }
}

/// The response of an error: its Status.
pub(crate) fn error(error: &Error) -> Response<Body> {
    let (code, _) = error.kind().code_and_reason();
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(status, Encoding::Json, &error.to_status());
    if let Some(seconds) = error.retry_seconds() {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

/// Adds what the client is warned of.
pub(crate) fn warn(response: &mut Response<Body>, warnings: Vec<String>) {
    for text in warnings {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(header) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, header);
        }
    }
}

/// One object, in the form that was asked for. `include` is the Table's `includeObject`.
pub(crate) fn one(call: &Call, form: Form, include: &str, status: StatusCode, object: Value) -> Response<Body> {
    let shown = match form.shape {
        _ if object["kind"] == "Status" => object,
        Shape::Object => object,
        Shape::Metadata => table::metadata(&object, form.beta),
        Shape::Table => table::of(&call.kind, &[object], include, form.beta, true, Timestamp::now()),
    };
    value(status, form.encoding, &shown)
}

/// A page of a list, in the form that was asked for.
///
/// # Errors
/// When a stored object is damaged.
pub(crate) fn list(call: &Call, form: Form, include: &str, page: &Page) -> Result<Response<Body>> {
    if form.shape == Shape::Object && form.encoding == Encoding::Json && !convert::differs(&call.kind) {
        return Ok(bytes(StatusCode::OK, "application/json", spliced(call, page)));
    }
    let objects = page.items.iter().map(|i| Ok(convert::from_stored(&call.kind, object::of_item(i)?)));
    let objects: Vec<Value> = objects.collect::<Result<_>>()?;
    let mut shown = match form.shape {
        Shape::Table => table::of(&call.kind, &objects, include, form.beta, true, Timestamp::now()),
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": table::version(form.beta),
            "items": objects.iter().map(|o| table::metadata(o, form.beta)).collect::<Value>(),
        }),
        Shape::Object => json!({
            "kind": format!("{}List", call.kind.kind), "apiVersion": call.kind.api_version(), "items": objects,
        }),
    };
    shown["metadata"] = list_meta(page);
    Ok(value(StatusCode::OK, form.encoding, &shown))
}

fn list_meta(page: &Page) -> Value {
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if !page.continue_token.is_empty() {
        meta["continue"] = page.continue_token.as_str().into();
    }
    if let Some(remaining) = page.remaining.filter(|n| *n > 0) {
        meta["remainingItemCount"] = remaining.into();
    }
    meta
}

/// The JSON of a list, made of the stored bytes.
fn spliced(call: &Call, page: &Page) -> Vec<u8> {
    let size: usize = page.items.iter().map(|item| item.value.len() + 40).sum();
    let mut out = Vec::with_capacity(size + 200);
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
        call.kind.kind,
        call.kind.api_version(),
        list_meta(page)
    );
    out.extend_from_slice(head.as_bytes());
    for (at, item) in page.items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        object::splice(&item.value, item.revision, &mut out);
    }
    out.extend_from_slice(b"]}");
    out
}
