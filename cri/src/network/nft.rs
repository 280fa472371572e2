//! The firewall's table as nf_tables messages: each term becomes a few expressions over one register.
//!
//! Without the `nft` program and without a library: the whole of what we say is ten kinds of expression. Source:
//! linux/netfilter/nf_tables.h, and what nft(8) sends (`nft --debug=netlink`).

use super::Protocol;
use super::firewall::{CHAINS, Chain, Family, Rule, Term};
use gantry_runtime::netlink::{Message, Socket};
use nix::errno::Errno;
use std::net::IpAddr;

/// `NFT_REG_1`, 16 bytes wide, which every condition loads and compares.
const REGISTER: u32 = libc::NFT_REG_1 as u32;
/// `NFT_REG_2`, for the port that a destination is rewritten to.
const SECOND: u32 = libc::NFT_REG_2 as u32;

/// Where source and destination are in the headers of IPv4 and IPv6 (RFC 791, RFC 8200), and the destination port in
/// that of the transport; in bytes.
const SOURCE: [u32; 2] = [12, 8];
const DESTINATION: [u32; 2] = [16, 24];
const DESTINATION_PORT: u32 = 2;

/// `NF_NAT_*` and `IPS_DST_NAT` (linux/netfilter/nf_nat.h, nf_conntrack_common.h).
const STATUS_DNAT: u32 = 1 << 5;

/// `NFT_FIB_RESULT_ADDRTYPE` and `NFTA_FIB_F_DADDR`.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 1 << 1;

/// Attributes by their names in linux/netfilter/nf_tables.h, without the `NFTA_`.
mod nfta {
    macro_rules! attributes {
        ($($name:ident = $number:literal),* $(,)?) => {
            $(pub(super) const $name: u16 = $number;)*
        };
    }

    attributes! {
        TABLE_NAME = 1, TABLE_FLAGS = 2,
        CHAIN_TABLE = 1, CHAIN_NAME = 3, CHAIN_HOOK = 4, CHAIN_TYPE = 7,
        HOOK_HOOKNUM = 1, HOOK_PRIORITY = 2,
        RULE_TABLE = 1, RULE_CHAIN = 2, RULE_EXPRESSIONS = 4,
        LIST_ELEM = 1, EXPR_NAME = 1, EXPR_DATA = 2,
        DATA_VALUE = 1, DATA_VERDICT = 2, VERDICT_CODE = 1,
        META_DREG = 1, META_KEY = 2,
        PAYLOAD_DREG = 1, PAYLOAD_BASE = 2, PAYLOAD_OFFSET = 3, PAYLOAD_LEN = 4,
        BITWISE_SREG = 1, BITWISE_DREG = 2, BITWISE_LEN = 3, BITWISE_MASK = 4, BITWISE_XOR = 5,
        CMP_SREG = 1, CMP_OP = 2, CMP_DATA = 3,
        IMMEDIATE_DREG = 1, IMMEDIATE_DATA = 2,
        CT_DREG = 1, CT_KEY = 2,
        FIB_DREG = 1, FIB_RESULT = 2, FIB_FLAGS = 3,
        NAT_TYPE = 1, NAT_FAMILY = 2, NAT_REG_ADDR_MIN = 3, NAT_REG_PROTO_MIN = 5,
    }
}

/// Replaces the tables of these families by these rules, in one transaction.
///
/// # Errors
/// Whatever the kernel answers; EOPNOTSUPP or ENOENT where it lacks an expression. The tables are then as they were.
pub(super) fn replace(socket: &mut Socket, table: &str, families: &[Family], rules: &[Rule]) -> Result<(), Errno> {
    let mut messages = vec![batch(libc::NFNL_MSG_BATCH_BEGIN)];
    for family in families {
        // Adding first makes the removal of a table that may not exist valid.
        messages.extend([add_table(*family, table), delete_table(*family, table), add_table(*family, table)]);
        // A chain of NAT that has no rule would ask the kernel for NAT all the same.
        let used = |chain: &&Chain| rules.iter().any(|rule| rule.family == *family && rule.chain == chain.name);
        messages.extend(CHAINS.iter().filter(used).map(|chain| add_chain(*family, table, chain)));
    }
    messages.extend(rules.iter().map(|rule| add_rule(table, rule)));
    messages.push(batch(libc::NFNL_MSG_BATCH_END));
    socket.transact(messages)
}

