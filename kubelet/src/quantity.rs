//! Kubernetes quantities ("100m", "64Mi", "1e3") as whole numbers, rounded up as upstream does.
//! Grammar: the doc of k8s.io/apimachinery/pkg/api/resource.Quantity.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A resource list as the API has it.
pub(crate) type Resources = BTreeMap<String, Quantity>;

/// `text` in thousandths, rounded up; `None` where it is no quantity or does not fit.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (mul, div) = scale(suffix)?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 18 || whole.len() > 19 {
        return None;
    }
    let unscaled: i128 = format!("{whole}{fraction}").parse().ok()?;
    let below = 10i128.checked_pow(fraction.len() as u32)?.checked_mul(div)?;
    let value = unscaled.checked_mul(mul)?.checked_mul(1000)?;
    let value = (value + below - 1) / below;
    Some(if negative { -value } else { value })
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match exponent {
                0..=18 => (10i128.pow(exponent as u32), 1),
                -18..0 => (1, 10i128.pow(-exponent as u32)),
                _ => return None,
            }
        }
    })
}

/// The quantity in units, rounded up; what cannot be read counts as 0.
pub(crate) fn units(quantity: &Quantity) -> i64 {
    milli(&quantity.0).map_or(0, |m| i64::try_from((m + 999).div_euclid(1000)).unwrap_or(i64::MAX))
}

/// The quantity in thousandths, rounded up; what cannot be read counts as 0.
pub(crate) fn millis(quantity: &Quantity) -> i64 {
    milli(&quantity.0).map_or(0, |m| i64::try_from(m).unwrap_or(i64::MAX))
}

/// The amount of `name` in `list`, in thousandths for cpu and in units for all else.
pub(crate) fn amount(list: Option<&Resources>, name: &str) -> Option<i64> {
    let quantity = list?.get(name)?;
    Some(if name == "cpu" { millis(quantity) } else { units(quantity) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_as_upstream_reads_them() {
        for (text, want) in [
            ("100m", Some(100)),
            ("1", Some(1000)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.", Some(1000)),
            ("64Mi", Some(64 * 1024 * 1024 * 1000)),
            ("1e3", Some(1_000_000)),
            ("2E2", Some(200_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            ("-5", Some(-5000)),
            ("+5k", Some(5_000_000)),
            ("", None),
            ("Mi", None),
            ("5x", None),
            ("1..2", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(milli(text), want, "{text}");
        }
        assert_eq!(units(&Quantity("1500m".into())), 2);
    }
}
