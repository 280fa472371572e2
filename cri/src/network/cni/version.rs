//! Versions of the CNI specification: which there are, which we speak, which plugins of a list agree on.

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::str::FromStr;

/// A version of the specification, as `major.minor.patch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// What a configuration that names none has (SPEC.md, "Versioning", before 0.3.0).
    pub(super) const FIRST: Self = Self(0, 1, 0);
    /// Interfaces, any number of addresses, prevResult.
    pub(super) const V0_3: Self = Self(0, 3, 0);
    /// CHECK, and prevResult for DEL.
    pub(super) const V0_4: Self = Self(0, 4, 0);
    /// Addresses no longer name their own family.
    pub(super) const V1_0: Self = Self(1, 0, 0);
    /// GC and STATUS.
    pub(super) const NEWEST: Self = Self(1, 1, 0);
    /// Every one that there has been.
    pub(super) const ALL: [Self; 7] =
        [Self::FIRST, Self(0, 2, 0), Self::V0_3, Self(0, 3, 1), Self::V0_4, Self::V1_0, Self::NEWEST];

    /// The version, if it is one that we speak.
    pub(super) fn known(text: &str) -> Result<Self> {
        let version: Self = text.parse()?;
        match Self::ALL.contains(&version) {
            true => Ok(version),
            false => Err(invalid(format!("CNI version {text:?} is not spoken; the newest that is: {}", Self::NEWEST))),
        }
    }
}

fn invalid(why: String) -> Error {
    Error::new(Kind::Invalid, why)
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::FIRST);
        }
        let mut parts = text.splitn(3, '.').map(str::parse::<u32>);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), minor, patch) => {
                let part = |part: Option<Result<u32, _>>| part.unwrap_or(Ok(0));
                match (part(minor), part(patch)) {
                    (Ok(minor), Ok(patch)) => Ok(Self(major, minor, patch)),
                    _ => Err(invalid(format!("CNI version {text:?} is not of the form 1.0.0"))),
                }
            }
            _ => Err(invalid(format!("CNI version {text:?} is not of the form 1.0.0"))),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_in_order() {
        for version in Version::ALL {
            assert_eq!(Version::known(&version.to_string()).unwrap(), version);
        }
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::known("").unwrap(), Version::FIRST);
        assert_eq!("1".parse::<Version>().unwrap(), Version::V1_0);
        assert!("0.10.0".parse::<Version>().unwrap() > Version::V0_4);
        for bad in ["one", "1.x", "1.0.0.0", "-1.0.0", "1.0.0-rc1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert!(Version::known("1.2.0").unwrap_err().to_string().contains("newest that is: 1.1.0"));
    }
}
