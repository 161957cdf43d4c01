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
    /// No meaning yet; zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Pod>() == 8);

// SAFETY: two integers.
unsafe impl Plain for Pod {}
