//! Picks a few values out of JSON bytes without building the rest: what selectors look at.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The values at `paths` (each a path of object keys); `Null` where there is nothing, or the bytes are no JSON.
pub(crate) fn pick(bytes: &[u8], paths: &[&[&str]]) -> Vec<Value> {
    let mut found = vec![Value::Null; paths.len()];
    let wanted: Vec<(usize, &[&str])> = paths.iter().copied().enumerate().collect();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    // What was found before a fault stays found; stored objects have none.
    let _ = Picker { wanted: &wanted, found: &mut found }.deserialize(&mut deserializer);
    found
}

struct Picker<'a, 'p> {
    wanted: &'a [(usize, &'p [&'p str])],
    found: &'a mut [Value],
}

impl<'de> DeserializeSeed<'de> for Picker<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let [(at, [])] = self.wanted {
            self.found[*at] = serde::Deserialize::deserialize(deserializer)?;
            return Ok(());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Picker<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("json")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let inside = self.wanted.iter().filter_map(|&(at, path)| Some((at, strip(path, &key)?)));
            let wanted: Vec<_> = inside.collect();
            if wanted.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Picker { wanted: &wanted, found: self.found })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

fn strip<'p>(path: &'p [&'p str], key: &str) -> Option<&'p [&'p str]> {
    path.split_first().filter(|(first, _)| **first == key).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_was_asked_for_is_built() {
        let bytes = br#"{"a":{"b":[1,{"c":2}],"d":"x"},"e":null,"f":{"g":{"h":true}},"d":"y","k\"":1}"#;
        let found = pick(bytes, &[&["a", "d"], &["f", "g"], &["e", "x"], &["a", "b"], &["k\""]]);
        assert_eq!(found, [json!("x"), json!({"h": true}), Value::Null, json!([1, {"c": 2}]), json!(1)]);
        assert_eq!(pick(b"[1]", &[&["a"]]), [Value::Null]);
        assert_eq!(pick(b"{", &[&["a"]]), [Value::Null]);
    }
}