/// Removes the table of a family, if there is one.
pub(super) fn remove(socket: &mut Socket, table: &str, family: Family) -> Result<(), Errno> {
    let begin = batch(libc::NFNL_MSG_BATCH_BEGIN);
    let end = batch(libc::NFNL_MSG_BATCH_END);
    socket.transact(vec![begin, add_table(family, table), delete_table(family, table), end])
}

/// `family version resource-id` (struct nfgenmsg); the id of a batch is the subsystem.
fn batch(kind: i32) -> Message {
    let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    Message::new(kind as u16, 0, &[0, 0, subsystem[0], subsystem[1]])
}

fn address_family(family: Family) -> i32 {
    match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    }
}

fn command(family: Family, kind: i32, flags: i32) -> Message {
    let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | kind as u16;
    Message::new(kind, flags, &[address_family(family) as u8, 0, 0, 0])
}

fn add_table(family: Family, table: &str) -> Message {
    command(family, libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE).text(nfta::TABLE_NAME, table).be32(nfta::TABLE_FLAGS, 0)
}

fn delete_table(family: Family, table: &str) -> Message {
    command(family, libc::NFT_MSG_DELTABLE, 0).text(nfta::TABLE_NAME, table)
}

fn add_chain(family: Family, table: &str, chain: &Chain) -> Message {
    command(family, libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE)
        .text(nfta::CHAIN_TABLE, table)
        .text(nfta::CHAIN_NAME, chain.name)
        .nested(nfta::CHAIN_HOOK, |m| {
            m.be32(nfta::HOOK_HOOKNUM, chain.hook).be32(nfta::HOOK_PRIORITY, chain.priority as u32)
        })
        .text(nfta::CHAIN_TYPE, chain.kind)
}

fn add_rule(table: &str, rule: &Rule) -> Message {
    command(rule.family, libc::NFT_MSG_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND)
        .text(nfta::RULE_TABLE, table)
        .text(nfta::RULE_CHAIN, rule.chain)
        .nested(nfta::RULE_EXPRESSIONS, |m| rule.terms.iter().fold(m, term))
}

