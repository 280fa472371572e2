//! The files of configMap, secret, downwardAPI and projected volumes, as a list of (path, data, mode).
//! Pure: the objects' data and the tokens come in. Upstream: pkg/volume/{configmap,secret,projected}.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Volume};

use crate::error::{Error, Result};
use crate::pod;
use crate::pods::env::{Kind, Sources};
use crate::pods::fields::{self, Addresses};
use crate::quantity::Resources;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Relative, without `..`.
    pub path: String,
    pub data: Vec<u8>,
    pub mode: u32,
    /// The owner, where it is not root.
    pub owner: Option<u32>,
}

/// A token that a projected volume wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenWish {
    pub audience: String,
    pub seconds: i64,
}

/// What files are made from.
pub(crate) struct Inputs<'a> {
    pub pod: &'a Pod,
    pub sources: &'a Sources,
    pub tokens: &'a BTreeMap<TokenWish, String>,
    pub addresses: &'a Addresses,
    pub allocatable: &'a Resources,
}

const DEFAULT_MODE: i32 = 0o644;

/// The ConfigMaps and Secrets that the volume refers to.
pub(crate) fn references(volume: &Volume) -> Vec<(Kind, String)> {
    let mut all = Vec::new();
    all.extend(volume.config_map.as_ref().map(|s| (Kind::ConfigMap, s.name.clone())));
    all.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()).map(|n| (Kind::Secret, n)));
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        all.extend(source.config_map.as_ref().map(|s| (Kind::ConfigMap, s.name.clone())));
        all.extend(source.secret.as_ref().map(|s| (Kind::Secret, s.name.clone())));
    }
    all
}

/// The tokens that the volume wants.
pub(crate) fn wishes(volume: &Volume) -> Vec<TokenWish> {
    let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    sources.filter_map(|s| s.service_account_token.as_ref()).map(wish).collect()
}

fn wish(s: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection) -> TokenWish {
    TokenWish { audience: s.audience.clone().unwrap_or_default(), seconds: s.expiration_seconds.unwrap_or(3600) }
}

/// The volume's files; `None` for a volume that is not made of such files.
///
/// # Errors
/// `Kind::Pod` naming the object or key that is missing, or a path that leaves the volume.
pub(crate) fn files(inputs: &Inputs<'_>, volume: &Volume) -> Result<Option<Vec<Payload>>> {
    let mut out = Vec::new();
    if let Some(s) = &volume.config_map {
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        keys(inputs, Kind::ConfigMap, &s.name, s.items.as_ref(), mode, s.optional, &mut out)?;
    } else if let Some(s) = &volume.secret {
        let mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        let name = s.secret_name.as_deref().unwrap_or_default();
        keys(inputs, Kind::Secret, name, s.items.as_ref(), mode, s.optional, &mut out)?;
    } else if let Some(s) = &volume.downward_api {
        downward(inputs, s.items.as_ref(), s.default_mode.unwrap_or(DEFAULT_MODE), &mut out)?;
    } else if let Some(s) = &volume.projected {
        projected(inputs, s, &mut out)?;
    } else {
        return Ok(None);
    }
    for file in &out {
        let fine = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !file.path.split('/').all(fine) || file.path.starts_with("..") || file.path.contains('\0') {
            return Err(Error::pod(format!("path {:?} leaves the volume", file.path)));
        }
    }
    Ok(Some(out))
}

fn keys(
    inputs: &Inputs<'_>,
    kind: Kind,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: Option<bool>,
    out: &mut Vec<Payload>,
) -> Result<()> {
    let optional = optional == Some(true);
    let noun = if kind == Kind::Secret { "secret" } else { "configmap" };
    let Some(data) = inputs.sources.get(&(kind, name.to_string())) else {
        return if optional { Ok(()) } else { Err(Error::pod(format!("{noun} {name:?} not found"))) };
    };
    match items.filter(|i| !i.is_empty()) {
        None => {
            for (key, value) in data {
                put(out, key.clone(), value.clone(), mode);
            }
        }
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(value) => put(out, item.path.clone(), value.clone(), item.mode.unwrap_or(mode)),
                    None if optional => {}
                    None => return Err(Error::pod(format!("{noun} {name:?} has no key {:?}", item.key))),
                }
            }
        }
    }
    Ok(())
}

/// Later sources of a projected volume replace earlier ones.
fn put(out: &mut Vec<Payload>, path: String, data: Vec<u8>, mode: i32) {
    out.retain(|f| f.path != path);
    out.push(Payload { path, data, mode: (mode & 0o777) as u32, owner: None });
}

