//! What the firewall of the bridge says, decided as text: a pure function of the configuration and the leases.
//!
//! All of it is one table of nf_tables for each family, replaced in one transaction whenever host ports change; so after a crash the
//! next change, or `reconcile`, makes it right whatever it was. Connections that live keep their translation
//! in conntrack. How rules become bytes is [`super::nft`]'s matter.

use super::leases::Lease;
use super::range::Cidr;
use super::{NetworkConfig, PortMapping, Protocol};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A base chain: name, type, hook and priority as nft(8) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    /// `NF_INET_*` (linux/netfilter.h).
    pub(super) hook: u32,
    pub(super) priority: i32,
}

const PRE_ROUTING: u32 = libc::NF_INET_PRE_ROUTING as u32;
const LOCAL_OUT: u32 = libc::NF_INET_LOCAL_OUT as u32;
const POST_ROUTING: u32 = libc::NF_INET_POST_ROUTING as u32;

/// Addresses that a packet may have only within one machine.
const LOOPBACK: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
/// The same, of IPv6.
const LOOPBACK6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::LOCALHOST), 128);

/// Every chain of the table; rules name them by index.
pub(super) const CHAINS: [Chain; 4] = [
    Chain { name: "guard", kind: "filter", hook: PRE_ROUTING, priority: -300 },
    Chain { name: "in", kind: "nat", hook: PRE_ROUTING, priority: -100 },
    Chain { name: "local", kind: "nat", hook: LOCAL_OUT, priority: -100 },
    Chain { name: "out", kind: "nat", hook: POST_ROUTING, priority: 100 },
];

/// One condition or the verdict of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    /// The packet came in by this device (or by any other).
    FromDevice(String, bool),
    /// The packet leaves by this device (or by any other).
    ToDevice(String, bool),
    /// Source address in a range.
    Source(IpAddr, u8),
    /// Destination address in a range (or outside of it).
    Destination(IpAddr, u8, bool),
    /// The destination is an address of this machine.
    DestinationIsLocal,
    /// Transport protocol and destination port.
    Port(Protocol, u16),
    /// The connection's destination was rewritten.
    WasForwarded,
    /// Verdict: drop.
    Drop,
    /// Verdict: rewrite the source to that of the device the packet leaves by.
    Masquerade,
    /// Verdict: rewrite the destination.
    Forward(IpAddr, u16),
}

/// A family of addresses; each has a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A rule: the chain that it is appended to, and its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) family: Family,
    pub(super) chain: &'static str,
    pub(super) terms: Vec<Term>,
}

/// Every rule, in order. `leases` are the pods' addresses and ports.
pub(super) fn decide<'a>(config: &NetworkConfig, leases: impl Iterator<Item = (IpAddr, &'a Lease)>) -> Vec<Rule> {
    let leases: Vec<_> = leases.collect();
    config.ranges.all().flat_map(|range| decide_for(config, range, &leases)).collect()
}

fn decide_for(config: &NetworkConfig, range: Cidr, leases: &[(IpAddr, &Lease)]) -> Vec<Rule> {
    let family = Family::of(range.address());
    let bridge = || config.bridge_name.clone();
    let of_range = Term::Source(range.address(), range.prefix());
    let rule = |chain, terms| Rule { family, chain, terms };
    // CVE-2020-8558: route_localnet, which host ports on 127.0.0.1 need (and kube-proxy sets), would open the node's
    // loopback to the pods, and let them speak as if they were it. Of IPv6 the kernel drops such packets by itself.
    let (loopback, prefix) = if family == Family::V4 { LOOPBACK } else { LOOPBACK6 };
    let guard = |term| rule("guard", vec![Term::FromDevice(bridge(), true), term, Term::Drop]);
    let mut rules = vec![guard(Term::Destination(loopback, prefix, true)), guard(Term::Source(loopback, prefix))];
    if config.masquerade {
        let leaves = Term::ToDevice(bridge(), false);
        rules.push(rule("out", vec![of_range.clone(), leaves, Term::Masquerade]));
    }
    if config.host_ports {
        // A pod that reaches a pod (or itself) through a host port: the answer has to come back this way.
        let back = Term::ToDevice(bridge(), true);
        rules.push(rule("out", vec![of_range, back.clone(), Term::WasForwarded, Term::Masquerade]));
        if family == Family::V4 {
            // A pod cannot answer 127.0.0.1; it answers the bridge.
            rules.push(rule("out", vec![Term::Source(loopback, prefix), back, Term::Masquerade]));
        }
        for (primary, lease) in leases {
            let all = std::iter::once(primary).chain(&lease.more);
            for ip in all.filter(|ip| Family::of(**ip) == family) {
                rules.extend(lease.ports.iter().filter_map(|port| forward(*ip, port)).flatten());
            }
        }
    }
    rules
}

