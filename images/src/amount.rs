//! Durations, sizes and marks as people write them in a configuration or on a command line: `36h`, `10GiB`, `85%`. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::garbage::Mark;

/// A duration: numbers with units, `90s`, `1h30m`, `7d`, `2w`; `0` without one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::new(Kind::InvalidArgument, format!("duration {text:?}: expected as in 30m, 36h or 7d"));
        // Weeks and days first, which Go does not know.
        let (mut rest, mut sum) = (text, Duration::ZERO);
        for (unit, seconds) in [('w', 7 * 86400), ('d', 86400)] {
            if let Some((number, after)) = rest.split_once(unit) {
                let number: u64 = number.parse().map_err(|_| wrong())?;
                let part = number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)?;
                sum = sum.checked_add(part).ok_or_else(wrong)?;
                rest = after;
            }
        }
        if rest.is_empty() && !text.is_empty() {
            return Ok(Self(sum));
        }
        let part = crate::span::parse(rest).ok_or_else(wrong)?;
        sum.checked_add(part).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_secs();
        if left == 0 {
            return write!(f, "{}", if self.0.is_zero() { "0".into() } else { format!("{}ms", self.0.as_millis()) });
        }
        for (unit, seconds) in [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)] {
            if left >= seconds {
                write!(f, "{}{unit}", left / seconds)?;
                left %= seconds;
            }
        }
        Ok(())
    }
}

/// Bytes: a number with `kB`, `MB`, `GB`, `TB` (powers of 1000), `KiB`, `MiB`, `GiB`, `TiB` (of 1024) or neither; a single
/// letter is a power of 1024, as in Kubernetes' `Gi` and docker's `g`.
///
/// # Errors
/// [`Kind::InvalidArgument`].
pub fn bytes(text: &str) -> Result<u64, Error> {
    let wrong =
        || Error::new(Kind::InvalidArgument, format!("size {text:?}: expected as in 500MB, 10GiB or 1073741824"));
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let unit = text[at..].trim().to_ascii_lowercase();
    let power = |letter: &str| ["k", "m", "g", "t"].iter().position(|known| *known == letter).map(|at| at as u32 + 1);
    let factor = match unit.as_str() {
        "" | "b" => Some(1),
        unit => match (unit.strip_suffix("ib").or(unit.strip_suffix('i')), unit.strip_suffix('b')) {
            (Some(letter), _) => power(letter).map(|power| 1024u64.pow(power)),
            (None, Some(letter)) => power(letter).map(|power| 1000u64.pow(power)),
            (None, None) => power(unit).map(|power| 1024u64.pow(power)),
        },
    };
    factor.and_then(|factor| number.checked_mul(factor)).ok_or_else(wrong)
}

impl FromStr for Mark {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let Some(percent) = text.strip_suffix('%') else { return bytes(text).map(Self::Bytes) };
        match percent.trim().parse::<u8>() {
            Ok(part) if part <= 100 => Ok(Self::Percent(part)),
            _ => Err(Error::new(Kind::InvalidArgument, format!("mark {text:?}: expected 0% to 100%, or a size"))),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(part) => write!(f, "{part}%"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl TryFrom<String> for Mark {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Mark> for String {
    fn from(mark: Mark) -> Self {
        mark.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |text: &str| text.parse::<Span>().ok().map(|span| span.0.as_secs());
        for (text, expect) in
            [("0", 0), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("36h", 129_600), ("7d", 604_800), ("1w", 604_800)]
        {
            assert_eq!(seconds(text), Some(expect), "{text}");
            assert_eq!(seconds(&text.parse::<Span>().unwrap().to_string()), Some(expect), "{text} written back");
        }
        for bad in [
            "",
            "5",
            "h",
            "-1h",
            "1.5d",
            "1y",
            "1h5",
            "99999999999999999999d",
            "18446744073709551615w",
            "1d2",
            "1d2w",
            "\u{e4}",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_and_marks() {
        for (text, expect) in [
            ("0", 0),
            ("512", 512),
            ("1kB", 1000),
            ("1K", 1024),
            ("500MB", 500_000_000),
            ("500m", 500 << 20),
            ("10GiB", 10 << 30),
            ("10Gi", 10 << 30),
            ("2 TB", 2_000_000_000_000),
            ("7b", 7),
        ] {
            assert_eq!(bytes(text).unwrap(), expect, "{text}");
        }
        for bad in ["", "GB", "1.5GB", "-1", "1XB", "1e9", "99999999999TB", "10%", "1\u{e4}"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!("85%".parse::<Mark>().unwrap(), Mark::Percent(85));
        assert_eq!("10GiB".parse::<Mark>().unwrap(), Mark::Bytes(10 << 30));
        for bad in ["101%", "-1%", "%", "85.5%", "full"] {
            assert!(bad.parse::<Mark>().is_err(), "{bad}");
        }
    }
}
