//! Masquerading: what leaves the cluster takes the node's address, what stays in it never does. It needs connections tracked; the
//! overlay's own packets and those of the cluster DNS are not.
//!
//! One nftables table, `inet weft`, rewritten whole in one transaction. Its user data carries a fingerprint of what it
//! was made from, so that a restart finds out that there is nothing to do.

mod message;

use std::net::IpAddr;

use ipnet::IpNet;
use message::{Attributes, Message, batch};
use netlink_packet_core::NLM_F_DUMP;
use weft_model::Masquerade as Plan;
use weft_netns::{NetlinkError, netlink::NetlinkSocket};

use crate::fingerprint;

const TABLE: &str = "weft";
const CHAIN: &str = "postrouting";
const NETLINK_NETFILTER: isize = 12;

// Message types.
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;

/// `NFTA_TABLE_USERDATA`.
const TABLE_USER_DATA: u16 = 6;
/// Chains that keep packets from being tracked, and their hooks: prerouting and output.
const UNTRACKED: [(&str, u32); 2] = [("untracked-in", 0), ("untracked-out", 3)];
const DNS_PORT: u16 = 53;
/// Elements a message: an attribute's length is 16 bits.
const ELEMENTS_A_MESSAGE: usize = 512;

/// nf_tables refused.
#[derive(Debug, thiserror::Error)]
#[error("nftables: {0}")]
pub struct NftError(#[from] NetlinkError);

/// The masquerade rules of one network namespace.
#[derive(Debug)]
pub(crate) struct Masquerade {
    socket: NetlinkSocket,
    wanted: Option<Wanted>,
    overlay_port: u16,
    dns_addresses: Vec<IpAddr>,
}

/// What the rules are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    families: Vec<Family>,
    /// UDP port whose packets are not tracked.
    overlay_port: u16,
    /// Addresses of this node whose DNS is not tracked.
    dns_addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Family {
    ipv6: bool,
    /// First and last address of every range, in order, disjoint.
    sources: Vec<(u128, u128)>,
    exempt: Vec<(u128, u128)>,
}

impl Masquerade {
    /// The rules of the calling thread's namespace, whose overlay uses this UDP port, and where these addresses answer for the
    /// cluster DNS.
    pub(crate) fn open(overlay_port: u16, dns_addresses: &[IpAddr]) -> Result<Masquerade, NftError> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER)?;
        Ok(Masquerade { socket, wanted: None, overlay_port, dns_addresses: dns_addresses.to_vec() })
    }

    /// Puts the rules in force, if they are not already. Says whether it wrote.
    pub(crate) fn apply(&mut self, plan: &Plan) -> Result<bool, NftError> {
        let wanted = Wanted::new(plan, self.overlay_port, &self.dns_addresses);
        if self.wanted.as_ref() == Some(&wanted) {
            return Ok(false);
        }
        self.wanted = Some(wanted);
        self.repair()
    }

    /// Puts the rules back if somebody removed them. Says whether it wrote.
    pub(crate) fn repair(&mut self) -> Result<bool, NftError> {
        let Some(wanted) = self.wanted.clone() else { return Ok(false) };
        if self.is_in_force(&wanted)? {
            return Ok(false);
        }
        let bytes = batch(&wanted.messages(), self.socket.next_sequence());
        self.socket.send(&bytes)?;
        self.socket.collect::<Message>(&|| "write the masquerade rules".to_owned())?;
        Ok(true)
    }

    fn is_in_force(&mut self, wanted: &Wanted) -> Result<bool, NftError> {
        let name = Attributes::default().text(1, TABLE);
        let look_up = || "look up the table".to_owned();
        let table = match self.socket.request(&look_up, Message::new(GET_TABLE, name.clone()), 0) {
            Err(error) if error.is_not_found() => return Ok(false),
            other => other?,
        };
        let user_data = table.first().and_then(|table| table.attributes.get(TABLE_USER_DATA));
        if user_data != Some(&wanted.fingerprint().to_be_bytes()) {
            return Ok(false);
        }
        let rules =
            self.socket.request(&|| "list the rules".to_owned(), Message::new(GET_RULE, name), NLM_F_DUMP)?;
        Ok(rules.len() == wanted.families.len() + UNTRACKED.len() * wanted.untracked().len())
    }
}

