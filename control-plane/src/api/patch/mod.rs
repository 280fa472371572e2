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

fn json(object: &mut Value, body: &Value) -> Result<()> {
    let patch: json_patch::Patch = serde_json::from_value(body.clone())
        .map_err(|e| Error::new(Kind::BadRequest, format!("error decoding patch: {e}")))?;
    if patch.0.len() > 10_000 {
        return Err(Error::new(Kind::TooLarge, "the patch has more than 10000 operations"));
    }
    json_patch::patch(object, &patch).map_err(|e| {
        Error::new(Kind::Invalid, format!("the server rejected our request due to an error in our request: {e}"))
    })
}
