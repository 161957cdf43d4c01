//! Interfaces.

use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use super::{Netlink, NetlinkError};
use crate::Netns;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `veth`, `vxlan`, `bridge`, …; empty for physical devices and loopback.
    pub kind: String,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u32,
    /// Hardware address; empty where the device has none.
    pub mac: Vec<u8>,
    /// Administratively up.
    pub up: bool,
    /// Resolves no neighbours (`IFF_NOARP`).
    pub no_arp: bool,
    /// Index of the bridge (or other master) it belongs to.
    pub master: Option<u32>,
    /// Index of the other end (veth) or of the device below, possibly in another namespace.
    pub peer: Option<u32>,
    /// VXLAN network identifier and UDP port, for a VXLAN device.
    pub vxlan: Option<(u32, u16)>,
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// Name of this end.
    pub name: &'a str,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Namespace of the other end, this one's if absent.
    pub peer_netns: Option<&'a Netns>,
    /// Hardware address of this end, random if absent.
    pub mac: Option<[u8; 6]>,
    /// Hardware address of the other end, random if absent.
    pub peer_mac: Option<[u8; 6]>,
    /// MTU of both ends, in bytes.
    pub mtu: Option<u32>,
}

/// A VXLAN device (RFC 7348) that takes the tunnel key from packet metadata.
#[derive(Clone, Copy, Debug)]
pub struct VxlanSpec<'a> {
    /// Name of the device.
    pub name: &'a str,
    /// UDP port that it listens on.
    pub port: u16,
    /// UDP ports that it sends from, the last of them excluded: which of them tells flows apart.
    pub source_ports: (u16, u16),
    /// Hardware address.
    pub mac: [u8; 6],
    /// MTU, in bytes.
    pub mtu: u32,
}

impl Link {
    fn from_message(message: &LinkMessage) -> Link {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            kind: String::new(),
            mtu: 0,
            mac: Vec::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            no_arp: message.header.flags.contains(LinkFlags::Noarp),
            master: None,
            peer: None,
            vxlan: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::Link(index) => link.peer = Some(*index),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link.read_info(info)),
                _ => {}
            }
        }
        link
    }

    fn read_info(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                let (mut id, mut udp_port) = (0, 0);
                for item in data {
                    match item {
                        InfoVxlan::Id(value) => id = *value,
                        InfoVxlan::Port(value) => udp_port = *value,
                        _ => {}
                    }
                }
                self.vxlan = Some((id, udp_port));
            }
            _ => {}
        }
    }
}

impl Netlink {
    /// Every interface of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.dump("list interfaces", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(message)),
                _ => None,
            })
            .collect())
    }

    /// The interface with this name.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.get_link(message, name)
    }

    /// The interface with this index.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.get_link(message, &format!("with index {index}"))
    }

    fn get_link(&mut self, message: LinkMessage, name: &str) -> Result<Link, NetlinkError> {
        let what = || format!("look up interface {name}");
        let answers = match self.socket.request(&what, RouteNetlinkMessage::GetLink(message), 0) {
            Err(error) if error.is_not_found() => return Err(NetlinkError::NoLink(name.to_owned())),
            other => other?,
        };
        answers
            .iter()
            .find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(message)),
                _ => None,
            })
            .ok_or_else(|| NetlinkError::NoLink(name.to_owned()))
    }

    /// Makes a veth pair. Both ends are down.
    pub fn add_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        let mut peer = end_of_veth(spec.peer_name, spec.peer_mac, spec.mtu);
        if let Some(netns) = spec.peer_netns {
            peer.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
        }
        let mut message = end_of_veth(spec.name, spec.mac, spec.mtu);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create_link(&|| format!("create veth pair {} and {}", spec.name, spec.peer_name), message)
    }

    /// Makes a bridge, down.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.create_link(&|| format!("create bridge {name}"), message)
    }

    /// Makes a VXLAN device in metadata mode, down, without neighbour resolution (`IFF_NOARP`).
    pub fn add_vxlan(&mut self, spec: &VxlanSpec<'_>) -> Result<(), NetlinkError> {
        let mut message = end_of_veth(spec.name, Some(spec.mac), Some(spec.mtu));
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp;
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![
                InfoVxlan::CollectMetadata(true),
                InfoVxlan::Port(spec.port),
                InfoVxlan::PortRange(spec.source_ports),
                InfoVxlan::Learning(false),
                // Checksums of the inner packets do the job; receivers accept an outer zero over IPv6 (RFC 6935).
                InfoVxlan::UDPZeroCsumTX(true),
                InfoVxlan::UDPZeroCsumRX(true),
            ])),
        ]));
        self.create_link(&|| format!("create VXLAN device {}", spec.name), message)
    }

    /// Removes an interface (and, for a veth, its other end).
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change(&|| format!("remove interface {index}"), RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Sets an interface up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags(index, LinkFlags::Up, LinkFlags::Up)
    }

    /// Sets an interface down.
    pub fn set_down(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.set_flags(index, LinkFlags::empty(), LinkFlags::Up)
    }

    fn set_flags(&mut self, index: u32, flags: LinkFlags, mask: LinkFlags) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.header.change_mask = mask;
        self.change(&|| format!("set flags of interface {index}"), RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Puts an interface under a bridge.
    pub fn set_master(&mut self, index: u32, master: u32) -> Result<(), NetlinkError> {
        self.set_attribute(index, "set master", LinkAttribute::Controller(master))
    }

    /// Sets the MTU, in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set_attribute(index, "set MTU", LinkAttribute::Mtu(mtu))
    }

    fn set_attribute(
        &mut self,
        index: u32,
        step: &str,
        attribute: LinkAttribute,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.change(&|| format!("{step} of interface {index}"), RouteNetlinkMessage::SetLink(message), 0)
    }

    fn create_link(&mut self, what: &dyn Fn() -> String, message: LinkMessage) -> Result<(), NetlinkError> {
        self.change(what, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }
}

fn end_of_veth(name: &str, mac: Option<[u8; 6]>, mtu: Option<u32>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    message
}