impl Wanted {
    fn new(plan: &Plan, overlay_port: u16, dns_addresses: &[IpAddr]) -> Wanted {
        let family = |ipv6: bool| {
            let of = |ranges: &[IpNet]| merge(ranges.iter().filter(|range| range.addr().is_ipv6() == ipv6));
            let multicast: IpNet = if ipv6 {
                IpNet::V6(ipnet::Ipv6Net::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8))
            } else {
                IpNet::V4(ipnet::Ipv4Net::new_assert([224, 0, 0, 0].into(), 4))
            };
            let exempt: Vec<IpNet> = plan.exempt.iter().copied().chain([multicast]).collect();
            Family { ipv6, sources: of(&plan.sources), exempt: of(&exempt) }
        };
        let families = [family(false), family(true)];
        let families = families.into_iter().filter(|family| !family.sources.is_empty()).collect();
        Wanted { families, overlay_port, dns_addresses: dns_addresses.to_vec() }
    }

    /// Expressions of the rules that keep packets from being tracked, the same in both chains.
    fn untracked(&self) -> Vec<Attributes> {
        // Questions by where they go, answers by where they are from.
        let dns = self.dns_addresses.iter().flat_map(|address| [true, false].map(|to| dns(*address, to)));
        [overlay(self.overlay_port)].into_iter().chain(dns).collect()
    }

    fn fingerprint(&self) -> u64 {
        fingerprint(format!("{self:?}").bytes())
    }

    /// The transaction that makes the table anew, whatever there was.
    fn messages(&self) -> Vec<Message> {
        let table = Attributes::default().text(1, TABLE);
        let marked = table.clone().bytes(TABLE_USER_DATA, &self.fingerprint().to_be_bytes());
        // Created first so that there is one to delete.
        let mut messages = vec![
            Message::new(NEW_TABLE, table.clone()),
            Message::new(DELETE_TABLE, table.clone()),
            Message::new(NEW_TABLE, marked),
        ];
        // Hook 4 is postrouting, priority 100 source NAT.
        let hook = Attributes::default().number(1, 4).number(2, 100);
        let chain = table.clone().text(3, CHAIN).nested(4, &hook).text(7, "nat");
        messages.push(Message::new(NEW_CHAIN, chain));
        for (index, family) in self.families.iter().enumerate() {
            family.messages(index as u32, &mut messages);
        }
        for (chain, hook) in UNTRACKED {
            // Before connection tracking.
            let hook = Attributes::default().number(1, hook).number(2, (-300_i32) as u32);
            let made = table.clone().text(3, chain).nested(4, &hook).text(7, "filter");
            messages.push(Message::new(NEW_CHAIN, made));
            for expressions in self.untracked() {
                let rule = table.clone().text(2, chain).nested(4, &expressions);
                messages.push(Message::new(NEW_RULE, rule));
            }
        }
        messages
    }
}

impl Family {
    fn messages(&self, index: u32, messages: &mut Vec<Message>) {
        let version = if self.ipv6 { 6 } else { 4 };
        let (sources, exempt) = (format!("sources{version}"), format!("exempt{version}"));
        for (id, name, ranges) in
            [(index * 2 + 1, &sources, &self.sources), (index * 2 + 2, &exempt, &self.exempt)]
        {
            let set = Attributes::default()
                .text(1, TABLE)
                .text(2, name)
                // An interval set.
                .number(3, 4)
                // Only `nft list` reads the type: 7 is ipv4_addr, 8 is ipv6_addr.
                .number(4, if self.ipv6 { 8 } else { 7 })
                .number(5, self.address_length())
                .number(10, id);
            messages.push(Message::new(NEW_SET, set));
            for some in ranges.chunks(ELEMENTS_A_MESSAGE) {
                let elements =
                    some.iter().fold(Attributes::default(), |list, range| self.elements(list, *range));
                let list =
                    Attributes::default().text(1, TABLE).text(2, name).nested(3, &elements).number(4, id);
                messages.push(Message::new(NEW_ELEMENTS, list));
            }
        }
        // Offsets of the source and destination address in the IP header.
        let (source, destination) = if self.ipv6 { (8, 24) } else { (12, 16) };
        let expressions = Attributes::default()
            // Key 15 is nfproto: 2 for IPv4, 10 for IPv6.
            .nested(1, &expression("meta", Attributes::default().number(1, 1).number(2, 15)))
            .nested(1, &expression("cmp", equals(&[if self.ipv6 { 10 } else { 2 }])))
            .nested(1, &expression("payload", self.payload(source)))
            .nested(1, &expression("lookup", Attributes::default().text(1, &sources).number(2, 1)))
            .nested(1, &expression("payload", self.payload(destination)))
            .nested(
                1,
                &expression("lookup", Attributes::default().text(1, &exempt).number(2, 1).number(5, 1)),
            )
            .nested(1, &expression("masq", Attributes::default()));
        let rule = Attributes::default().text(1, TABLE).text(2, CHAIN).nested(4, &expressions);
        messages.push(Message::new(NEW_RULE, rule));
    }