/// What is closed where CNI plugins make the network: the plugin `portmap` opens the loopback of the node to its pods
/// (route_localnet, CVE-2020-8558), and leaves it to others to close it.
pub(super) fn decide_guard() -> Vec<Rule> {
    let (loopback, prefix) = LOOPBACK;
    let elsewhere = || Term::FromDevice("lo".into(), false);
    let guard = |term| Rule { family: Family::V4, chain: "guard", terms: vec![elsewhere(), term, Term::Drop] };
    vec![guard(Term::Destination(loopback, prefix, true)), guard(Term::Source(loopback, prefix))]
}

/// A host port, for packets from elsewhere and for those of the machine itself, 127.0.0.1 included; none where the port
/// is of an address of the other family.
fn forward(pod: IpAddr, port: &PortMapping) -> Option<[Rule; 2]> {
    let family = Family::of(pod);
    let host = match port.host_ip.filter(|ip| !ip.is_unspecified()) {
        Some(ip) if Family::of(ip) != family => return None,
        Some(ip) => vec![Term::Destination(ip, if ip.is_ipv4() { 32 } else { 128 }, true)],
        None => vec![Term::DestinationIsLocal],
    };
    let rest = [Term::Port(port.protocol, port.host_port), Term::Forward(pod, port.container_port)];
    Some(["in", "local"].map(|chain| {
        let mut terms = host.clone();
        if (family, chain, port.host_ip) == (Family::V6, "local", None) {
            // There is no way from ::1 to another device (no route_localnet): it stays what it is.
            let (loopback, prefix) = LOOPBACK6;
            terms.push(Term::Destination(loopback, prefix, false));
        }
        terms.extend(rest.clone());
        Rule { family, chain, terms }
    }))
}

/// As nft(8) would list it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.chain)?;
        if self.family == Family::V6 {
            f.write_str("6")?;
        }
        self.terms.iter().try_for_each(|term| write!(f, " {term}"))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |equal: &bool| if *equal { "" } else { "!= " };
        match self {
            Self::FromDevice(name, equal) => write!(f, "iifname {}{name}", not(equal)),
            Self::ToDevice(name, equal) => write!(f, "oifname {}{name}", not(equal)),
            Self::Source(ip, prefix) => write!(f, "{} saddr {ip}/{prefix}", header(ip)),
            Self::Destination(ip, prefix, equal) => {
                write!(f, "{} daddr {}{ip}/{prefix}", header(ip), not(equal))
            }
            Self::DestinationIsLocal => f.write_str("fib daddr type local"),
            Self::Port(protocol, port) => write!(f, "{} dport {port}", protocol.name()),
            Self::WasForwarded => f.write_str("ct status dnat"),
            Self::Drop => f.write_str("drop"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Forward(ip, port) => write!(f, "dnat to {}", std::net::SocketAddr::new(*ip, *port)),
        }
    }
}

fn header(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "ip" } else { "ip6" }
}