fn term(m: Message, term: &Term) -> Message {
    match term {
        Term::FromDevice(name, equal) => compare(meta(m, libc::NFT_META_IIFNAME), *equal, &device(name)),
        Term::ToDevice(name, equal) => compare(meta(m, libc::NFT_META_OIFNAME), *equal, &device(name)),
        Term::Source(ip, prefix) => in_range(m, SOURCE, *ip, *prefix, true),
        Term::Destination(ip, prefix, equal) => in_range(m, DESTINATION, *ip, *prefix, *equal),
        Term::DestinationIsLocal => {
            let m = expression(m, "fib", |m| {
                m.be32(nfta::FIB_DREG, REGISTER)
                    .be32(nfta::FIB_RESULT, FIB_ADDRESS_TYPE)
                    .be32(nfta::FIB_FLAGS, FIB_DESTINATION)
            });
            compare(m, true, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
        }
        Term::Port(protocol, port) => {
            let m = compare(meta(m, libc::NFT_META_L4PROTO), true, &[number(*protocol)]);
            let m = payload(m, libc::NFT_PAYLOAD_TRANSPORT_HEADER, DESTINATION_PORT, 2);
            compare(m, true, &port.to_be_bytes())
        }
        Term::WasForwarded => {
            let m =
                expression(m, "ct", |m| m.be32(nfta::CT_DREG, REGISTER).be32(nfta::CT_KEY, libc::NFT_CT_STATUS as u32));
            compare(mask(m, &STATUS_DNAT.to_ne_bytes()), false, &[0; 4])
        }
        Term::Drop => expression(m, "immediate", |m| {
            m.be32(nfta::IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32).nested(nfta::IMMEDIATE_DATA, |m| {
                m.nested(nfta::DATA_VERDICT, |m| m.be32(nfta::VERDICT_CODE, libc::NF_DROP as u32))
            })
        }),
        Term::Masquerade => expression(m, "masq", |m| m),
        Term::Forward(ip, port) => forward(m, *ip, *port),
    }
}

fn forward(m: Message, ip: IpAddr, port: u16) -> Message {
    let m = immediate(m, REGISTER, &octets(ip));
    let m = immediate(m, SECOND, &port.to_be_bytes());
    expression(m, "nat", |m| {
        m.be32(nfta::NAT_TYPE, libc::NFT_NAT_DNAT as u32)
            .be32(nfta::NAT_FAMILY, if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u32)
            .be32(nfta::NAT_REG_ADDR_MIN, REGISTER)
            .be32(nfta::NAT_REG_PROTO_MIN, SECOND)
    })
}

fn expression(m: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    m.nested(nfta::LIST_ELEM, |m| m.text(nfta::EXPR_NAME, name).nested(nfta::EXPR_DATA, fill))
}

fn meta(m: Message, key: i32) -> Message {
    expression(m, "meta", |m| m.be32(nfta::META_DREG, REGISTER).be32(nfta::META_KEY, key as u32))
}

fn payload(m: Message, base: i32, offset: u32, length: u32) -> Message {
    expression(m, "payload", |m| {
        m.be32(nfta::PAYLOAD_DREG, REGISTER)
            .be32(nfta::PAYLOAD_BASE, base as u32)
            .be32(nfta::PAYLOAD_OFFSET, offset)
            .be32(nfta::PAYLOAD_LEN, length)
    })
}

/// Keeps the bits of the register that are set in `bits`.
fn mask(m: Message, bits: &[u8]) -> Message {
    expression(m, "bitwise", |m| {
        m.be32(nfta::BITWISE_SREG, REGISTER)
            .be32(nfta::BITWISE_DREG, REGISTER)
            .be32(nfta::BITWISE_LEN, bits.len() as u32)
            .nested(nfta::BITWISE_MASK, |m| value(m, bits))
            .nested(nfta::BITWISE_XOR, |m| value(m, &vec![0; bits.len()]))
    })
}

fn compare(m: Message, equal: bool, bytes: &[u8]) -> Message {
    let operator = if equal { libc::NFT_CMP_EQ } else { libc::NFT_CMP_NEQ };
    expression(m, "cmp", |m| {
        m.be32(nfta::CMP_SREG, REGISTER).be32(nfta::CMP_OP, operator as u32).nested(nfta::CMP_DATA, |m| value(m, bytes))
    })
}

fn immediate(m: Message, register: u32, bytes: &[u8]) -> Message {
    expression(m, "immediate", |m| {
        m.be32(nfta::IMMEDIATE_DREG, register).nested(nfta::IMMEDIATE_DATA, |m| value(m, bytes))
    })
}

fn value(m: Message, bytes: &[u8]) -> Message {
    m.attr(nfta::DATA_VALUE, bytes)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

fn in_range(m: Message, offsets: [u32; 2], ip: IpAddr, prefix: u8, equal: bool) -> Message {
    let address = octets(ip);
    let offset = if ip.is_ipv4() { offsets[0] } else { offsets[1] };
    let m = payload(m, libc::NFT_PAYLOAD_NETWORK_HEADER, offset, address.len() as u32);
    let bits: Vec<u8> = (0..address.len())
        .map(|at| {
            let set = usize::from(prefix).saturating_sub(8 * at).min(8);
            !(u8::MAX.checked_shr(set as u32).unwrap_or(0))
        })
        .collect();
    compare(mask(m, &bits), equal, &address)
}

/// A device's name as the kernel compares it: 16 bytes, filled up with zeros.
fn device(name: &str) -> [u8; libc::IFNAMSIZ] {
    let mut bytes = [0; libc::IFNAMSIZ];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

fn number(protocol: Protocol) -> u8 {
    let number = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
        Protocol::Sctp => libc::IPPROTO_SCTP,
    };
    number as u8
}
