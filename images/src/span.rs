//! Spans of time as Go's `time.ParseDuration` reads them (`10s`, `1m30s`, `1.5h`, `300ms`), which is how containerd's
//! files and ours write them.

use std::time::Duration;

/// Unit and its nanoseconds, longer names first.
const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Reads a span; `None` if it is none. A negative span is none here.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let (name, unit) = UNITS.into_iter().find(|(name, _)| follows(&rest[end..], name))?;
        nanoseconds += number * unit;
        rest = &rest[end + name.len()..];
    }
    // Beyond some centuries it is a mistake; a float that large would also not fit.
    (nanoseconds < 9e18).then(|| Duration::from_nanos(nanoseconds as u64))
}

/// The unit stands here, and no longer unit does.
fn follows(text: &str, name: &str) -> bool {
    text.strip_prefix(name).is_some_and(|after| after.is_empty() || after.starts_with(|c: char| c.is_ascii_digit()))
}

/// For serde: `#[serde(with = "crate::span::text")]`.
pub(crate) mod text {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        match (span.subsec_nanos(), span.as_millis()) {
            (0, _) => to.collect_str(&format_args!("{}s", span.as_secs())),
            (_, milliseconds) => to.collect_str(&format_args!("{milliseconds}ms")),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || serde::de::Error::custom(format!("{text:?} is no span of time, as in 30s or 1m30s"));
        super::parse(&text).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_them() {
        for (text, milliseconds) in [
            ("1s", 1000),
            ("0", 0),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("300ms", 300),
            ("2us", 0),
            ("1h1ms", 3_600_001),
        ] {
            assert_eq!(parse(text).map(|span| span.as_millis()), Some(milliseconds), "{text}");
        }
        for bad in ["", "1", "s", "-1s", "1 s", "1d", "1..2s", "99999999999999h", "1sx", "1s2"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
