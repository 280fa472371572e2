//! The OpenAPI v2 document as protobuf, `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`: what kubectl up
//! to 1.28 asks for before it applies anything. Messages and numbers are those of gnostic's `OpenAPIv2.proto`.

use serde_json::{Map, Value};

/// The media type as it is answered. (Clients ask with an `@` before the version, which is no lawful media type: Go's
/// parser refuses it in an answer.)
pub(crate) const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The media type as clients ask for it.
pub(crate) const ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Encodes a document that was made by `openapi`.
pub(crate) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.inner(2, |info| {
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
    });
    out.inner(8, |paths| {
        for (name, item) in object(&document["paths"]) {
            paths.named(2, name, |out| path_item(item, out));
        }
    });
    out.inner(9, |definitions| {
        for (name, item) in object(&document["definitions"]) {
            definitions.named(1, name, |out| schema(item, out));
        }
    });
    out.0
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// A protobuf message while it is written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text field; nothing for what is no text.
    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u64, value: &Value) {
        if *value == true {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    fn inner(&mut self, number: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// `Named...{name = 1, value = 2}`
    fn named(&mut self, number: u64, name: &str, write: impl FnOnce(&mut Self)) {
        self.inner(number, |entry| {
            entry.bytes(1, name.as_bytes());
            entry.inner(2, write);
        });
    }

    /// `x-...` members as `NamedAny{name = 1, value = Any{yaml = 2}}`; JSON is YAML too.
    fn extensions(&mut self, number: u64, value: &Value) {
        for (name, value) in object(value).filter(|(name, _)| name.starts_with("x-")) {
            self.named(number, name, |any| any.bytes(2, value.to_string().as_bytes()));
        }
    }
}

fn path_item(item: &Value, out: &mut Message) {
    for (method, number) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if item[method].is_object() {
            out.inner(number, |out| operation(&item[method], out));
        }
    }
}

fn operation(operation: &Value, out: &mut Message) {
    out.text(5, &operation["operationId"]);
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        // ParametersItem.parameter / Parameter.non_body_parameter / .query_parameter_sub_schema
        out.inner(8, |out| out.inner(1, |out| out.inner(2, |out| out.inner(3, |out| query(parameter, out)))));
    }
    out.inner(9, |responses| {
        for (code, response) in object(&operation["responses"]) {
            responses.named(1, code, |value| {
                value.inner(1, |out| {
                    out.text(1, &response["description"]);
                    out.inner(2, |item| item.inner(1, |out| schema(&response["schema"], out)));
                });
            });
        }
    });
    out.extensions(13, operation);
}

fn query(parameter: &Value, out: &mut Message) {
    out.text(2, &parameter["in"]);
    out.text(4, &parameter["name"]);
    out.text(6, &parameter["type"]);
    out.flag(20, &parameter["uniqueItems"]);
}

fn schema(schema_of: &Value, out: &mut Message) {
    out.text(1, &schema_of["$ref"]);
    out.text(2, &schema_of["format"]);
    out.text(4, &schema_of["description"]);
    for name in schema_of["required"].as_array().into_iter().flatten() {
        out.text(19, name);
    }
    let additional = &schema_of["additionalProperties"];
    if additional.is_object() {
        out.inner(21, |out| out.inner(1, |out| schema(additional, out)));
    }
    if schema_of["type"].is_string() {
        out.inner(22, |out| out.text(1, &schema_of["type"]));
    }
    if schema_of["items"].is_object() {
        out.inner(23, |out| out.inner(1, |out| schema(&schema_of["items"], out)));
    }
    if schema_of["properties"].is_object() {
        out.inner(25, |out| {
            for (name, item) in object(&schema_of["properties"]) {
                out.named(1, name, |out| schema(item, out));
            }
        });
    }
    out.extensions(31, schema_of);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_small_document_is_encoded_byte_for_byte() {
        let document = json!({
            "swagger": "2.0", "info": {"title": "K", "version": "v"},
            "definitions": {"A": {"type": "object", "x-k": [1]}},
        });
        let expected = [
            b"\x0a\x032.0".as_slice(),
            b"\x12\x06\x0a\x01K\x12\x01v",
            b"\x42\x00",
            // Definitions{NamedSchema{"A", Schema{type{"object"}, NamedAny{"x-k", Any{yaml "[1]"}}}}}
            b"\x4a\x21\x0a\x1f\x0a\x01A\x12\x1a\xb2\x01\x08\x0a\x06object\xfa\x01\x0c",
            b"\x0a\x03x-k\x12\x05\x12\x03[1]",
        ]
        .concat();
        let said = encode(&document);
        assert_eq!(said.len(), expected.len(), "{said:x?}");
        assert_eq!(said, expected);
    }
}
