//! The way to other nodes and their Pods.

use crate::{Address, Plain};

/// Most prefixes: 5,000 nodes with two ranges and four addresses each, with room to spare.
pub const MAX_ROUTES: u32 = 65_536;

/// How packets travel to another node.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Through the VXLAN tunnel.
    Overlay = 1,
    /// Straight over the uplink, with the other node as the next hop.
    Native = 2,
}

/// What is known of a prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The other node's address on the underlay: tunnel end or next hop.
    pub next_hop: Address,
    /// Where the other node's tunnels begin, whatever the path from here: what comes out of a tunnel with a source in this prefix
    /// must have come from there.
    pub tunnel: Address,
    /// A [`Path`] as a number, or [`Route::SERVICES`].
    pub path: u32,
    /// No meaning yet; zero.
    pub reserved: u32,
}

impl Route {
    /// In the place of a path: nowhere. It is a range of Service addresses; what no frontend answers for is dropped.
    pub const SERVICES: u32 = 3;
}

const _: () = assert!(size_of::<Route>() == 40);

// SAFETY: ten integers.
unsafe impl Plain for Route {}
