//! Small textual forms that many kinds use: times, base64, what a name may look like.

use base64::Engine;
use jiff::Timestamp;
use serde_json::Value;

/// `2026-11-23T15:00:00Z`
pub fn second_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-23T15:00:00.123456Z`
pub fn micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Decodes standard base64 with padding.
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// A value at a path of keys; null if any is missing.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, key| &value[*key])
}

/// The text at a path of keys; empty if there is none.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The list at a path of keys; empty if there is none.
pub fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A label selector as text: `app=web,tier in (a,b)`.
pub fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(labels) = selector["matchLabels"].as_object() {
        parts.extend(labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())));
    }
    for expression in list(selector, &["matchExpressions"]) {
        let key = text(expression, &["key"]);
        let values: Vec<&str> = list(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        parts.push(match text(expression, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.sort();
    parts.join(",")
}

/// RFC 1123 label: lower case, digits, `-`; at most 63 characters.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|&c| inner(c) || c == b'-')
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}

/// RFC 1123 subdomain: labels joined by `.`, at most 253 characters.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253
        && !text.is_empty()
        && text.split('.').all(|part| {
            let bytes = part.as_bytes();
            let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            !bytes.is_empty()
                && bytes.iter().all(|&c| inner(c) || c == b'-')
                && inner(bytes[0])
                && inner(bytes[bytes.len() - 1])
        })
}

/// The name part of a label key, or a label's value: alphanumeric at both ends, `-_.` inside, at most 63 characters.
pub fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|&c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// `[prefix/]name`, as label and annotation keys are.
pub fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_word(name),
        None => is_label_word(text),
    }
}

/// Key of a ConfigMap or Secret: alphanumeric, `-`, `_` or `.`, at most 253 characters, no `.`, `..` or `..x`.
pub fn is_config_key(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text != "."
        && !text.starts_with("..")
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        for good in ["a", "a-b", "0a", &"a".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
        assert!(is_dns_subdomain("a.b-c.d") && !is_dns_subdomain("a..b") && !is_dns_subdomain("a.-b"));
        assert!(is_qualified_name("example.com/A_b.c") && !is_qualified_name("a/b/c") && !is_qualified_name("/b"));
        assert!(is_config_key("a.B_c-1") && !is_config_key("..") && !is_config_key("a/b") && is_config_key(".a"));
    }

    #[test]
    fn times_are_written_to_their_precision() {
        let time: Timestamp = "2026-11-23T15:00:00.1234567Z".parse().expect("time");
        assert_eq!(second_time(time), "2026-11-23T15:00:00Z");
        assert_eq!(micro_time(time), "2026-11-23T15:00:00.123456Z");
    }
}
