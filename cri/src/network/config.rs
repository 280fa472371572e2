//! What the built-in bridge network is told: its name, its range, where its records live.

use crate::error::{Error, Kind};
use serde::{Deserialize, Serialize};
use std::{fmt, net::Ipv4Addr, path::PathBuf, str::FromStr};

/// Configuration of the built-in bridge; checked once by [`Network::open`](super::Network::open).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Name of the bridge device, at most 15 bytes. Made on demand, and removed by
    /// [`Network::dismantle`](super::Network::dismantle) alone.
    pub bridge_name: String,
    /// Addresses of the pods; the first host address is the bridge's own (the gateway).
    pub cidr: Cidr,
    /// Directory of the leases, 0700. Leases describe kernel objects that end with the boot, so this belongs on a
    /// file system that does too (below `/run`).
    pub state_dir: PathBuf,
    /// Offer `hostPort` (DNAT by nf_tables). Without it a port mapping with a host port is refused.
    pub host_ports: bool,
    /// Rewrite the source of traffic that leaves the range (masquerade by nf_tables). Needless without an uplink.
    pub masquerade: bool,
    /// MTU of the bridge and of both ends of each pair, in bytes.
    pub mtu: u32,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge_name: "gantry0".into(),
            cidr: Cidr { address: Ipv4Addr::new(10, 88, 0, 0), prefix: 16 },
            state_dir: "/run/gantry/network".into(),
            host_ports: true,
            masquerade: true,
            mtu: 1500,
        }
    }
}

/// An IPv4 range as `address/prefix`, for example `10.88.0.0/16`; the prefix is 1 to 29 bits, host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// Length of the network part, in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(crate) fn mask(&self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// Whether `ip` lies in the range.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & self.mask() == u32::from(self.address)
    }

    /// The first host address, which the bridge itself has.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) + 1)
    }

    /// Addresses for pods: all but network, gateway and broadcast.
    pub fn pods(&self) -> std::ops::Range<u32> {
        let network = u32::from(self.address);
        network + 2..(network | !self.mask())
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::new(Kind::Invalid, format!("address range {text:?}: {why}"));
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("not of the form address/prefix"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad("not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| bad("not a prefix length"))?;
        if !(1..=29).contains(&prefix) {
            return Err(bad("the prefix must be 1 to 29 bits"));
        }
        let cidr = Self { address, prefix };
        match cidr.contains(address) {
            true => Ok(cidr),
            false => Err(bad("bits are set beyond the prefix")),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}