fn downward(
    inputs: &Inputs<'_>,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    mode: i32,
    out: &mut Vec<Payload>,
) -> Result<()> {
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(inputs.pod, &field.field_path, inputs.addresses)?,
            (None, Some(resource)) => fields::resource(inputs.pod, &Default::default(), resource, inputs.allocatable)?,
            (None, None) => return Err(Error::pod(format!("downwardAPI file {:?} refers to nothing", item.path))),
        };
        put(out, item.path.clone(), text.into_bytes(), item.mode.unwrap_or(mode));
    }
    Ok(())
}

fn projected(inputs: &Inputs<'_>, volume: &ProjectedVolumeSource, out: &mut Vec<Payload>) -> Result<()> {
    let mode = volume.default_mode.unwrap_or(DEFAULT_MODE);
    for source in volume.sources.iter().flatten() {
        if let Some(s) = &source.config_map {
            keys(inputs, Kind::ConfigMap, &s.name, s.items.as_ref(), mode, s.optional, out)?;
        } else if let Some(s) = &source.secret {
            keys(inputs, Kind::Secret, &s.name, s.items.as_ref(), mode, s.optional, out)?;
        } else if let Some(s) = &source.downward_api {
            downward(inputs, s.items.as_ref(), mode, out)?;
        } else if let Some(s) = &source.service_account_token {
            let token = inputs.tokens.get(&wish(s));
            let token = token.ok_or_else(|| Error::pod("no token from the API server"))?;
            put(out, s.path.clone(), token.clone().into_bytes(), mode);
            private_token(inputs.pod, out);
        } else {
            return Err(Error::pod("this kind of projected source is not supported"));
        }
    }
    Ok(())
}

/// A token is for its pod's user alone where that user is one, for the fsGroup where there is one.
fn private_token(of: &Pod, out: &mut [Payload]) {
    let Some(token) = out.last_mut() else { return };
    let context = pod::spec(of).security_context.clone().unwrap_or_default();
    let mut users: Vec<_> =
        pod::ordered(of).map(|(_, c)| pod::security(c).run_as_user.or(context.run_as_user)).collect();
    users.dedup();
    if context.fs_group.is_some() {
        token.mode = 0o600;
    } else if let [Some(user)] = users[..] {
        token.mode = 0o600;
        token.owner = u32::try_from(user).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(volume: Value, context: Value) -> Result<String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {"securityContext": context, "containers": [{"name": "c", "resources": {"limits": {"memory": "2Mi"}}}]}}))
        .expect("pod");
        let mut volume = volume;
        volume["name"] = "v".into();
        let volume: Volume = serde_json::from_value(volume).expect("volume");
        let sources = BTreeMap::from([(
            (Kind::ConfigMap, "cm".to_string()),
            BTreeMap::from([("a".to_string(), b"1".to_vec()), ("b".to_string(), b"2".to_vec())]),
        )]);
        let tokens = BTreeMap::from([(TokenWish { audience: String::new(), seconds: 3600 }, "tok".to_string())]);
        let inputs = Inputs {
            pod: &pod,
            sources: &sources,
            tokens: &tokens,
            addresses: &Addresses::default(),
            allocatable: &Resources::new(),
        };
        let all = files(&inputs, &volume)?.expect("a volume of files");
        Ok(all
            .into_iter()
            .map(|f| format!("{} {:o} {:?} {}\n", f.path, f.mode, f.owner, String::from_utf8_lossy(&f.data)))
            .collect())
    }

    #[test]
    fn volumes_of_files() {
        let none = json!({});
        assert_eq!(
            made(json!({"configMap": {"name": "cm"}}), none.clone()).expect("cm"),
            "a 644 None 1\nb 644 None 2\n"
        );
        assert_eq!(
            made(json!({"configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "b", "path": "x/y"}, {"key": "a", "path": "z", "mode": 511}]}}), none.clone()).expect("items"),
            "x/y 400 None 2\nz 777 None 1\n"
        );
        assert_eq!(
            made(json!({"secret": {"secretName": "no", "optional": true}}), none.clone()).expect("optional"),
            ""
        );
        assert_eq!(
            made(
                json!({"projected": {"sources": [
                {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "m", "resourceFieldRef": {"containerName": "c", "resource": "limits.memory"}}]}},
                {"serviceAccountToken": {"path": "token"}}]}}),
                json!({"runAsUser": 5})
            )
            .expect("projected"),
            "l 644 None a=\"b\"\nm 644 None 2097152\ntoken 600 Some(5) tok\n"
        );
    }

    #[test]
    fn what_is_missing_or_climbs_is_refused() {
        for (volume, why) in [
            (json!({"configMap": {"name": "no"}}), "configmap \"no\" not found"),
            (json!({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}), "has no key \"z\""),
            (json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "../z"}]}}), "leaves the volume"),
            (json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "x/../../z"}]}}), "leaves the volume"),
            (json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "/z"}]}}), "leaves the volume"),
        ] {
            let said = made(volume, json!({})).expect_err(why).to_string();
            assert!(said.contains(why), "{said}");
        }
    }
}
