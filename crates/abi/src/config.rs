//! What the programs must know about their node.

use crate::Plain;

/// Interface indexes and limits of this node. All in host byte order.
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
}

const _: () = assert!(size_of::<Config>() == 16);

// SAFETY: four integers.
unsafe impl Plain for Config {}
