//! Quantities (`500m`, `1.5Gi`, `1e3`): parsed exactly and written in the canonical form of
//! `k8s.io/apimachinery/pkg/api/resource`: no fraction, the largest suffix that loses nothing.

use std::fmt;

/// How a quantity was written, and will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// An exact amount, in units of 10^-9.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Quantity {
    /// Parses `[+-]digits[.digits][suffix]`. Amounts beyond 2^63-1 are capped, finer than nano rounded away from zero.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 60 {
            return None;
        }
        let (format, factor, ten) = scale(suffix)?;
        let nanos = exact(whole, fraction, factor, ten);
        Some(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// The amount in thousandths, rounded up.
    pub fn millis(&self) -> i128 {
        div_up(self.nanos, NANO / 1000)
    }

    /// The amount in ones, rounded up.
    pub fn value(&self) -> i128 {
        div_up(self.nanos, NANO)
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
}

fn div_up(amount: i128, by: i128) -> i128 {
    amount.div_euclid(by) + i128::from(amount.rem_euclid(by) != 0)
}

/// Format, binary factor and power of ten of a suffix.
fn scale(suffix: &str) -> Option<(Format, i128, i32)> {
    if let Some(&(_, ten)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((Format::Decimal, 1, ten));
    }
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Some((Format::Binary, 1 << (10 * power), 0));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let ten: i32 = exponent.parse().ok()?;
    (-100..=100).contains(&ten).then_some((Format::Exponent, 1, ten))
}

/// (whole.fraction) x factor x 10^ten, in nanos, capped at 2^63-1 ones.
fn exact(whole: &str, fraction: &str, factor: i128, ten: i32) -> i128 {
    let cap = i128::from(i64::MAX) * NANO;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let shift = ten + 9 - fraction.len() as i32;
    if digits.is_empty() {
        return 0;
    }
    // Longer than any capped amount: more than 28 digits of nanos.
    if digits.len() as i32 + shift > 29 {
        return cap;
    }
    let kept: i128 = digits.get(..digits.len().min(38)).and_then(|d| d.parse().ok()).unwrap_or(0);
    let shift = shift + digits.len().saturating_sub(38) as i32;
    let scaled = if shift >= 0 {
        10i128.checked_pow(shift as u32).and_then(|p| kept.checked_mul(p)).and_then(|n| n.checked_mul(factor))
    } else {
        let by = 10i128.checked_pow(shift.unsigned_abs().min(38)).unwrap_or(i128::MAX);
        kept.checked_mul(factor).map(|n| div_up(n, by))
    };
    scaled.unwrap_or(cap).min(cap)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            Format::Binary if !small && self.nanos % NANO == 0 => {
                let (mut amount, mut power) = (self.nanos / NANO, 0);
                while amount % 1024 == 0 && power < BINARY.len() - 1 {
                    amount /= 1024;
                    power += 1;
                }
                write!(f, "{amount}{}", BINARY[power])
            }
            format => {
                let (mut amount, mut step) = (self.nanos, 0);
                if amount == 0 {
                    return f.write_str("0");
                }
                while amount % 1000 == 0 && step < DECIMAL.len() - 1 {
                    amount /= 1000;
                    step += 1;
                }
                match (format, DECIMAL[step]) {
                    (Format::Exponent, (_, 0)) => write!(f, "{amount}"),
                    (Format::Exponent, (_, ten)) => write!(f, "{amount}e{ten}"),
                    (_, (suffix, _)) => write!(f, "{amount}{suffix}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_are_those_of_apimachinery() {
        let table = "0.5 500m|1.5Gi 1536Mi|1000m 1|1000 1k|1024 1024|1024Ki 1Mi|0.1 100m|100 100|1e3 1e3|12e6 12e6|\
             512Ki 512Ki|1Ki 1Ki|0.5Ki 512|0.5Mi 512Ki|1.0 1|0 0|0Gi 0|-1500m -1500m|1.2345 1234500u|2000Ki 2000Ki|\
             0.0000000001 1n|10000000000000000000000 9223372036854775807|1E 1E|1e0 1|0.3Gi 322122547200m";
        for row in table.split('|') {
            let (given, expected) = row.trim().split_once(' ').expect("two");
            let quantity = Quantity::parse(given).unwrap_or_else(|| panic!("{given}"));
            assert_eq!(quantity.to_string(), expected, "{given}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "m", "1.2.3", "1 Gi", "1gi", "abc", "--1", "1e", "1e999", ".", "1mm", "0x10"] {
            assert!(Quantity::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn amounts_round_up() {
        assert_eq!(Quantity::parse("1500u").expect("parses").millis(), 2);
        assert_eq!(Quantity::parse("1.5").expect("parses").value(), 2);
        assert_eq!(Quantity::parse("2Gi").expect("parses").value(), 2 << 30);
        assert!(Quantity::parse("-1").expect("parses").is_negative());
    }
}
