//! What the programs must know about their node.

use crate::{Address, Plain};

/// Interface indexes and limits of this node, in host byte order, and its addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Index of the overlay (VXLAN) device.
    pub overlay_ifindex: u32,
    /// Index of the uplink.
    pub uplink_ifindex: u32,
    /// Largest layer-3 packet the overlay takes, in bytes.
    pub overlay_mtu: u32,
    /// Largest layer-3 packet the uplink takes, in bytes.
    pub uplink_mtu: u32,
    /// This node's IPv4 address, which its tunnels begin at; all zero if it has none.
    pub tunnel_v4: Address,
    /// This node's IPv6 address, likewise.
    pub tunnel_v6: Address,
    /// The node's plain IPv4 address, which labels flows that enter here; all zero if it has none.
    pub label_v4: Address,
    /// The same, IPv6.
    pub label_v6: Address,
    /// The node's path IPv4 address: it and the plain one are where probes arrive; all zero if it has none.
    pub path_v4: Address,
    /// The same, IPv6.
    pub path_v6: Address,
    /// Cookie of the node's network namespace: a socket in it belongs to the node, any other to a Pod.
    pub netns_cookie: u64,
    /// From one question of a Pod to the next that sockets of the node answer (cluster DNS), at its highest pace, in
    /// nanoseconds; zero: there is none.
    pub dns_gap_ns: u64,
    /// So far may a Pod be ahead of that pace, in nanoseconds.
    pub dns_burst_ns: u64,
    /// UDP port of the overlay, network byte order.
    pub vxlan_port_be: u16,
    /// [`Config::DIRECT_RETURN`] and the like.
    pub flags: u16,
    /// Changes of the table of routes so far: what the programs have kept of it from before is not used any more.
    pub routes: u32,
    /// Hardware address of the uplink, by which this node answers for others' addresses.
    pub uplink_mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 2],
}

impl Config {
    /// The node of a backend answers clients from outside itself instead of through the node that they came by.
    pub const DIRECT_RETURN: u16 = 1;
    /// Hosts outside may use cluster IPs, by a route through this node.
    pub const OPEN_CLUSTER_IPS: u16 = 2;
    /// Tunnel packets of nodes of this link may come from any hardware address.
    pub const ANY_HARDWARE: u16 = 4;
}

const _: () = assert!(size_of::<Config>() == 152);

// SAFETY: integers without padding.
unsafe impl Plain for Config {}
