//! Ports of the node that lead to Pods: destination NAT in the host's stack.
//!
//! The rules are made once; what they look up are the elements of four maps (both families, with and without an address of
//! the node), which are an ordinary table: one element a mapping. A mapping answers on every address of the node, from
//! outside, from Pods and from the node itself, but not on loopback, and not to the very Pod it leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NLM_F_DUMP;
use weft_model::{PortMapping, Protocol};
use weft_netns::{NetlinkError, netlink::NetlinkSocket};

use super::{
    DELETE_TABLE, GET_TABLE, NETLINK_NETFILTER, NEW_CHAIN, NEW_ELEMENTS, NEW_RULE, NEW_SET, NEW_TABLE,
    NftError, TABLE_USER_DATA, expression,
    message::{Attributes, Message, batch},
};
use crate::table::Store;

const TABLE: &str = "weft-ports";
const GET_ELEMENTS: u16 = 13;
const DELETE_ELEMENTS: u16 = 14;
/// Tells these rules from those of another version; the overlay's port follows it in the table's user data.
const VERSION: u8 = 2;

/// A port of the node. The key of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPort {
    ipv6: bool,
    /// Absent: every address of the node.
    address: Option<IpAddr>,
    protocol: u8,
    port: u16,
}

/// Where it leads. The value of the table.
pub(crate) type PodTarget = (IpAddr, u16);

/// The port mappings of one network namespace.
#[derive(Debug)]
pub(crate) struct HostPorts {
    socket: NetlinkSocket,
    overlay_port: u16,
}

/// The IP protocol number.
pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

impl HostPort {
    /// What a mapping to a Pod with this address makes; nothing for the other family.
    pub(crate) fn of(mapping: &PortMapping, pod: IpAddr) -> Option<(HostPort, PodTarget)> {
        // An unspecified address is every address.
        let address = mapping.host_ip.filter(|address| !address.is_unspecified());
        let family = mapping.host_ip.is_none_or(|address| address.is_ipv6() == pod.is_ipv6());
        let key = HostPort {
            ipv6: pod.is_ipv6(),
            address,
            protocol: protocol_number(mapping.protocol),
            port: mapping.host_port,
        };
        family.then_some((key, (pod, mapping.container_port)))
    }

    fn map(&self) -> &'static str {
        map_name(self.ipv6, self.address.is_some())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.address.map(octets).unwrap_or_default();
        bytes.extend([self.protocol, 0, 0, 0]);
        bytes.extend(padded(self.port));
        bytes
    }

    fn read(ipv6: bool, with_address: bool, bytes: &[u8]) -> Option<HostPort> {
        let (address, rest) = if with_address {
            let (address, rest) = read_address(ipv6, bytes)?;
            (Some(address), rest)
        } else {
            (None, bytes)
        };
        let [protocol, _, _, _, high, low, ..] = *rest else { return None };
        Some(HostPort { ipv6, address, protocol, port: u16::from_be_bytes([high, low]) })
    }
}

impl HostPorts {
    /// The mappings of the calling thread's namespace; the rules are made unless they are there. Tunnel packets, to
    /// `overlay_port`, are kept out of the connection tracking that the translation switches on.
    pub(crate) fn open(overlay_port: u16) -> Result<HostPorts, NftError> {
        let mut ports = HostPorts { socket: NetlinkSocket::open(NETLINK_NETFILTER)?, overlay_port };
        ports.make_rules()?;
        Ok(ports)
    }

