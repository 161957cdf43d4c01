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
}

const _: () = assert!(size_of::<Config>() == 48);

// SAFETY: twelve integers.
unsafe impl Plain for Config {}
