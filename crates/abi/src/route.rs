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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Route {
    /// The other node's address on the underlay: tunnel end or next hop.
    pub next_hop: Address,
    /// Where the other node's tunnels begin, whatever the path from here: what comes out of a tunnel with a source in this prefix
    /// must have come from there.
    pub tunnel: Address,
    /// A [`Path`] as a number, or [`Route::SERVICES`].
    pub path: u32,
    /// Of all of a node's own addresses, the plain and the path address among them: that node's plain IPv4 address, which labels its flows
    /// ([`crate::Flow::LABELLED`]); otherwise zero.
    pub label_v4_be: u32,
    /// The same, IPv6.
    pub label_v6: Address,
}

impl Route {
    /// The address that labels the node's flows in this family, if this is a node's own address.
    #[inline(always)]
    pub const fn label(&self, ipv4: bool) -> Option<Address> {
        let label = if ipv4 { Address::from_v4_be(self.label_v4_be) } else { self.label_v6 };
        if label.words_be[3] == 0 { None } else { Some(label) }
    }

    /// In the place of a path: nowhere. It is a range of Service addresses; what no frontend answers for is dropped.
    pub const SERVICES: u32 = 3;
}

const _: () = assert!(size_of::<Route>() == 56);

// SAFETY: integers without padding.
unsafe impl Plain for Route {}
