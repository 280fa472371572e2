//! Values of flags: switches, numbers, sizes, times, as runc reads them. Pure.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use super::flags::{Flag, Takes};

/// Checks what was given to a flag; switches become `true` or `false`.
pub(super) fn check(flag: &Flag, value: OsString) -> Result<OsString, String> {
    let said = value.to_string_lossy().into_owned();
    let wrong = |what: &str| Err(format!("--{}: {said:?} {what}", flag.long));
    match flag.takes {
        Takes::Nothing => match switch(&said) {
            Some(on) => Ok(OsString::from(if on { "true" } else { "false" })),
            None => wrong("is neither true nor false"),
        },
        Takes::Number if number(&said).is_none() => wrong("is not a number"),
        Takes::Size if size(&said).is_none() => wrong("is not a size: bytes, or a number with k, m, g or t"),
        Takes::Duration if duration(&said).is_none() => wrong("is not a time above zero: 5s, 1m30s, 250ms"),
        Takes::OneOf(words) if !words.contains(&&*said) => wrong(&format!("is none of {}", words.join(", "))),
        _ => Ok(value),
    }
}

/// The words that Go takes for a switch; an empty one is on.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `--rootless`: `None` is auto.
pub(super) fn rootless(text: &str) -> Option<Option<bool>> {
    if text.is_empty() || text.eq_ignore_ascii_case("auto") { Some(None) } else { switch(text).map(Some) }
}

pub(super) fn check_rootless(value: Option<&OsStr>) -> Result<(), String> {
    let said = value.unwrap_or_default().to_string_lossy();
    let wrong = || format!("--rootless: {said:?} is none of true, false, auto");
    rootless(&said).ok_or_else(wrong).map(drop)
}

/// A decimal number; a plus sign is no part of one.
pub(super) fn number(text: &str) -> Option<i64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// Bytes: `1048576`, `512k`, `1.5GiB`, `-1`.
pub(super) fn size(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(lower.len());
    let (digits, unit) = (&lower[..end], lower[end..].trim_start());
    let power = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit) {
        "" if unit == "ib" => return None,
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let unit = 1i64 << (10 * power);
    if let Ok(whole) = digits.parse::<i64>() {
        return whole.checked_mul(unit);
    }
    let bytes = digits.parse::<f64>().ok()? * unit as f64;
    // 2^63: what is above it does not fit.
    (bytes < 9_223_372_036_854_775_808.0).then_some(bytes as i64)
}

/// Above zero: `5s`, `1m30s`, `1.5h`, `250ms`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (digits, after) = rest.split_at(end);
        let unit_end = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(digits.parse::<f64>().ok()? * seconds).ok()?;
        all = all.checked_add(part)?;
        rest = after;
    }
    (!all.is_zero()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_units() {
        let cases = [("0", 0), ("-1", -1), ("1024", 1024), ("32k", 32 << 10), ("1.5m", 3 << 19), ("2GiB", 2 << 30)];
        for (text, bytes) in cases {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        assert_eq!((size("1 kb"), size("1P")), (Some(1024), Some(1 << 50)));
        for text in ["", "-2", "k", "1x", "1ib", "9223372036854775808", "8192p", "1..2", "1e3", "inf", "nan"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn times_as_go_writes_them() {
        let cases = [("5s", 5_000), ("1m30s", 90_000), ("250ms", 250), ("1.5s", 1_500), ("1h", 3_600_000)];
        for (text, millis) in cases {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0s", "5", "s", "-1s", "1d", "1s5", "1e9h9", "..s", "99999999999999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn rootless_has_three_answers() {
        assert_eq!((rootless("auto"), rootless("AUTO"), rootless("")), (Some(None), Some(None), Some(None)));
        assert_eq!((rootless("true"), rootless("0"), rootless("x")), (Some(Some(true)), Some(Some(false)), None));
    }

    #[test]
    fn numbers_are_decimal() {
        assert_eq!(
            (number("-1"), number("7"), number("+7"), number("7x"), number("")),
            (Some(-1), Some(7), None, None, None)
        );
    }
}
