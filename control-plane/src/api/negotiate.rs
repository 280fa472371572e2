//! What a client accepts: JSON or YAML, the object itself, a Table, or only its metadata.

use crate::error::{Error, Kind, Result};

/// How an object is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    #[default]
    Object,
    Table,
    Metadata,
}

/// The encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoding {
    #[default]
    Json,
    Yaml,
}

/// The answer's form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
    /// Table and PartialObjectMetadata of `v1beta1` rather than `v1`.
    pub(crate) beta: bool,
}

/// One accepted media type with its parameters.
pub(crate) struct Media<'a> {
    pub(crate) kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Media<'_> {
    pub(crate) fn get(&self, key: &str) -> &str {
        self.parameters.iter().find(|(k, _)| *k == key).map_or("", |(_, v)| v)
    }
}

/// The media types of an Accept header, in order.
pub(crate) fn media(accept: &str) -> impl Iterator<Item = Media<'_>> {
    accept.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| {
        let mut parts = part.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let parameters = parts.map(|p| p.split_once('=').unwrap_or((p, ""))).collect();
        Media { kind, parameters }
    })
}

/// Chooses the first accepted form that can be made.
///
/// # Errors
/// `NotAcceptable` if none can.
pub(crate) fn choose(accept: &str) -> Result<Form> {
    if accept.trim().is_empty() {
        return Ok(Form::default());
    }
    media(accept).find_map(|media| form(&media)).ok_or_else(|| {
        let text = "only the following media types are accepted: application/json, application/yaml";
        Error::new(Kind::NotAcceptable, text)
    })
}

fn form(media: &Media<'_>) -> Option<Form> {
    let encoding = match media.kind {
        "application/json" | "application/*" | "*/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let shape = match media.get("as") {
        "" => return Some(Form { encoding, ..Default::default() }),
        "Table" => Shape::Table,
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Metadata,
        _ => return None,
    };
    let version = media.get("v");
    let known = media.get("g") == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
    known.then_some(Form { shape, encoding, beta: version == "v1beta1" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_made_is_chosen() {
        let shape = |accept: &str| choose(accept).map(|f| (f.shape, f.encoding, f.beta)).ok();
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let table = [
            ("", Some((Shape::Object, Encoding::Json, false))),
            ("*/*", Some((Shape::Object, Encoding::Json, false))),
            (kubectl, Some((Shape::Table, Encoding::Json, false))),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Some((Shape::Table, Encoding::Json, true))),
            ("application/json;as=Table;v=v2;g=meta.k8s.io", None),
            ("application/vnd.kubernetes.protobuf, application/json", Some((Shape::Object, Encoding::Json, false))),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                Some((Shape::Metadata, Encoding::Json, false)),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            ("application/yaml", Some((Shape::Object, Encoding::Yaml, false))),
            ("text/html", None),
        ];
        for (accept, expected) in table {
            assert_eq!(shape(accept), expected, "{accept}");
        }
    }
}
