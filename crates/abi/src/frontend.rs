//! What Services are reached by.

use crate::{Address, Plain};

/// Most frontends: 100,000 Services with an address each, which takes an entry of its own, or 10,000 with several ports and
/// addresses.
pub const MAX_FRONTENDS: u32 = 262_144;

/// An address that a Service is reached by.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address.
    pub address: Address,
    /// The port, network byte order.
    pub port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// What stands behind a frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// Index of its [`crate::ServicePort`].
    pub service_port: u32,
    /// [`Frontend::ADDRESS`] and the like.
    pub flags: u32,
}

const _: () = assert!(size_of::<FrontendKey>() == 20);
const _: () = assert!(size_of::<Frontend>() == 8);

// SAFETY: integers without padding.
unsafe impl Plain for FrontendKey {}
// SAFETY: two integers.
unsafe impl Plain for Frontend {}

impl FrontendKey {
    /// The entry that stands for an address itself: it is a Service's, so that a port without a frontend is refused rather than
    /// unknown.
    #[inline(always)]
    pub const fn whole(address: Address) -> FrontendKey {
        FrontendKey { address, port_be: 0, protocol: 0, reserved: 0 }
    }
}

impl Frontend {
    /// The entry stands for its address ([`FrontendKey::whole`]); it has no Service port.
    pub const ADDRESS: u32 = 1;
    /// Who may come is listed in the source ranges of the Service port; for everybody else packets are dropped.
    pub const SOURCE_RANGES: u32 = 2;
    /// With source ranges: processes of this node may come.
    pub const NODE_ALLOWED: u32 = 4;
    /// An address of this node (NodePort, host port): the port alone is the Service's, the address is not.
    pub const NODE_ADDRESS: u32 = 8;
    /// The address lies in a range of Services, which the node routes to its programs: what its own processes send there is
    /// seen packet by packet.
    pub const ROUTED: u32 = 16;
    /// The address is the Service's own: it has an entry of its own ([`FrontendKey::whole`]).
    pub const OWN_ADDRESS: u32 = 32;
    /// A Pod's `hostPort`, which no Service has.
    pub const HOST_PORT: u32 = 64;
    /// A socket of the node that is bound to this very address answers, if there is one; nothing is translated then.
    pub const NODE_SOCKET: u32 = 128;
    /// With [`Frontend::NODE_ADDRESS`]: processes of this node reach it on loopback as well.
    pub const LOOPBACK: u32 = 256;
    /// The address is a loopback address: nobody but processes of this node reaches it.
    pub const LOOPBACK_ONLY: u32 = 512;
}
