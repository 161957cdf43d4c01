//! The Pods of this node.

use crate::Plain;

/// Most Pod addresses of one node. A /20 range has 4,096; dual-stack doubles it.
pub const MAX_PODS: u32 = 8192;

/// Where a Pod of this node is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// Index of the Pod's host-side interface, host byte order.
    pub ifindex: u32,
    /// [`Pod::SHAPED`] and the like; host byte order.
    pub flags: u32,
    /// Cookie of the Pod's network namespace.
    pub netns_cookie: u64,
    /// What it has asked of the node's DNS takes until then at the pace of [`Config::dns_gap_ns`](crate::Config::dns_gap_ns),
    /// monotonic nanoseconds. Written by the kernel programs, left alone by everybody else.
    pub asked_until_ns: u64,
}

impl Pod {
    /// What the Pod receives is shaped by a queue of its host-side interface, which delivery must not bypass.
    pub const SHAPED: u32 = 1;
    /// Flows of the Pod are translated on their way: what it sends and receives is looked up among them. Set by the kernel
    /// programs, left alone by everybody else.
    pub const HAS_FLOWS: u32 = 2;
}

impl PartialEq for Pod {
    /// Leaves [`Pod::HAS_FLOWS`] and [`Pod::asked_until_ns`] out, which are not user space's to write.
    fn eq(&self, other: &Pod) -> bool {
        let wanted = |pod: &Pod| (pod.ifindex, pod.flags & !Pod::HAS_FLOWS, pod.netns_cookie);
        wanted(self) == wanted(other)
    }
}

impl Eq for Pod {}

const _: () = assert!(size_of::<Pod>() == 24);

// SAFETY: integers without padding.
unsafe impl Plain for Pod {}