    /// Makes table, maps, chains and rules unless they are there; says whether it did.
    pub(crate) fn make_rules(&mut self) -> Result<bool, NftError> {
        let name = Attributes::default().text(1, TABLE);
        let mut kept = Vec::new();
        match self.socket.request(&|| "look up the table".to_owned(), Message::new(GET_TABLE, name), 0) {
            Ok(tables)
                if tables
                    .iter()
                    .any(|table| table.attributes.get(TABLE_USER_DATA) == Some(&self.user_data())) =>
            {
                return Ok(false);
            }
            // Another version's rules: what was mapped stays mapped.
            Ok(tables) if !tables.is_empty() => kept = self.dump()?,
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        self.write(&rules(self.overlay_port, &self.user_data()), "write the rules of host ports")?;
        for (port, target) in kept {
            self.upsert(&port, &target)?;
        }
        Ok(true)
    }

    fn user_data(&self) -> [u8; 3] {
        let [high, low] = self.overlay_port.to_be_bytes();
        [VERSION, high, low]
    }

    fn write(&mut self, messages: &[Message], what: &'static str) -> Result<(), NetlinkError> {
        let bytes = batch(messages, self.socket.next_sequence());
        self.socket.send(&bytes)?;
        self.socket.collect::<Message>(&|| what.to_owned()).map(drop)
    }

    fn element(&self, kind: u16, port: &HostPort, target: Option<&PodTarget>) -> Message {
        let mut element = Attributes::default().nested(1, &Attributes::default().bytes(1, &port.bytes()));
        if let Some((address, port)) = target {
            let mut data = octets(*address);
            data.extend(padded(*port));
            element = element.nested(2, &Attributes::default().bytes(1, &data));
        }
        let list = Attributes::default().nested(1, &element);
        Message::new(kind, Attributes::default().text(1, TABLE).text(2, port.map()).nested(3, &list))
    }
}

impl Store<HostPort, PodTarget> for HostPorts {
    type Error = NftError;

    fn upsert(&mut self, port: &HostPort, target: &PodTarget) -> Result<(), NftError> {
        // An element cannot be changed, but replaced within one transaction.
        let (remove, add) =
            (self.element(DELETE_ELEMENTS, port, None), self.element(NEW_ELEMENTS, port, Some(target)));
        match self.write(std::slice::from_ref(&add), "map a port of the node") {
            Err(error) if error.is_exists() => Ok(self.write(&[remove, add], "map a port of the node")?),
            other => Ok(other?),
        }
    }

    fn remove(&mut self, port: &HostPort) -> Result<(), NftError> {
        let message = self.element(DELETE_ELEMENTS, port, None);
        match self.write(&[message], "unmap a port of the node") {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        }
    }

    fn dump(&mut self) -> Result<Vec<(HostPort, PodTarget)>, NftError> {
        let mut found = Vec::new();
        for (ipv6, with_address) in MAPS {
            let set = Attributes::default().text(1, TABLE).text(2, map_name(ipv6, with_address));
            let what = || "list the mapped ports of the node".to_owned();
            for message in self.socket.request(&what, Message::new(GET_ELEMENTS, set), NLM_F_DUMP)? {
                let elements = message.attributes.list(3);
                found.extend(elements.iter().filter_map(|element| {
                    let value = |kind| Some(Attributes(element.get(kind)?.to_vec()).get(1)?.to_vec());
                    let (key, data) = (value(1)?, value(2)?);
                    let (address, rest) = read_address(ipv6, &data)?;
                    let [high, low, ..] = *rest else { return None };
                    Some((
                        HostPort::read(ipv6, with_address, &key)?,
                        (address, u16::from_be_bytes([high, low])),
                    ))
                }));
            }
        }
        Ok(found)
    }
}

/// Family (is it IPv6) and whether the key has an address of the node.
const MAPS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn map_name(ipv6: bool, with_address: bool) -> &'static str {
    match (ipv6, with_address) {
        (false, false) => "ports4",
        (false, true) => "addresses4",
        (true, false) => "ports6",
        (true, true) => "addresses6",
    }
}

fn rules(overlay_port: u16, user_data: &[u8]) -> Vec<Message> {
    let table = Attributes::default().text(1, TABLE);
    let mut messages = vec![
        // Created first so that there is one to delete.
        Message::new(NEW_TABLE, table.clone()),
        Message::new(DELETE_TABLE, table.clone()),
        Message::new(NEW_TABLE, table.clone().bytes(TABLE_USER_DATA, user_data)),
    ];
    for (index, (ipv6, with_address)) in MAPS.into_iter().enumerate() {
        let address = if ipv6 { 16 } else { 4 };
        let set = table
            .clone()
            .text(2, map_name(ipv6, with_address))
            // A map.
            .number(3, 8)
            .number(4, 1)
            .number(5, if with_address { address + 8 } else { 8 })
            .number(6, 1)
            .number(7, address + 4)
            .number(10, index as u32 + 1);
        messages.push(Message::new(NEW_SET, set));
    }
    // Prerouting and output, before connection tracking.
    for (chain, hook) in [("overlay-in", 0), ("overlay-out", 3)] {
        let hook = Attributes::default().number(1, hook).number(2, (-300_i32) as u32);
        messages
            .push(Message::new(NEW_CHAIN, table.clone().text(3, chain).nested(4, &hook).text(7, "filter")));
        messages
            .push(Message::new(NEW_RULE, table.clone().text(2, chain).nested(4, &untracked(overlay_port))));
    }
    // The same, at the priority of destination NAT.
    for (chain, hook) in [("prerouting", 0), ("output", 3)] {
        let hook = Attributes::default().number(1, hook).number(2, (-100_i32) as u32);
        messages.push(Message::new(NEW_CHAIN, table.clone().text(3, chain).nested(4, &hook).text(7, "nat")));
        // The more specific map first.
        for (ipv6, with_address) in [(false, true), (false, false), (true, true), (true, false)] {
            let expressions = rule(ipv6, with_address);
            messages.push(Message::new(NEW_RULE, table.clone().text(2, chain).nested(4, &expressions)));
        }
    }
    messages
}

