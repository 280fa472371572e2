//! Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch (Kubernetes).

mod strategic;

use serde_json::Value;

use crate::client::PatchType;
use crate::error::{Error, Kind, Result};
use crate::kinds::schema::Type;

/// The patched object.
///
/// # Errors
/// `BadRequest` for a malformed patch, `Invalid` for one that does not apply.
pub(crate) fn apply(patch: PatchType, current: &Value, body: &Value, ty: Option<&Type>) -> Result<Value> {
    let mut object = current.clone();
    match patch {
        PatchType::Json => json(&mut object, body)?,
        PatchType::Merge => json_patch::merge(&mut object, body),
        PatchType::Strategic => strategic::merge(&mut object, body, ty)?,
    }
    if !object.is_object() {
        return Err(Error::new(Kind::BadRequest, "the patch leaves no object"));
    }
    Ok(object)
}

/// Bytes that `copy` operations may add: without a limit, sixty of them fill any memory.
const COPIED: usize = 3 * 1024 * 1024;

/// Operations that a JSON patch may have, as kube-apiserver.
const OPERATIONS: usize = 10_000;

fn json(object: &mut Value, body: &Value) -> Result<()> {
    let patch: json_patch::Patch = serde_json::from_value(body.clone())
        .map_err(|e| Error::new(Kind::BadRequest, format!("error decoding patch: {e}")))?;
    if patch.0.len() > OPERATIONS {
        return Err(Error::new(Kind::TooLarge, format!("the patch has more than {OPERATIONS} operations")));
    }
    let mut copied = 0;
    for operation in &patch.0 {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            copied += object.pointer(copy.from.as_str()).map_or(0, size);
        }
        if copied > COPIED {
            return Err(Error::new(Kind::TooLarge, format!("the patch copies more than {COPIED} bytes")));
        }
        json_patch::patch_unsafe(object, std::slice::from_ref(operation)).map_err(|e| {
            Error::new(Kind::Invalid, format!("the server rejected our request due to an error in our request: {e}"))
        })?;
    }
    Ok(())
}

/// About as many bytes as a value takes.
fn size(value: &Value) -> usize {
    8 + match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn copies_cannot_fill_the_memory() {
        let copy = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let patch: Value = (0..60).map(|_| copy.clone()).collect();
        let error = apply(PatchType::Json, &json!({"a": ["x".repeat(1000)]}), &patch, None).expect_err("too much");
        assert_eq!(error.kind(), Kind::TooLarge);
        let few: Value = (0..4).map(|_| copy.clone()).collect();
        assert!(apply(PatchType::Json, &json!({"a": ["x"]}), &few, None).is_ok());
    }

    #[test]
    fn malformed_patches_are_refused() {
        for (kind, body) in [
            (PatchType::Json, json!({"op": "add"})),
            (PatchType::Json, json!([{"op": "frob", "path": "/a"}])),
            (PatchType::Json, json!([{"op": "remove", "path": "/none"}])),
            (PatchType::Json, json!([{"op": "replace", "path": "", "value": 3}])),
            (PatchType::Merge, json!([1])),
            (PatchType::Strategic, json!("x")),
        ] {
            assert!(apply(kind, &json!({"a": 1}), &body, None).is_err(), "{body}");
        }
    }
}
