//! What sockets were told at `connect` and `sendmsg`.

use crate::{Address, FrontendKey, Plain};

/// `SO_PRIORITY` of a socket by which the agent connects to an API server, until it is connected: what Services say of the address
/// does not count. Nobody without CAP_NET_ADMIN can set it.
pub const AGENT_PRIORITY: u32 = 0x7765_6674;

/// Most connected sockets that are remembered at a time. Each is forgotten as it is closed; those beyond are served all the same,
/// but told the backend's address as their peer's, and not ended with their backend. No more than a core's cache has room for.
pub const MAX_SOCKETS: u32 = 65_536;

/// Most (unconnected socket, peer) pairs that are remembered; the one used longest ago gives way.
pub const MAX_DATAGRAM_PEERS: u32 = 65_536;

/// The backend that a socket was given for a frontend. Its key is the socket's cookie, or a [`DatagramKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketPeer {
    /// What the process asked for.
    pub frontend: FrontendKey,
    /// Index of the backend, or [`SocketPeer::BY_PACKET`].
    pub backend: u32,
    /// The backend's generation then.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
    /// Cookie of the socket's network namespace, to find it by when its backend is gone.
    pub netns_cookie: u64,
}

impl SocketPeer {
    /// Of a frontend: what is sent to it is translated packet by packet, because the socket has dealings with the backend otherwise, and
    /// at the socket an answer does not say which it is to.
    pub const BY_PACKET: u32 = u32::MAX;
}

/// A peer of a socket that sends datagrams without being connected: both a frontend, to come back to the same backend, and a
/// backend, to give its answers the frontend's address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatagramKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// Address of the peer.
    pub address: Address,
    /// Port of the peer, network byte order.
    pub port_be: u16,
    /// 0 if the peer is a frontend, 1 if it is a backend.
    pub is_backend: u16,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<SocketPeer>() == 40);
const _: () = assert!(size_of::<DatagramKey>() == 32);

// SAFETY: integers without padding.
unsafe impl Plain for SocketPeer {}
// SAFETY: integers without padding.
unsafe impl Plain for DatagramKey {}
