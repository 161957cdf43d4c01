//! Addresses that this node answers for on the link.

use crate::Plain;

/// Most addresses that one node answers for.
pub const MAX_ANNOUNCED: u32 = 16_384;

/// Until when this node answers ARP and neighbour solicitations for an address. It is put off each time the node's lease is
/// renewed: a node that lost its lease falls silent by itself, whatever its agent does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Announced {
    /// Nanoseconds of the monotonic clock.
    pub until_ns: u64,
}

const _: () = assert!(size_of::<Announced>() == 8);

// SAFETY: an integer.
unsafe impl Plain for Announced {}
