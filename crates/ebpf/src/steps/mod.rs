//! What the hooks share.

pub mod count;
pub mod deliver;
pub mod hops;
pub mod link;
pub mod node_socket;
pub mod parse;
pub mod service;
pub mod ways;
pub mod wrap;

use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use weft_abi::Counter;

/// What becomes of a packet: a `tcx` return code.
#[must_use]
#[derive(Clone, Copy)]
pub struct Verdict(pub i32);

impl Verdict {
    /// The next program decides, and at the end the host's stack takes the packet.
    pub const NEXT: Verdict = Verdict(TCX_NEXT);

    /// The packet ends here, and is counted.
    #[inline(always)]
    pub fn drop(reason: Counter) -> Verdict {
        count::packet(reason);
        Verdict(TCX_DROP)
    }
}
