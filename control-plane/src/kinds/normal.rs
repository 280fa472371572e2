//! Bringing an object to its normal form by its type: unknown fields go (and are told), nulls go, quantities and
//! times become canonical, and a value of the wrong type is an error, as decoding into Go's types would have it.

use serde_json::Value;

use super::quantity::Quantity;
use super::schema::{Type, schema};
use crate::error::{Error, Kind, Result};

/// Normalises `value` in place.
///
/// Returns the paths of the unknown fields that were dropped, such as `spec.containers[0].imag`.
///
/// # Errors
/// [`Kind::BadRequest`] when a value has the wrong type.
pub fn normalise(value: &mut Value, ty: &Type) -> Result<Vec<String>> {
    let mut walk = Walk { path: Vec::new(), unknown: Vec::new() };
    walk.value(value, ty)?;
    Ok(walk.unknown)
}

struct Walk {
    path: Vec<String>,
    unknown: Vec<String>,
}

impl Walk {
    fn here(&self) -> String {
        let mut text = String::new();
        for part in &self.path {
            if !text.is_empty() && !part.starts_with('[') {
                text.push('.');
            }
            text.push_str(part);
        }
        text
    }

    fn wrong(&self, value: &Value, wanted: &str) -> Error {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let here = self.here();
        Error::new(Kind::BadRequest, format!("json: cannot unmarshal {found} into field {here} of type {wanted}"))
    }

    fn value(&mut self, value: &mut Value, ty: &Type) -> Result<()> {
        match (ty, &mut *value) {
            (Type::Any, _) | (Type::Boolean, Value::Bool(_)) | (Type::Text, Value::String(_)) => Ok(()),
            (Type::Number, Value::Number(_)) => Ok(()),
            (Type::Integer(wide), Value::Number(_)) => self.integer(value, *wide),
            (Type::Bytes, Value::String(text)) => match super::form::base64_decode(text) {
                Some(_) => Ok(()),
                None => Err(Error::new(Kind::BadRequest, format!("illegal base64 data in field {}", self.here()))),
            },
            (Type::Quantity, Value::String(_) | Value::Number(_)) => self.quantity(value),
            (Type::IntOrString, Value::String(_)) => Ok(()),
            (Type::IntOrString, Value::Number(_)) => self.integer(value, false),
            (Type::Time | Type::MicroTime, Value::String(_)) => self.time(value, *ty == Type::MicroTime),
            (Type::Object(number), Value::Object(_)) => self.object(value, *number),
            (Type::List(item), Value::Array(items)) => {
                for (at, entry) in items.iter_mut().enumerate() {
                    self.inside(format!("[{at}]"), entry, item)?;
                }
                Ok(())
            }
            (Type::Map(item), Value::Object(map)) => {
                for (key, entry) in map.iter_mut() {
                    self.inside(key.clone(), entry, item)?;
                }
                Ok(())
            }
            (_, value) => Err(self.wrong(value, name(ty))),
        }
    }

    fn inside(&mut self, part: String, value: &mut Value, ty: &Type) -> Result<()> {
        self.path.push(part);
        let done = self.value(value, ty);
        self.path.pop();
        done
    }

    fn object(&mut self, value: &mut Value, number: usize) -> Result<()> {
        let Value::Object(map) = value else { return Ok(()) };
        let object = schema().at(number);
        let mut gone: Vec<String> = Vec::new();
        for (key, entry) in map.iter_mut() {
            match object.fields.get(key) {
                // A null is the same as nothing, for typed objects.
                Some(_) if entry.is_null() => gone.push(key.clone()),
                Some(field) => self.inside(key.clone(), entry, &field.ty)?,
                None => {
                    self.path.push(key.clone());
                    self.unknown.push(self.here());
                    self.path.pop();
                    gone.push(key.clone());
                }
            }
        }
        for key in gone {
            map.shift_remove(&key);
        }
        Ok(())
    }

    fn integer(&self, value: &mut Value, wide: bool) -> Result<()> {
        let whole = match value.as_i64() {
            Some(number) => Some(number),
            None => value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64),
        };
        match whole {
            Some(number) if wide || i32::try_from(number).is_ok() => {
                *value = number.into();
                Ok(())
            }
            _ => Err(self.wrong(value, if wide { "int64" } else { "int32" })),
        }
    }

    fn quantity(&self, value: &mut Value) -> Result<()> {
        let text = match &*value {
            Value::String(text) => text.trim().to_owned(),
            other => other.to_string(),
        };
        let Some(quantity) = Quantity::parse(&text) else {
            let rule = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
            return Err(Error::new(Kind::BadRequest, format!("{}: {text:?}: {rule}", self.here())));
        };
        *value = quantity.to_string().into();
        Ok(())
    }

    fn time(&self, value: &mut Value, micro: bool) -> Result<()> {
        let text = value.as_str().unwrap_or_default();
        let Ok(time) = text.parse::<jiff::Timestamp>() else {
            return Err(Error::new(Kind::BadRequest, format!("{}: {text:?} is no RFC 3339 time", self.here())));
        };
        let canonical = if micro { super::form::micro_time(time) } else { super::form::second_time(time) };
        *value = canonical.into();
        Ok(())
    }
}

fn name(ty: &Type) -> &'static str {
    match ty {
        Type::Any => "any",
        Type::Boolean => "bool",
        Type::Integer(_) | Type::Number => "number",
        Type::Text | Type::Bytes => "string",
        Type::Time | Type::MicroTime => "Time",
        Type::Quantity => "Quantity",
        Type::IntOrString => "IntOrString",
        Type::Object(_) => "object",
        Type::List(_) => "array",
        Type::Map(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(mut value: Value) -> Result<(Value, Vec<String>)> {
        let ty = schema().kind("", "v1", "Pod").expect("pods");
        let unknown = normalise(&mut value, &ty)?;
        Ok((value, unknown))
    }

    #[test]
    fn unknown_fields_are_dropped_and_told() {
        let given =
            json!({"spec": {"containers": [{"name": "a", "imag": "x"}], "foo": 1}, "metadata": {"labels": {"x": "y"}}});
        let (value, unknown) = pod(given).expect("fits");
        assert_eq!(unknown, ["spec.containers[0].imag", "spec.foo"]);
        assert_eq!(value, json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"labels": {"x": "y"}}}));
    }

    #[test]
    fn quantities_times_and_nulls_become_canonical() {
        let given = json!({
            "metadata": {"creationTimestamp": null, "deletionTimestamp": "2026-11-23T15:00:00.25+01:00"},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}]},
        });
        let (value, _) = pod(given).expect("fits");
        assert_eq!(value["metadata"], json!({"deletionTimestamp": "2026-11-23T14:00:00Z"}));
        assert_eq!(value["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "500m", "memory": "1Mi"}));
    }

    #[test]
    fn wrong_types_are_refused_with_their_path() {
        let said = |value: Value| pod(value).expect_err("must fail").to_string();
        let text = said(json!({"spec": {"containers": {}}}));
        assert_eq!(text, "json: cannot unmarshal object into field spec.containers of type array");
        let text = said(json!({"spec": {"containers": [{"ports": [{"containerPort": "x"}]}]}}));
        assert_eq!(
            text,
            "json: cannot unmarshal string into field spec.containers[0].ports[0].containerPort of type number"
        );
        assert!(said(json!({"metadata": {"labels": {"a": 1}}})).contains("metadata.labels.a of type string"));
        assert!(said(json!({"spec": {"overhead": {"cpu": "x1"}}})).contains("quantities must match"));
    }
}
