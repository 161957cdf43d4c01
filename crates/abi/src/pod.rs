//! The Pods of this node.

use crate::Plain;

/// Most Pod addresses of one node. A /20 range has 4,096; dual-stack doubles it.
pub const MAX_PODS: u32 = 8192;

/// Where a Pod of this node is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Index of the Pod's host-side interface, host byte order.
    pub ifindex: u32,
    /// [`Pod::SHAPED`] and flags to come; host byte order.
    pub flags: u32,
}

impl Pod {
    /// What the Pod receives is shaped by a queue of its host-side interface, which delivery must not bypass.
    pub const SHAPED: u32 = 1;
}

const _: () = assert!(size_of::<Pod>() == 8);

// SAFETY: two integers.
unsafe impl Plain for Pod {}