    fn address_length(&self) -> u32 {
        if self.ipv6 { 16 } else { 4 }
    }

    /// Loads an address of the network header (base 1) into register 1.
    fn payload(&self, offset: u32) -> Attributes {
        Attributes::default().number(1, 1).number(2, 1).number(3, offset).number(4, self.address_length())
    }

    /// An interval: its first address, and the first behind it unless there is none.
    fn elements(&self, list: Attributes, (first, last): (u128, u128)) -> Attributes {
        let key = |value: u128| {
            let bytes = value.to_be_bytes();
            let start = bytes.len() - self.address_length() as usize;
            Attributes::default().bytes(1, bytes.get(start..).unwrap_or_default())
        };
        let list = list.nested(1, &Attributes::default().nested(1, &key(first)));
        let largest = if self.ipv6 { u128::MAX } else { u128::from(u32::MAX) };
        if last == largest {
            return list;
        }
        list.nested(1, &Attributes::default().nested(1, &key(last + 1)).number(3, 1))
    }
}

/// UDP to the overlay's port.
fn overlay(port: u16) -> Attributes {
    const UDP: u8 = 17;
    Attributes::default()
        // Key 16 is the transport protocol.
        .nested(1, &expression("meta", numbers(&[(1, 1), (2, 16)])))
        .nested(1, &expression("cmp", equals(&[UDP])))
        .nested(1, &expression("payload", loaded(TRANSPORT_HEADER, DESTINATION_PORT, 2)))
        .nested(1, &expression("cmp", equals(&port.to_be_bytes())))
        .nested(1, &expression("notrack", Attributes::default()))
}

/// UDP and TCP to (or from) port 53 of an address.
fn dns(address: IpAddr, to: bool) -> Attributes {
    let (family, offset, bytes) = match address {
        IpAddr::V4(v4) => (2, if to { 16 } else { 12 }, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, if to { 24 } else { 8 }, v6.octets().to_vec()),
    };
    let port = if to { DESTINATION_PORT } else { SOURCE_PORT };
    Attributes::default()
        // Key 15 is the network protocol.
        .nested(1, &expression("meta", numbers(&[(1, 1), (2, 15)])))
        .nested(1, &expression("cmp", equals(&[family])))
        .nested(1, &expression("payload", loaded(NETWORK_HEADER, offset, bytes.len() as u32)))
        .nested(1, &expression("cmp", equals(&bytes)))
        .nested(1, &expression("payload", loaded(TRANSPORT_HEADER, port, 2)))
        .nested(1, &expression("cmp", equals(&DNS_PORT.to_be_bytes())))
        .nested(1, &expression("notrack", Attributes::default()))
}

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

fn numbers(pairs: &[(u16, u32)]) -> Attributes {
    pairs.iter().fold(Attributes::default(), |list, (kind, value)| list.number(*kind, *value))
}

/// Loads a part of a header into register 1.
fn loaded(base: u32, offset: u32, length: u32) -> Attributes {
    numbers(&[(1, 1), (2, base), (3, offset), (4, length)])
}

/// Register 1 equals these bytes.
fn equals(value: &[u8]) -> Attributes {
    numbers(&[(1, 1), (2, 0)]).nested(3, &Attributes::default().bytes(1, value))
}

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, &data)
}

/// The ranges as disjoint intervals in order, those that touch joined.
fn merge<'r>(ranges: impl Iterator<Item = &'r IpNet>) -> Vec<(u128, u128)> {
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let mut intervals: Vec<(u128, u128)> =
        ranges.map(|range| (number(range.network()), number(range.broadcast()))).collect();
    intervals.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in intervals {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_or_touch_are_one_interval() {
        let ranges: Vec<IpNet> = ["10.0.1.0/24", "10.0.0.0/24", "10.0.0.128/25", "10.0.3.7/32", "0.0.0.0/32"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let ten = 10 << 24;
        assert_eq!(merge(ranges.iter()), [(0, 0), (ten, ten + 511), (ten + 775, ten + 775)]);
        let all: Vec<IpNet> = vec!["::/0".parse().unwrap(), "fd00::/8".parse().unwrap()];
        assert_eq!(merge(all.iter()), [(0, u128::MAX)]);
    }
}
