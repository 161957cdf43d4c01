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

/// Most backends of Service ports with affinity, and of UDP ports.
pub const MAX_AFFINITY_MEMBERS: u32 = 262_144;

/// A backend of a Service port. Of ports with affinity: one that new connections may be given, so that whoever came to it before
/// may come again. Of UDP ports also: one that flows may stay with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityMember {
    /// Index of the Service port.
    pub service_port: u32,
    /// Index of the backend.
    pub backend: u32,
    /// [`AffinityMember::INSIDE`] and the like.
    pub role: u32,
}

impl AffinityMember {
    /// New connections from inside may be given it.
    pub const INSIDE: u32 = 0;
    /// New connections from outside may be given it.
    pub const OUTSIDE: u32 = 1;
    /// UDP flows may stay with it.
    pub const STAYS: u32 = 2;
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
