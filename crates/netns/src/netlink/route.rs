//! Routes of the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType,
    },
};

use super::{Netlink, NetlinkError, address::family};

/// A route of the main table, or of the local one, to be made or as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteSpec {
    /// Destination network; `0.0.0.0` or `::` with length 0 is the default route.
    pub destination: IpAddr,
    /// Bits of the destination network.
    pub prefix_len: u8,
    /// Next hop; without one the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing interface.
    pub index: u32,
    /// Preferred source address for what this host itself sends.
    pub source: Option<IpAddr>,
    /// MTU of the route, in bytes, where it is lower than the interface's.
    pub mtu: Option<u32>,
    /// The next hop is on the link although no route says so.
    pub onlink: bool,
    /// Priority, lower first; the kernel turns 0 into 1024 for IPv6.
    pub metric: u32,
    /// Who made the route (`RTPROT_*`).
    pub protocol: u8,
    /// Not a way to anywhere: packets for the destination are taken in here. Such routes stand in the local table.
    pub local: bool,
}

/// A route and what only the kernel knows about it.
pub type Route = RouteSpec;

/// `RT_TABLE_LOCAL` (linux/rtnetlink.h).
const LOCAL_TABLE: u8 = 255;

/// `RTPROT_STATIC`: an administrator's routes.
pub const PROTOCOL_STATIC: u8 = 4;

impl RouteSpec {
    /// A route to a network over an interface, everything else as the kernel defaults it.
    pub fn new(destination: IpAddr, prefix_len: u8, index: u32) -> RouteSpec {
        RouteSpec {
            destination,
            prefix_len,
            gateway: None,
            index,
            source: None,
            mtu: None,
            onlink: false,
            metric: 0,
            protocol: PROTOCOL_STATIC,
            local: false,
        }
    }

    /// The default route through `gateway`.
    pub fn default_via(gateway: IpAddr, index: u32) -> RouteSpec {
        let any = match gateway {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        RouteSpec { gateway: Some(gateway), ..RouteSpec::new(any, 0, index) }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination);
        message.header.destination_prefix_length = self.prefix_len;
        message.header.protocol = RouteProtocol::from(self.protocol);
        (message.header.table, message.header.kind) = if self.local {
            (LOCAL_TABLE, RouteType::Local)
        } else {
            (RouteHeader::RT_TABLE_MAIN, RouteType::Unicast)
        };
        message.header.scope = match self.destination {
            IpAddr::V4(_) if self.local => RouteScope::Host,
            IpAddr::V4(_) if self.gateway.is_none() => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        if self.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        if self.prefix_len > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.into()));
        }
        attributes.push(RouteAttribute::Oif(self.index));
        attributes.extend(self.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        if self.metric > 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        message
    }

    fn from_message(message: &RouteMessage) -> Option<RouteSpec> {
        use netlink_packet_route::AddressFamily;
        let header = &message.header;
        let local = match (header.table, header.kind) {
            (RouteHeader::RT_TABLE_MAIN, RouteType::Unicast) => false,
            (LOCAL_TABLE, RouteType::Local) => true,
            _ => return None,
        };
        let any = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut route = RouteSpec::new(any, header.destination_prefix_length, 0);
        route.onlink = header.flags.contains(RouteFlags::Onlink);
        route.protocol = header.protocol.into();
        route.local = local;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => route.destination = ip(address)?,
                RouteAttribute::Oif(index) => route.index = *index,
                RouteAttribute::Gateway(address) => route.gateway = ip(address),
                RouteAttribute::PrefSource(address) => route.source = ip(address),
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(route)
    }
}

impl Netlink {
    /// Every unicast route of the main table, both families.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        Ok(self.all_routes()?.into_iter().filter(|route| !route.local).collect())
    }

    /// Every local route: of addresses that are taken in here, given to an interface or not.
    pub fn local_routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        Ok(self.all_routes()?.into_iter().filter(|route| route.local).collect())
    }

    fn all_routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let answers = self.dump("list routes", RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => RouteSpec::from_message(message),
                _ => None,
            })
            .collect())
    }

    /// Whether packets for this address are taken in here. An IPv6 address is only some time after it was given: the kernel makes
    /// its local route in the background.
    pub fn is_local(&mut self, address: IpAddr) -> Result<bool, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let what = || format!("look up the route to {address}");
        let answers = match self.socket.request(&what, RouteNetlinkMessage::GetRoute(message), 0) {
            Err(error) if error.errno() == Some(libc::ENETUNREACH) => return Ok(false),
            other => other?,
        };
        let local = |answer: &RouteNetlinkMessage| matches!(answer, RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Local);
        Ok(answers.iter().any(local))
    }

    /// Makes a route, or replaces the one to the same destination with the same metric: no packet finds it missing.
    pub fn set_route(&mut self, spec: &RouteSpec) -> Result<(), NetlinkError> {
        let what = || format!("set route to {}/{}", spec.destination, spec.prefix_len);
        self.change(&what, RouteNetlinkMessage::NewRoute(spec.message()), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route.
    pub fn delete_route(&mut self, spec: &RouteSpec) -> Result<(), NetlinkError> {
        let what = || format!("remove route to {}/{}", spec.destination, spec.prefix_len);
        self.change(&what, RouteNetlinkMessage::DelRoute(spec.message()), 0)
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
