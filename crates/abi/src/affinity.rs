//! Which backend a client comes back to (`sessionAffinity: ClientIP`).

use crate::{Address, Plain};

/// Most (client, Service port) pairs.
pub const MAX_AFFINITIES: u32 = 131_072;

/// A client of a Service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    /// The client: its address, or of a Pod or process of this node its network namespace ([`Address::of_netns`]).
    pub client: Address,
    /// [`crate::ServicePort::affinity`].
    pub affinity: u32,
    /// Zero.
    pub reserved: u32,
}

/// The backend of that client.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// When the client last opened a connection: nanoseconds of the monotonic clock.
    pub last_ns: u64,
    /// Index of the backend.
    pub backend: u32,
    /// Its generation then.
    pub generation: u32,
}

/// Most backends of Service ports with affinity.
pub const MAX_AFFINITY_MEMBERS: u32 = 131_072;

/// A backend that new connections to a Service port with affinity may be given: whoever came to it before may come again. The
/// other backends are there for connections that they have already.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityMember {
    /// Index of the Service port.
    pub service_port: u32,
    /// Index of the backend.
    pub backend: u32,
    /// 0 for connections from inside, 1 from outside.
    pub outside: u32,
}

const _: () = assert!(size_of::<AffinityMember>() == 12);
const _: () = assert!(size_of::<AffinityKey>() == 24);
const _: () = assert!(size_of::<Affinity>() == 16);

// SAFETY: integers without padding.
unsafe impl Plain for AffinityMember {}
// SAFETY: integers without padding.
unsafe impl Plain for AffinityKey {}
// SAFETY: integers without padding.
unsafe impl Plain for Affinity {}
