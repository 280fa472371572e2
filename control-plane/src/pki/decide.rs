//! DECIDE: whether a certificate must be issued, out of what it says and what is wanted. No files, no clock.

use std::collections::BTreeSet;
use std::fmt;

use super::Names;

/// How long what the authority signs is good, in days.
pub(super) const LEAF_DAYS: u64 = 365;
/// How long the authority is good, in days.
pub(super) const CA_DAYS: u64 = 3650;

/// What a certificate should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) common_name: String,
    pub(super) organization: Option<String>,
    pub(super) names: BTreeSet<String>,
    pub(super) usage: Usage,
}

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Authority,
    Client,
    Server,
}

impl Wanted {
    pub(super) fn authority() -> Wanted {
        let common_name = "gantry-ca".to_owned();
        Wanted { common_name, organization: None, names: BTreeSet::new(), usage: Usage::Authority }
    }

    pub(super) fn client(common_name: &str, organization: Option<&str>) -> Wanted {
        Wanted {
            common_name: common_name.to_owned(),
            organization: organization.map(str::to_owned),
            names: BTreeSet::new(),
            usage: Usage::Client,
        }
    }

    pub(super) fn server(common_name: &str, organization: Option<&str>, names: &Names) -> Wanted {
        let dns = names.dns.iter().map(|name| name.to_ascii_lowercase());
        let ips = names.ips.iter().map(ToString::to_string);
        Wanted { names: dns.chain(ips).collect(), usage: Usage::Server, ..Wanted::client(common_name, organization) }
    }

    pub(super) fn days(&self) -> u64 {
        if self.usage == Usage::Authority { CA_DAYS } else { LEAF_DAYS }
    }
}

/// What the certificate on disk says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) common_name: String,
    pub(super) organization: Option<String>,
    pub(super) names: BTreeSet<String>,
    /// Seconds since 1970.
    pub(super) not_before: i64,
    /// Seconds since 1970.
    pub(super) not_after: i64,
    /// Signed by the authority of today (of an authority: by itself).
    pub(super) signed: bool,
    /// The key beside it is its key.
    pub(super) key_fits: bool,
}

/// Why a certificate must be issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Missing,
    OtherAuthority,
    OtherKey,
    OtherSubject,
    OtherNames,
    NotYetValid,
    Expiring,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Missing => "there is none",
            Reason::OtherAuthority => "another authority signed it",
            Reason::OtherKey => "the key beside it is not its key",
            Reason::OtherSubject => "its subject is another",
            Reason::OtherNames => "its names have changed",
            Reason::NotYetValid => "it is not valid yet",
            Reason::Expiring => "less than a third of its time is left",
        })
    }
}

/// Why `found` will not do for `wanted` at `now` (seconds since 1970); `None` when it will.
pub(super) fn must_issue(found: Option<&Found>, wanted: &Wanted, now: i64) -> Option<Reason> {
    let Some(found) = found else { return Some(Reason::Missing) };
    let lifetime = found.not_after - found.not_before;
    [
        (!found.signed, Reason::OtherAuthority),
        (!found.key_fits, Reason::OtherKey),
        (found.common_name != wanted.common_name || found.organization != wanted.organization, Reason::OtherSubject),
        (found.names != wanted.names, Reason::OtherNames),
        (now < found.not_before, Reason::NotYetValid),
        (now > found.not_after - lifetime / 3, Reason::Expiring),
    ]
    .into_iter()
    .find_map(|(bad, reason)| bad.then_some(reason))
}