/// UDP to the overlay's port is not tracked.
fn untracked(overlay_port: u16) -> Attributes {
    const UDP: u8 = 17;
    let numbers = |pairs: &[(u16, u32)]| {
        pairs.iter().fold(Attributes::default(), |list, (kind, value)| list.number(*kind, *value))
    };
    let compare = |value: &[u8]| numbers(&[(1, 1), (2, 0)]).nested(3, &Attributes::default().bytes(1, value));
    Attributes::default()
        .nested(1, &expression("meta", numbers(&[(1, 1), (2, 16)])))
        .nested(1, &expression("cmp", compare(&[UDP])))
        .nested(1, &expression("payload", numbers(&[(1, 1), (2, 2), (3, 2), (4, 2)])))
        .nested(1, &expression("cmp", compare(&overlay_port.to_be_bytes())))
        .nested(1, &expression("notrack", Attributes::default()))
}

/// For this family and an address of the node: look protocol and port up, and translate to what is found.
fn rule(ipv6: bool, with_address: bool) -> Attributes {
    /// `NFT_REG32_00`, the first of sixteen four-byte registers.
    const KEY: u32 = 8;
    /// `NFT_REG32_08`, behind the longest key.
    const FOUND: u32 = 16;
    let (family, length, offset) = if ipv6 { (10_u8, 16, 24) } else { (2, 4, 16) };
    let registers = length / 4;
    let number = |list: Attributes, pairs: &[(u16, u32)]| {
        pairs.iter().fold(list, |list, (kind, value)| list.number(*kind, *value))
    };
    let plain = |pairs: &[(u16, u32)]| number(Attributes::default(), pairs);
    let compare = |value: &[u8]| plain(&[(1, KEY), (2, 0)]).nested(3, &Attributes::default().bytes(1, value));
    let mut list = Attributes::default()
        // Key 15 is nfproto.
        .nested(1, &expression("meta", plain(&[(1, KEY), (2, 15)])))
        .nested(1, &expression("cmp", compare(&[family])))
        // The destination's address type is "local" (2).
        .nested(1, &expression("fib", plain(&[(1, KEY), (2, 3), (3, 2)])))
        .nested(1, &expression("cmp", compare(&2_u32.to_ne_bytes())));
    let mut key = KEY;
    if with_address {
        list = list.nested(1, &expression("payload", plain(&[(1, key), (2, 1), (3, offset), (4, length)])));
        key += registers;
    }
    list.nested(1, &expression("meta", plain(&[(1, key), (2, 16)])))
        // The destination port of the transport header (base 2).
        .nested(1, &expression("payload", plain(&[(1, key + 1), (2, 2), (3, 2), (4, 2)])))
        .nested(
            1,
            &expression(
                "lookup",
                number(Attributes::default().text(1, map_name(ipv6, with_address)), &[(2, KEY), (3, FOUND)]),
            ),
        )
        // Destination NAT (1) to the address and port found.
        .nested(
            1,
            &expression("nat", plain(&[(1, 1), (2, u32::from(family)), (3, FOUND), (5, FOUND + registers)])),
        )
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn read_address(ipv6: bool, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    if ipv6 {
        let (address, rest) = bytes.split_first_chunk::<16>()?;
        Some((Ipv6Addr::from(*address).into(), rest))
    } else {
        let (address, rest) = bytes.split_first_chunk::<4>()?;
        Some((Ipv4Addr::from(*address).into(), rest))
    }
}

/// A port in a register of four bytes.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}
