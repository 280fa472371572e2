//! Keys that one parser takes for a key of a manifest and another does not.
//!
//! Go, in which nearly every other reader of images is written, finds `Manifests` where it looks for `manifests`
//! (encoding/json, "preferring exact matches but also accepting case-insensitive matches"). A document with such keys has
//! two faces: what a scanner has seen is not what runs (CVE-2021-41190).

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Kind, Result};

/// Keys that decide what a document is.
const KNOWN: [&str; 8] =
    ["schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "fsLayers", "subject"];

/// Refuses a document with a key that is one of those that decide but for its case. Remembers nothing of the rest.
///
/// # Errors
/// [`Kind::Invalid`].
pub(crate) fn check(body: &[u8]) -> Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    match reader.deserialize_map(Keys).map_err(|why| Error::caused(Kind::Invalid, "manifest", why))? {
        Some(odd) => Err(Error::new(Kind::Invalid, format!("manifest: the key {odd:?} is written in an odd case"))),
        None => Ok(()),
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut odd = None;
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if KNOWN.iter().any(|known| *known != key && folded(known) == folded(&key)) {
                odd = Some(key);
            }
        }
        Ok(odd)
    }
}

/// As Go folds: lower case, and the two letters beyond ASCII that fold into it.
fn folded(key: &str) -> String {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().take(64).map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_cases_are_refused() {
        for good in [r#"{"schemaVersion":2,"layers":[],"Other":1,"":2}"#, r#"{"a":{"Layers":1}}"#, "{}"] {
            assert!(check(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            r#"{"layers":[],"Manifests":[]}"#,
            r#"{"CONFIG":{}}"#,
            r#"{"layer\u017f":[]}"#,
            "{\"manife\u{17f}ts\":[]}",
            "[]",
            "{",
        ] {
            assert_eq!(check(bad.as_bytes()).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
