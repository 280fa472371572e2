//! The schema of the built-in kinds, compiled from the OpenAPI definitions that `k8s-openapi` carries.
//!
//! One compiled form serves everything that walks an object by type: decoding protobuf, refusing unknown fields,
//! bringing quantities and times to their canonical form, strategic merge patches. The JSON form, with descriptions,
//! is made anew when somebody asks for `/openapi`.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use k8s_openapi::api::{
    apps, authentication, authorization, autoscaling, coordination, core, discovery, events, node, policy, scheduling,
    storage,
};
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::lists::{self, ListRule};

/// Where references point to, as in OpenAPI v3.
const REF: &str = "#/components/schemas/";

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything.
    Any,
    /// `true` or `false`
    Boolean,
    /// An integer; whether it is 64 bits wide.
    Integer(bool),
    /// A number.
    Number,
    /// Text.
    Text,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A time to the second.
    Time,
    /// A time to the microsecond.
    MicroTime,
    /// `500m`
    Quantity,
    /// `80` or `"http"`
    IntOrString,
    /// An object type, by its number.
    Object(usize),
    /// A list.
    List(Box<Type>),
    /// A map from text.
    Map(Box<Type>),
}

/// A field of an object type.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its type.
    pub ty: Type,
    /// How it merges, if it has a rule of its own.
    pub rule: Option<&'static ListRule>,
}

/// An object type.
#[derive(Clone, Debug)]
pub struct Object {
    /// `io.k8s.api.core.v1.Pod`
    pub name: String,
    /// Its fields.
    pub fields: HashMap<String, Field>,
    /// Names of fields that must be there.
    pub required: Vec<String>,
}

/// All types.
#[derive(Debug)]
pub struct Schema {
    objects: Vec<Object>,
    by_name: HashMap<String, usize>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::compile(&definitions()));

/// The compiled schema of the built-in kinds.
pub fn schema() -> &'static Schema {
    &SCHEMA
}

/// The name of the type of a kind.
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    match (group, kind) {
        (_, "DeleteOptions" | "Status") => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"),
        ("", _) => format!("io.k8s.api.core.{version}.{kind}"),
        _ => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    }
}

/// The OpenAPI definitions of every type served, by name; references as in OpenAPI v3.
pub fn definitions() -> BTreeMap<String, Value> {
    let settings = SchemaSettings::openapi3().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = SchemaGenerator::new(settings);
    roots(&mut generator);
    generator.take_definitions(false).into_iter().collect()
}

fn roots(g: &mut SchemaGenerator) {
    macro_rules! add { ($($ty:ty),* $(,)?) => { $( let _ = g.subschema_for::<$ty>(); )* } }
    add!(
        core::v1::Binding,
        core::v1::ConfigMap,
        core::v1::Endpoints,
        core::v1::Event,
        core::v1::Namespace,
        core::v1::Node,
        core::v1::Pod,
        core::v1::Secret,
        core::v1::ServiceAccount,
        core::v1::Service,
        apps::v1::Deployment,
        apps::v1::ReplicaSet,
        autoscaling::v1::Scale,
        policy::v1::Eviction,
        authentication::v1::SelfSubjectReview,
        authentication::v1::TokenReview,
        authentication::v1::TokenRequest,
        authorization::v1::LocalSubjectAccessReview,
        authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview,
        authorization::v1::SubjectAccessReview,
        coordination::v1::Lease,
        discovery::v1::EndpointSlice,
        events::v1::Event,
        node::v1::RuntimeClass,
        scheduling::v1::PriorityClass,
        storage::v1::CSIDriver,
        storage::v1::CSINode,
        meta::v1::DeleteOptions,
        meta::v1::Status,
    );
}

impl Schema {
    fn compile(definitions: &BTreeMap<String, Value>) -> Self {
        let names: Vec<&String> = definitions.keys().collect();
        let by_name: HashMap<String, usize> = names.iter().enumerate().map(|(i, n)| ((*n).clone(), i)).collect();
        let mut schema = Self { objects: Vec::new(), by_name };
        schema.objects = definitions.iter().map(|(name, def)| schema.object_type(name, def)).collect();
        schema
    }

    fn object_type(&self, name: &str, definition: &Value) -> Object {
        let empty = Map::new();
        let properties = definition["properties"].as_object().unwrap_or(&empty);
        let field = |key: &String, value: &Value| Field { ty: self.type_of(value), rule: lists::rule(name, key) };
        let required = definition["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        Object {
            name: name.to_owned(),
            fields: properties.iter().map(|(k, v)| (k.clone(), field(k, v))).collect(),
            required: required.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    fn type_of(&self, value: &Value) -> Type {
        if let Some(name) = value["$ref"].as_str().and_then(|r| r.strip_prefix(REF)) {
            return self.named(name);
        }
        match (value["type"].as_str(), value["format"].as_str()) {
            (Some("boolean"), _) => Type::Boolean,
            (Some("integer"), format) => Type::Integer(format == Some("int64")),
            (Some("number"), _) => Type::Number,
            (Some("string"), Some("byte")) => Type::Bytes,
            (Some("string"), _) => Type::Text,
            (Some("array"), _) => Type::List(Box::new(self.type_of(&value["items"]))),
            (Some("object"), _) if value["additionalProperties"].is_object() => {
                Type::Map(Box::new(self.type_of(&value["additionalProperties"])))
            }
            _ => Type::Any,
        }
    }

    fn named(&self, name: &str) -> Type {
        match name.rsplit('.').next().unwrap_or(name) {
            "Quantity" => Type::Quantity,
            "IntOrString" => Type::IntOrString,
            "Time" => Type::Time,
            "MicroTime" => Type::MicroTime,
            "FieldsV1" | "RawExtension" | "JSON" => Type::Any,
            _ => self.by_name.get(name).map_or(Type::Any, |&at| Type::Object(at)),
        }
    }

    /// An object type by number.
    pub fn at(&self, number: usize) -> &Object {
        &self.objects[number]
    }

    /// An object type by name.
    pub fn object(&self, name: &str) -> Option<&Object> {
        self.by_name.get(name).map(|&at| &self.objects[at])
    }

    /// The type of a kind.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<Type> {
        self.by_name.get(&type_name(group, version, kind)).map(|&at| Type::Object(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;

    #[test]
    fn every_kind_and_subresource_has_a_type() {
        for kind in Kinds::builtin().all() {
            assert!(schema().kind(&kind.group, &kind.version, &kind.kind).is_some(), "{}", kind.resource());
        }
        assert!(schema().kind("autoscaling", "v1", "Scale").is_some());
        assert!(schema().kind("policy", "v1", "Eviction").is_some());
    }

    #[test]
    fn special_forms_are_recognised() {
        let field = |ty: &str, name: &str| schema().object(ty).expect(ty).fields[name].ty.clone();
        let limits = field("io.k8s.api.core.v1.ResourceRequirements", "limits");
        assert_eq!(limits, Type::Map(Box::new(Type::Quantity)));
        assert_eq!(field("io.k8s.api.core.v1.HTTPGetAction", "port"), Type::IntOrString);
        assert_eq!(field("io.k8s.api.core.v1.Secret", "data"), Type::Map(Box::new(Type::Bytes)));
        assert_eq!(field("io.k8s.api.coordination.v1.LeaseSpec", "renewTime"), Type::MicroTime);
        assert_eq!(field("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp"), Type::Time);
    }
}
