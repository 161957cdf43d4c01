//! Neighbours (ARP and NDP entries).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{Netlink, NetlinkError, address::family};

/// A permanent neighbour to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourSpec {
    /// Index of the interface.
    pub index: u32,
    /// Address of the neighbour.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// A neighbour as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface.
    pub index: u32,
    /// Address of the neighbour.
    pub address: IpAddr,
    /// Its hardware address; empty while unresolved.
    pub mac: Vec<u8>,
    /// Set by an administrator, never expires.
    pub permanent: bool,
}

impl Netlink {
    /// Every neighbour of the namespace.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        let answers =
            self.dump("list neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => read_neighbour(message),
                _ => None,
            })
            .collect())
    }

    /// Makes or replaces a permanent neighbour.
    pub fn set_neighbour(&mut self, spec: &NeighbourSpec) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(spec.index, spec.address);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(spec.mac.to_vec()));
        let what = || format!("set neighbour {} of interface {}", spec.address, spec.index);
        self.change(&what, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }
}

fn neighbour_message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}

fn read_neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut address = None;
    let mut mac = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac.clone_from(bytes),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some(Neighbour { index: message.header.ifindex, address: address?, mac, permanent })
}