impl Protocol {
    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ranges: &str) -> NetworkConfig {
        NetworkConfig::new("/a".into(), "/b".into(), ranges.parse().unwrap())
    }

    fn check(config: &NetworkConfig, ports: &[PortMapping], expected: &str) {
        let lease: Lease = serde_json::from_value(serde_json::json!({
            "version": 1, "pod": "a", "device": "gv1", "ports": ports, "more": ["fd00::2"],
        }))
        .unwrap();
        let rules = decide(config, [(Ipv4Addr::new(10, 88, 0, 2).into(), &lease)].into_iter());
        let said: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn the_default_is_guard_masquerade_and_the_way_back() {
        check(
            &config("10.88.0.0/16"),
            &[],
            "guard iifname gantry0 ip daddr 127.0.0.0/8 drop\n\
             guard iifname gantry0 ip saddr 127.0.0.0/8 drop\n\
             out ip saddr 10.88.0.0/16 oifname != gantry0 masquerade\n\
             out ip saddr 10.88.0.0/16 oifname gantry0 ct status dnat masquerade\n\
             out ip saddr 127.0.0.0/8 oifname gantry0 masquerade\n",
        );
    }

    #[test]
    fn a_host_port_is_forwarded_from_outside_and_from_here() {
        let config = NetworkConfig { masquerade: false, ..config("10.88.0.0/16") };
        check(
            &config,
            &[port(Protocol::Tcp, None), port(Protocol::Udp, Some("192.0.2.1"))],
            "guard iifname gantry0 ip daddr 127.0.0.0/8 drop\n\
             guard iifname gantry0 ip saddr 127.0.0.0/8 drop\n\
             out ip saddr 10.88.0.0/16 oifname gantry0 ct status dnat masquerade\n\
             out ip saddr 127.0.0.0/8 oifname gantry0 masquerade\n\
             in fib daddr type local tcp dport 8080 dnat to 10.88.0.2:80\n\
             local fib daddr type local tcp dport 8080 dnat to 10.88.0.2:80\n\
             in ip daddr 192.0.2.1/32 udp dport 8080 dnat to 10.88.0.2:80\n\
             local ip daddr 192.0.2.1/32 udp dport 8080 dnat to 10.88.0.2:80\n",
        );
    }

    fn port(protocol: Protocol, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol, container_port: 80, host_port: 8080, host_ip }
    }

    #[test]
    fn both_families_have_their_rules_and_a_port_of_one_address_only_its_own() {
        check(
            &config("10.88.0.0/16,fd00::/64"),
            &[port(Protocol::Tcp, None), port(Protocol::Udp, Some("2001:db8::1"))],
            "guard iifname gantry0 ip daddr 127.0.0.0/8 drop\n\
             guard iifname gantry0 ip saddr 127.0.0.0/8 drop\n\
             out ip saddr 10.88.0.0/16 oifname != gantry0 masquerade\n\
             out ip saddr 10.88.0.0/16 oifname gantry0 ct status dnat masquerade\n\
             out ip saddr 127.0.0.0/8 oifname gantry0 masquerade\n\
             in fib daddr type local tcp dport 8080 dnat to 10.88.0.2:80\n\
             local fib daddr type local tcp dport 8080 dnat to 10.88.0.2:80\n\
             guard6 iifname gantry0 ip6 daddr ::1/128 drop\n\
             guard6 iifname gantry0 ip6 saddr ::1/128 drop\n\
             out6 ip6 saddr fd00::/64 oifname != gantry0 masquerade\n\
             out6 ip6 saddr fd00::/64 oifname gantry0 ct status dnat masquerade\n\
             in6 fib daddr type local tcp dport 8080 dnat to [fd00::2]:80\n\
             local6 fib daddr type local ip6 daddr != ::1/128 tcp dport 8080 dnat to [fd00::2]:80\n\
             in6 ip6 daddr 2001:db8::1/128 udp dport 8080 dnat to [fd00::2]:80\n\
             local6 ip6 daddr 2001:db8::1/128 udp dport 8080 dnat to [fd00::2]:80\n",
        );
    }

    #[test]
    fn beside_cni_only_the_loopback_is_guarded() {
        let said: Vec<String> = decide_guard().iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            ["guard iifname != lo ip daddr 127.0.0.0/8 drop", "guard iifname != lo ip saddr 127.0.0.0/8 drop"]
        );
    }
}
