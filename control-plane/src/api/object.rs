//! Objects as the store keeps them: JSON with `metadata` first and without `resourceVersion`, which is the store's
//! revision. It is spliced in where the object goes out, so that a list of 5,000 pods parses none of them.

use bytes::Bytes;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::store::Item;

/// What every stored object begins with.
const HEAD: &[u8] = b"{\"metadata\":{";

/// The stored form of an object.
///
/// # Errors
/// When the object has no metadata: a fault of ours, as validation asks for a name.
pub(crate) fn encode(object: &Value) -> Result<Bytes> {
    let fault = |why: &str| Error::internal("encode an object", why.to_owned());
    let map = object.as_object().ok_or_else(|| fault("it is no object"))?;
    let metadata = map.get("metadata").and_then(Value::as_object).ok_or_else(|| fault("it has no metadata"))?;
    let mut out = b"{\"metadata\":".to_vec();
    let mut first = true;
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
        member(&mut out, if first { b'{' } else { b',' }, key, value)?;
        first = false;
    }
    if first {
        return Err(fault("its metadata is empty"));
    }
    out.push(b'}');
    for (key, value) in map.iter().filter(|(key, _)| *key != "metadata") {
        member(&mut out, b',', key, value)?;
    }
    out.push(b'}');
    Ok(out.into())
}

fn member(out: &mut Vec<u8>, before: u8, key: &str, value: &Value) -> Result<()> {
    out.push(before);
    serde_json::to_writer(&mut *out, key)?;
    out.push(b':');
    Ok(serde_json::to_writer(out, value)?)
}

/// Appends an object, with its `resourceVersion`.
pub(crate) fn splice(stored: &[u8], revision: u64, out: &mut Vec<u8>) {
    match stored.strip_prefix(HEAD) {
        Some(rest) => {
            out.extend_from_slice(HEAD);
            out.extend_from_slice(b"\"resourceVersion\":\"");
            out.extend_from_slice(revision.to_string().as_bytes());
            out.extend_from_slice(b"\",");
            out.extend_from_slice(rest);
        }
        None => out.extend_from_slice(stored),
    }
}

/// The object of stored bytes, with its `resourceVersion`.
///
/// # Errors
/// When the bytes are no JSON: the store is damaged.
pub(crate) fn decode(stored: &[u8], revision: u64) -> Result<Value> {
    let mut value: Value =
        serde_json::from_slice(stored).map_err(|e| Error::internal("a stored object is damaged", e))?;
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
    Ok(value)
}

/// The object of an item.
///
/// # Errors
/// As [`decode`].
pub(crate) fn of_item(item: &Item) -> Result<Value> {
    decode(&item.value, item.revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn splicing_is_the_same_as_decoding() {
        let object = json!({"kind": "A", "metadata": {"resourceVersion": "3", "name": "x"}, "spec": {"a": [1, "\""]}});
        let stored = encode(&object).expect("encodes");
        assert_eq!(&stored[..], br#"{"metadata":{"name":"x"},"kind":"A","spec":{"a":[1,"\""]}}"#);
        let mut out = Vec::new();
        splice(&stored, 42, &mut out);
        let spliced: Value = serde_json::from_slice(&out).expect("json");
        assert_eq!(spliced, decode(&stored, 42).expect("decodes"));
        assert_eq!(spliced["metadata"]["resourceVersion"], "42");
    }

    #[test]
    fn an_object_without_metadata_is_refused() {
        for bad in [json!({}), json!({"metadata": {}}), json!({"metadata": {"resourceVersion": "1"}}), json!(1)] {
            assert!(encode(&bad).is_err());
        }
    }
}
