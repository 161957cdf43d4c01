//! A port of a Service: where its backends are listed, and how one of them is chosen.

use crate::Plain;

/// Most ports of Services (those with frontends that outside clients use count twice).
pub const MAX_SERVICE_PORTS: u32 = 131_072;

/// Most slots. A list of backends takes its length rounded up to a power of two, a Maglev table its size.
pub const MAX_SLOTS: u32 = 1 << 21;

/// A run of slots, each of which holds the index of a [`crate::Backend`]. One word, because the kernel writes a map's values word
/// by word: a program never sees the start of one run with the length of another.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Slots(pub u64);

/// How a port of a Service is served.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// For connections from Pods and from this node: any slot, at random.
    pub inside: Slots,
    /// For connections from outside: the slot that the connection's hash names, the same on every node.
    pub outside: Slots,
    /// Seconds that a client comes back to the same backend for; 0 is not at all.
    pub affinity_seconds: u32,
    /// Which Service ports share their clients' affinity: the same number.
    pub affinity: u32,
    /// [`ServicePort::DROP_INSIDE`] and the like.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// What was counted of a Service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceCounters {
    /// Connections (of UDP: flows) that were given a backend.
    pub connections: u64,
    /// Connections that were refused or dropped for want of a backend.
    pub without_backend: u64,
}

const _: () = assert!(size_of::<ServicePort>() == 32);
const _: () = assert!(size_of::<ServiceCounters>() == 16);

// SAFETY: an integer.
unsafe impl Plain for Slots {}
// SAFETY: integers without padding.
unsafe impl Plain for ServicePort {}
// SAFETY: integers without padding.
unsafe impl Plain for ServiceCounters {}

impl Slots {
    /// The run of `count` slots from `first`.
    #[inline(always)]
    pub const fn new(first: u32, count: u32) -> Slots {
        Slots(first as u64 | (count as u64) << 32)
    }

    /// Index of the first slot.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        self.0 as u32
    }

    /// How many slots; none means that there is no backend.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl ServicePort {
    /// Without a backend, connections from inside are dropped instead of refused.
    pub const DROP_INSIDE: u32 = 1;
    /// Without a backend, connections from outside are dropped instead of refused.
    pub const DROP_OUTSIDE: u32 = 2;
}
