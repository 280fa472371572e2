//! Ranges of addresses: one of a family, or one of each, in which a pod has the same number.

use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range as `address/prefix`: `10.88.0.0/16`, `fd5a:67e0:88::/64`. Host bits are zero; the prefix is 1 to 29 bits for
/// IPv4, 1 to 125 for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

impl Cidr {
    /// Length of the network part, in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the host part, in bits.
    fn host_bits(&self) -> u32 {
        let all = if self.address.is_ipv4() { 32 } else { 128 };
        all - u32::from(self.prefix)
    }

    /// Whether `ip` lies in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let high = |ip| number(ip) >> self.host_bits();
        ip.is_ipv4() == self.address.is_ipv4() && high(ip) == high(self.address)
    }

    /// The address of this number: 1 is the gateway, which the bridge itself has.
    pub fn host(&self, at: u32) -> IpAddr {
        let ip = number(self.address) + u128::from(at);
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(ip as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(ip)),
        }
    }

    /// The first host address, which the bridge itself has.
    pub fn gateway(&self) -> IpAddr {
        self.host(1)
    }

    /// The number of an address of the range.
    fn host_number(&self, ip: IpAddr) -> Option<u32> {
        let within = self.contains(ip).then(|| number(ip) - number(self.address))?;
        u32::try_from(within).ok()
    }

    /// Numbers for pods: all but network, gateway and broadcast; of IPv6 not more than 32 bits.
    fn pods(&self) -> std::ops::Range<u32> {
        2..(1_u128 << self.host_bits().min(32)).saturating_sub(1) as u32
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::new(Kind::Invalid, format!("address range {text:?}: {why}"));
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("not of the form address/prefix"))?;
        let address: IpAddr = address.parse().map_err(|_| bad("not an IP address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| bad("not a prefix length"))?;
        let (longest, why) = match address {
            IpAddr::V4(_) => (29, "the prefix must be 1 to 29 bits"),
            IpAddr::V6(_) => (125, "the prefix must be 1 to 125 bits"),
        };
        if !(1..=longest).contains(&prefix) {
            return Err(bad(why));
        }
        let cidr = Self { address, prefix };
        match number(address) & ((1 << cidr.host_bits()) - 1) {
            0 => Ok(cidr),
            _ => Err(bad("bits are set beyond the prefix")),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The ranges of a node's pods: one, or one of each family, comma separated. The first is that of the pods' primary
/// addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ranges {
    first: Cidr,
    second: Option<Cidr>,
}

impl Ranges {
    /// Each of them, the first one first.
    pub fn all(&self) -> impl Iterator<Item = Cidr> + use<> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// That of the primary addresses.
    pub fn first(&self) -> Cidr {
        self.first
    }

    /// Without the range of IPv6, where there is another one: for kernels without it.
    #[must_use]
    pub fn without_ipv6(self) -> Self {
        let left = self.all().find(|range| range.address.is_ipv4()).unwrap_or(self.first);
        Self { first: left, second: None }
    }

    /// Whether it has addresses of IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.all().any(|range| range.address.is_ipv6())
    }

    /// Numbers for pods, in each range.
    pub(super) fn pods(&self) -> std::ops::Range<u32> {
        let end = self.all().map(|range| range.pods().end).min().unwrap_or(2);
        2..end
    }

    /// The addresses of a number, the primary one first.
    pub(super) fn hosts(&self, at: u32) -> Vec<IpAddr> {
        self.all().map(|range| range.host(at)).collect()
    }

    /// The number of a primary address, when it is one for pods.
    pub(super) fn pod_number(&self, primary: IpAddr) -> Option<u32> {
        self.first.host_number(primary).filter(|at| self.pods().contains(at))
    }

    /// The range that an address is of.
    pub(super) fn of(&self, ip: IpAddr) -> Option<Cidr> {
        self.all().find(|range| range.contains(ip))
    }
}

impl FromStr for Ranges {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut all = text.split(',').map(|part| part.trim().parse::<Cidr>());
        let first = all.next().unwrap_or_else(|| "".parse())?;
        let second = all.next().transpose()?;
        let twice = second.is_some_and(|second| second.address.is_ipv4() == first.address.is_ipv4());
        if twice || all.next().is_some() {
            let why = format!("address ranges {text:?}: at most one of IPv4 and one of IPv6");
            return Err(Error::new(Kind::Invalid, why));
        }
        Ok(Self { first, second })
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.second.map_or(Ok(()), |second| write!(f, ",{second}"))
    }
}

impl TryFrom<String> for Ranges {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Ranges> for String {
    fn from(ranges: Ranges) -> Self {
        ranges.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Ranges {
        text.parse().unwrap()
    }

    #[test]
    fn a_pod_has_the_same_number_in_both_ranges() {
        let both = ranges("10.88.0.0/16, fd5a:67e0:88::/64");
        assert_eq!(both.to_string(), "10.88.0.0/16,fd5a:67e0:88::/64");
        let said: Vec<String> = both.hosts(258).iter().map(ToString::to_string).collect();
        assert_eq!(said, ["10.88.1.2", "fd5a:67e0:88::102"]);
        assert_eq!(both.pods(), 2..65535);
        assert_eq!(both.pod_number("10.88.1.2".parse().unwrap()), Some(258));
        assert_eq!(both.pod_number("10.88.0.1".parse().unwrap()), None);
        assert_eq!(both.pod_number("10.88.255.255".parse().unwrap()), None);
        assert_eq!(both.pod_number("10.89.0.2".parse().unwrap()), None);
        assert_eq!(both.without_ipv6().to_string(), "10.88.0.0/16");
        assert!(both.has_ipv6() && !both.without_ipv6().has_ipv6());
    }

    #[test]
    fn the_first_range_is_of_either_family_and_the_smaller_one_counts() {
        let six = ranges("fd00::/120,10.0.0.0/8");
        assert_eq!(six.pods(), 2..255);
        assert_eq!(six.hosts(2)[0].to_string(), "fd00::2");
        assert_eq!(ranges("fd00::/64").pods(), 2..u32::MAX);
        assert_eq!(ranges("fd00::/64").without_ipv6().to_string(), "fd00::/64");
        assert_eq!(ranges("10.1.0.0/29").pods(), 2..7);
        assert_eq!(ranges("128.0.0.0/1").pods(), 2..i32::MAX as u32);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (text, why) in [
            ("", "form address/prefix"),
            ("10.0.0.0", "form address/prefix"),
            ("10.0.0.1/24", "beyond the prefix"),
            ("10.0.0.0/30", "1 to 29"),
            ("fd00::/126", "1 to 125"),
            ("fd00::1/64", "beyond the prefix"),
            ("10.0.0.0/x", "prefix length"),
            ("host/8", "not an IP address"),
            ("10.0.0.0/8,10.1.0.0/16", "at most one of IPv4"),
            ("10.0.0.0/8,fd00::/64,fd01::/64", "at most one of IPv4"),
        ] {
            let said = text.parse::<Ranges>().unwrap_err().to_string();
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }
}
