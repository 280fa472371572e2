//! Protobuf bodies against the published types of `k8s-pb`: what it encodes, we decode.

use k8s_pb::api::{apps, core};
use k8s_pb::apimachinery::pkg::api::resource::Quantity;
use k8s_pb::apimachinery::pkg::apis::meta;
use k8s_pb::apimachinery::pkg::util::intstr::IntOrString;
use prost::Message;
use serde_json::json;

use super::*;

fn body(api_version: &str, kind: &str, raw: &impl Message) -> Vec<u8> {
    let meta =
        k8s_pb::apimachinery::pkg::runtime::TypeMeta { api_version: Some(api_version.into()), kind: Some(kind.into()) };
    let unknown = k8s_pb::apimachinery::pkg::runtime::Unknown {
        type_meta: Some(meta),
        raw: Some(raw.encode_to_vec()),
        ..Default::default()
    };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

#[test]
fn a_pod_with_special_forms_becomes_its_json() {
    let quantity = Quantity { string: Some("500m".into()) };
    let port = IntOrString { r#type: Some(1), int_val: Some(0), str_val: Some("http".into()) };
    let probe = core::v1::Probe {
        handler: Some(core::v1::ProbeHandler {
            http_get: Some(core::v1::HttpGetAction { path: Some("/".into()), port: Some(port), ..Default::default() }),
            ..Default::default()
        }),
        period_seconds: Some(3),
        ..Default::default()
    };
    let container = core::v1::Container {
        name: Some("web".into()),
        args: vec!["a".into(), String::new()],
        resources: Some(core::v1::ResourceRequirements {
            limits: [("cpu".to_owned(), quantity)].into(),
            ..Default::default()
        }),
        liveness_probe: Some(probe),
        image: Some(String::new()),
        ..Default::default()
    };
    let volume = core::v1::Volume {
        name: Some("v".into()),
        volume_source: Some(core::v1::VolumeSource { empty_dir: Some(Default::default()), ..Default::default() }),
    };
    let pod = core::v1::Pod {
        metadata: Some(meta::v1::ObjectMeta {
            name: Some("p".into()),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            creation_timestamp: Some(meta::v1::Time { seconds: Some(1_795_446_000), nanos: Some(7) }),
            ..Default::default()
        }),
        spec: Some(core::v1::PodSpec {
            containers: vec![container],
            volumes: vec![volume],
            termination_grace_period_seconds: Some(0),
            host_network: Some(false),
            ..Default::default()
        }),
        status: Some(Default::default()),
    };
    let expected = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "labels": {"a": "b"}, "creationTimestamp": "2026-11-23T15:00:00Z"},
        "spec": {
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{
                "name": "web", "args": ["a", ""], "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 3},
            }],
            "terminationGracePeriodSeconds": 0,
        },
    });
    let mut decoded = decode(&body("v1", "Pod", &pod)).expect("decodes");
    // `image` is no required field, so its empty text goes.
    assert_eq!(decoded.take(), expected);
}

#[test]
fn deployments_secrets_and_options_decode() {
    let deployment = apps::v1::Deployment {
        spec: Some(apps::v1::DeploymentSpec { replicas: Some(0), paused: Some(false), ..Default::default() }),
        ..Default::default()
    };
    let decoded = decode(&body("apps/v1", "Deployment", &deployment)).expect("decodes");
    assert_eq!(decoded["spec"], json!({"replicas": 0}));

    let secret = core::v1::Secret { data: [("k".to_owned(), b"v\xff".to_vec())].into(), ..Default::default() };
    let decoded = decode(&body("v1", "Secret", &secret)).expect("decodes");
    assert_eq!(decoded["data"], json!({"k": "dv8="}));

    let options = meta::v1::DeleteOptions {
        grace_period_seconds: Some(0),
        propagation_policy: Some("Background".into()),
        ..Default::default()
    };
    let decoded = decode(&body("v1", "DeleteOptions", &options)).expect("decodes");
    assert_eq!(decoded["gracePeriodSeconds"], 0);
    assert_eq!(decoded["propagationPolicy"], "Background");
}

#[test]
fn extra_values_of_access_reviews_decode() {
    use k8s_pb::api::authorization::v1::{ExtraValue, SubjectAccessReview, SubjectAccessReviewSpec};
    let review = SubjectAccessReview {
        spec: Some(SubjectAccessReviewSpec {
            extra: [("scopes".to_owned(), ExtraValue { items: vec!["a".into(), "b".into()] })].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let decoded = decode(&body("authorization.k8s.io/v1", "SubjectAccessReview", &review)).expect("decodes");
    assert_eq!(decoded["spec"]["extra"], json!({"scopes": ["a", "b"]}));
}

#[test]
fn no_bytes_make_it_fall_over() {
    let whole = body("v1", "Pod", &core::v1::Pod { metadata: Some(Default::default()), ..Default::default() });
    for end in 0..whole.len() {
        let _ = decode(&whole[..end]);
    }
    let mut seed = 7u64;
    for _ in 0..2000 {
        let mut bytes = whole.clone();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] = (seed >> 20) as u8;
        }
        let _ = decode(&bytes);
    }
    assert!(decode(b"{}").is_err());
    assert!(decode(&body("v1", "Unicorn", &core::v1::Pod::default())).is_err());
}

#[test]
fn every_type_in_the_schema_has_its_numbers() {
    for kind in crate::kinds::Kinds::builtin().all() {
        let name = type_name(&kind.group, &kind.version, &kind.kind);
        let row = FIELDS.get(name.trim_start_matches("io.k8s.")).unwrap_or_else(|| panic!("{name}"));
        assert!(!row.is_empty(), "{name}");
    }
}
