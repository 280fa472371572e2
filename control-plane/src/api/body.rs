//! Bodies: reading one with a limit, by its media type; and the type of what goes out.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;

use super::protobuf;
use crate::error::{Error, Kind, Result};

/// The body of every request and response.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What goes wrong while a body is read.
#[derive(Debug)]
pub(crate) struct BodyError(hyper::Error);

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BodyError {}

/// Bytes that a body may have: as kube-apiserver, 3 MiB.
const LIMIT: usize = 3 * 1024 * 1024;

/// A body of bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Reads a body, up to the limit.
///
/// # Errors
/// `TooLarge`; `BadRequest` if the client hangs up.
pub(crate) async fn read(body: Body) -> Result<Bytes> {
    match Limited::new(body, LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => {
            Err(Error::new(Kind::TooLarge, format!("Request entity too large: limit is {LIMIT}")))
        }
        Err(e) => Err(Error::new(Kind::BadRequest, format!("cannot read the body: {e}"))),
    }
}

/// The object in a body.
///
/// # Errors
/// `UnsupportedMediaType`, or `BadRequest` when it cannot be parsed.
pub(crate) fn parse(media_type: &str, bytes: &[u8]) -> Result<Value> {
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    match media_type {
        _ if bytes.starts_with(protobuf::MAGIC) => protobuf::decode(bytes),
        "" | "application/json" | "text/json" => serde_json::from_slice(bytes)
            .map_err(|e| Error::new(Kind::BadRequest, format!("couldn't get version/kind; json parse error: {e}"))),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(bytes),
        "application/yaml" => yaml(bytes),
        other => Err(Error::new(
            Kind::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (not {other:?})"
            ),
        )),
    }
}

/// YAML of one document. Aliases are bounded by the parser.
pub(crate) fn yaml(bytes: &[u8]) -> Result<Value> {
    serde_yaml_ng::from_slice(bytes).map_err(|e| Error::new(Kind::BadRequest, format!("yaml: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_are_parsed_by_their_type() {
        assert_eq!(parse("application/json; charset=utf-8", b"{\"a\":1}").expect("json"), json!({"a": 1}));
        assert_eq!(parse("application/yaml", b"a: 1\nb: [x]\n").expect("yaml"), json!({"a": 1, "b": ["x"]}));
        assert_eq!(parse("text/html", b"").expect_err("no").kind(), Kind::UnsupportedMediaType);
        assert_eq!(parse("application/json", b"{").expect_err("no").kind(), Kind::BadRequest);
        assert_eq!(parse("application/json", &[b'['; 5000]).expect_err("no").kind(), Kind::BadRequest);
    }

    #[tokio::test]
    async fn a_body_has_a_limit() {
        assert_eq!(read(full(vec![b' '; LIMIT + 1])).await.expect_err("too large").kind(), Kind::TooLarge);
        assert_eq!(read(full(vec![b' '; LIMIT])).await.expect("fits").len(), LIMIT);
    }
}
