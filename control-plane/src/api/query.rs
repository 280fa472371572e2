//! The query of a URL, decoded, and the options in it.

use super::selector::Selector;
use super::verbs::{FieldValidation, ListQuery};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::kinds::Kind;

/// The parameters, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=1&b=x%20y`.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of a key; empty if there is none.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }

    /// All values of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether a flag is given (`watch`, `watch=1`, `watch=true`).
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0.iter().any(|(k, v)| k == key && !matches!(v.as_str(), "false" | "0"))
    }

    /// A number.
    ///
    /// # Errors
    /// `BadRequest` if it is none.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>> {
        let text = self.get(key);
        if text.is_empty() {
            return Ok(None);
        }
        let bad = |_| Error::new(ErrorKind::BadRequest, format!("invalid value {text:?} of the parameter {key}"));
        text.parse().map(Some).map_err(bad)
    }

    /// `dryRun=All`
    pub(crate) fn dry_run(&self) -> Result<bool> {
        match self.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(Error::new(
                ErrorKind::Invalid,
                format!("dryRun: Unsupported value: {other:?}: supported values: \"All\""),
            )),
        }
    }

    /// `fieldValidation=`
    pub(crate) fn field_validation(&self) -> Result<FieldValidation> {
        match self.get("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => {
                let text = format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                );
                Err(Error::new(ErrorKind::Invalid, text))
            }
        }
    }

    /// What a list, a watch or a deletecollection selects.
    pub(crate) fn list(&self, kind: &Kind) -> Result<ListQuery> {
        let limit = self.number("limit")?.unwrap_or(0);
        Ok(ListQuery {
            selector: Selector::parse(kind, self.get("labelSelector"), self.get("fieldSelector"))?,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token: self.get("continue").to_owned(),
            resource_version: self.get("resourceVersion").to_owned(),
            version_match: self.get("resourceVersionMatch").to_owned(),
        })
    }
}

/// Decodes `%XX`, and `+` where that means a space. What is no UTF-8 becomes replacement characters.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = |n: usize| bytes.get(at + n).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) if plus => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=ls&command=-l%20x&watch&limit=5&labelSelector=a%3Db%2Cc+in+%28d%29&x=%zz");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["ls", "-l x"]);
        assert!(query.flag("watch") && !query.flag("follow"));
        assert_eq!(query.number("limit").expect("number"), Some(5));
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert_eq!(query.get("x"), "%zz");
        assert!(Query::parse("limit=x").number("limit").is_err());
        assert!(Query::parse("dryRun=Some").dry_run().is_err());
        assert!(!Query::parse("watch=false").flag("watch"));
    }
}
