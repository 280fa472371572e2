//! What the firewall of the bridge says, decided as text: a pure function of the configuration and the leases.
//!
//! All of it is one table of nf_tables, replaced in one transaction whenever host ports change; so after a crash the
//! next change, or `reconcile`, makes it right whatever it was. Connections that live keep their translation
//! in conntrack. How rules become bytes is [`super::nft`]'s matter.

use super::leases::Lease;
use super::{NetworkConfig, PortMapping, Protocol};
use std::fmt;
use std::net::Ipv4Addr;

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
const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);

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
    /// The packet came in by this device.
    FromDevice(String),
    /// The packet leaves by this device (or by any other).
    ToDevice(String, bool),
    /// Source address in a range.
    Source(Ipv4Addr, u8),
    /// Destination address in a range (or outside of it).
    Destination(Ipv4Addr, u8, bool),
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
    Forward(Ipv4Addr, u16),
}

/// A rule: the chain that it is appended to, and its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: &'static str,
    pub(super) terms: Vec<Term>,
}

/// Every rule, in order.
pub(super) fn decide<'a>(config: &NetworkConfig, leases: impl Iterator<Item = (Ipv4Addr, &'a Lease)>) -> Vec<Rule> {
    let bridge = || config.bridge_name.clone();
    let range = Term::Source(config.cidr.address(), config.cidr.prefix());
    let rule = |chain, terms| Rule { chain, terms };
    // CVE-2020-8558: route_localnet, which host ports on 127.0.0.1 need (and kube-proxy sets), would open the node's
    // loopback to the pods, and let them speak as if they were it.
    let (loopback, prefix) = LOOPBACK;
    let guard = |term| rule("guard", vec![Term::FromDevice(bridge()), term, Term::Drop]);
    let mut rules = vec![guard(Term::Destination(loopback, prefix, true)), guard(Term::Source(loopback, prefix))];
    if config.masquerade {
        let leaves = Term::ToDevice(bridge(), false);
        rules.push(rule("out", vec![range.clone(), leaves, Term::Masquerade]));
    }
    if config.host_ports {
        // A pod that reaches a pod (or itself) through a host port: the answer has to come back this way.
        let back = Term::ToDevice(bridge(), true);
        rules.push(rule("out", vec![range, back.clone(), Term::WasForwarded, Term::Masquerade]));
        // A pod cannot answer 127.0.0.1; it answers the bridge.
        rules.push(rule("out", vec![Term::Source(loopback, prefix), back, Term::Masquerade]));
        for (ip, lease) in leases {
            for port in &lease.ports {
                rules.extend(forward(ip, port));
            }
        }
    }
    rules
}

/// A host port, for packets from elsewhere and for those of the machine itself, 127.0.0.1 included.
fn forward(pod: Ipv4Addr, port: &PortMapping) -> [Rule; 2] {
    let host = match port.host_ip.filter(|ip| !ip.is_unspecified()) {
        Some(ip) => Term::Destination(ip, 32, true),
        None => Term::DestinationIsLocal,
    };
    let terms = [host, Term::Port(port.protocol, port.host_port), Term::Forward(pod, port.container_port)];
    ["in", "local"].map(|chain| Rule { chain, terms: terms.to_vec() })
}

/// As nft(8) would list it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.chain)?;
        self.terms.iter().try_for_each(|term| write!(f, " {term}"))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |equal: &bool| if *equal { "" } else { "!= " };
        match self {
            Self::FromDevice(name) => write!(f, "iifname {name}"),
            Self::ToDevice(name, equal) => write!(f, "oifname {}{name}", not(equal)),
            Self::Source(ip, prefix) => write!(f, "ip saddr {ip}/{prefix}"),
            Self::Destination(ip, prefix, equal) => {
                write!(f, "ip daddr {}{ip}/{prefix}", not(equal))
            }
            Self::DestinationIsLocal => f.write_str("fib daddr type local"),
            Self::Port(protocol, port) => write!(f, "{} dport {port}", protocol.name()),
            Self::WasForwarded => f.write_str("ct status dnat"),
            Self::Drop => f.write_str("drop"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Forward(ip, port) => write!(f, "dnat to {ip}:{port}"),
        }
    }
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

    fn check(config: &NetworkConfig, ports: &[PortMapping], expected: &str) {
        let lease: Lease = serde_json::from_value(serde_json::json!({
            "version": 1, "pod": "a", "device": "gv1", "ports": ports,
        }))
        .unwrap();
        let rules = decide(config, [(Ipv4Addr::new(10, 88, 0, 2), &lease)].into_iter());
        let said: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn the_default_is_guard_masquerade_and_the_way_back() {
        check(
            &NetworkConfig::default(),
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
        let config = NetworkConfig { masquerade: false, ..NetworkConfig::default() };
        let port = |protocol, host_ip| PortMapping { protocol, container_port: 80, host_port: 8080, host_ip };
        check(
            &config,
            &[port(Protocol::Tcp, None), port(Protocol::Udp, Some(Ipv4Addr::new(192, 0, 2, 1)))],
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
}
