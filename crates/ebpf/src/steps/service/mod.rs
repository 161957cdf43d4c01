//! Services on packets: what the socket hooks cannot see, and what comes from outside.
//!
//! A hook that meets a packet which may be a Service's says where it stands ([`begin`]) and jumps to the first step:
//! [`flow`] finds the packet's flow and translates it; [`request`] begins one. Steps hand their findings on in [`Work`].

pub mod addressed;
pub mod enter;
pub mod error;
pub mod flow;
pub mod label;
mod mss;
pub mod neighbour;
pub mod refuse;
pub mod request;
mod sctp;
mod send;
pub mod socket;
mod table;
mod translate;
mod transport;

use aya_ebpf::{helpers::bpf_ktime_get_coarse_ns, programs::TcContext};
use weft_abi::{Address, Config, Counter, Flow, FlowKey, FragmentKey, LABEL_SHIFT, Step};

use super::{
    Verdict,
    deliver::{Tunnel, local_pod},
    hops::Hops,
};
use crate::maps::{STEPS, WORK};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// Ethernet header, bytes.
const ETHERNET: usize = 14;

/// Where a packet is looked at. A number, because it crosses from program to program.
pub mod hook {
    /// A Pod of this node sent it.
    pub const POD_EGRESS: u32 = 1;
    /// About to be handed to the Pod of this node that it is addressed to, in an ingress hook.
    pub const TO_POD: u32 = 2;
    /// The host's stack sends it to a Pod of this node.
    pub const POD_INGRESS: u32 = 3;
    /// Out of the tunnel, from a Pod or node of the cluster, not for a Pod of this node.
    pub const OVERLAY_INGRESS: u32 = 4;
    /// The host's stack sends it into the overlay.
    pub const OVERLAY_EGRESS: u32 = 5;
    /// In by the uplink, not for a Pod of this node.
    pub const UPLINK_INGRESS: u32 = 6;
    /// The host's stack sends it out by the uplink.
    pub const UPLINK_EGRESS: u32 = 7;
    /// Out of the tunnel as [`weft_abi::ENTRY_VNI`].
    pub const ENTRY: u32 = 8;
    /// Out of the tunnel as [`weft_abi::DIRECT_VNI`].
    pub const DIRECT: u32 = 9;
}

/// Which part of a packet this is.
pub mod part {
    /// It is not fragmented.
    pub const WHOLE: u32 = 0;
    /// Its first fragment, with the transport header.
    pub const FIRST: u32 = 1;
    /// A fragment without transport header.
    pub const LATER: u32 = 2;
}

/// What the steps know of the packet at hand.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Work {
    /// When the first step began: coarse monotonic nanoseconds.
    pub now_ns: u64,
    /// What to do, once the flow is known.
    pub flow: Flow,
    /// The other direction, while a flow is made.
    pub reply: Flow,
    /// The packet's addresses and ports as they arrived.
    pub key: FlowKey,
    /// The key that the flow has in the table: of what entered by another node not the packet's own.
    pub entry: FlowKey,
    /// Key of the other direction, or of the packet inside an ICMP error.
    pub other: FlowKey,
    pub fragment: FragmentKey,
    /// Of what came through a tunnel: its other end.
    pub tunnel: Address,
    /// One of [`hook`].
    pub hook: u32,
    /// Not zero: IPv6.
    pub ipv6: u32,
    /// One of [`part`].
    pub part: u32,
    /// Offset of the transport header in the frame, bytes.
    pub transport: u32,
    /// TCP's flags.
    pub tcp: u32,
    /// Hops that the packet has left, this one among them.
    pub hops: u32,
    /// Checksum of the IPv4 header, network byte order.
    pub header_checksum: u32,
    /// Of a refusal for being too large: the MTU; otherwise zero.
    pub mtu: u32,
    /// Not zero: the packet begins a flow in the place of one that is over.
    pub again: u32,
    /// Tries to make the flow that have failed.
    pub attempt: u32,
    /// Not zero: the flow of the last try had a label.
    pub labelled: u32,
    /// Not zero: no socket of the node answers.
    pub no_socket: u32,
    /// Label of the flow, if the packet came, or is to be sent, through a tunnel that has it; a port, network byte order.
    pub label_be: u32,
    /// What is quoted of a packet.
    pub words: [u64; refuse::QUOTE_WORDS],
}

impl Work {
    /// What the packet's header says of how far it may go.
    #[inline(always)]
    pub fn hops(&self) -> Hops {
        Hops {
            left: self.hops,
            ipv6: self.ipv6,
            protocol: u32::from(self.key.protocol),
            checksum_be: self.header_checksum,
            in_place: 0,
        }
    }
}

/// The scratch space of this CPU.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: programs of one CPU do not interrupt each other between the steps of a packet, and a step asks once.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// From a hook to the first step.
#[inline(always)]
pub fn begin(ctx: &TcContext, hook: u32, tunnel: Option<&Tunnel>) -> Verdict {
    let Some(work) = work() else { return Verdict::drop(Counter::MissingStep) };
    work.hook = hook;
    work.label_be = 0;
    if let Some(tunnel) = tunnel {
        work.tunnel = tunnel.end;
        work.label_be = tunnel.vni >> LABEL_SHIFT;
    }
    // SAFETY: a helper without pointers.
    work.now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    work.mtu = 0;
    work.no_socket = 0;
    work.again = 0;
    work.attempt = 0;
    work.labelled = 0;
    let missing = jump(ctx, Step::Flow);
    match hook {
        hook::ENTRY | hook::DIRECT => missing,
        // Services stand still; the rest of the node does not.
        _ => Verdict::NEXT,
    }
}

/// Goes on with another step; comes back only if it is missing.
#[inline(always)]
pub fn jump(ctx: &TcContext, step: Step) -> Verdict {
    // SAFETY: nothing here is to be dropped.
    unsafe { STEPS.tail_call(ctx, step as u32) };
    Verdict::drop(Counter::MissingStep)
}

/// Whether an address is this node's.
#[inline(always)]
pub fn is_own(config: &Config, address: &Address) -> bool {
    *address == config.tunnel_v4 || *address == config.tunnel_v6
}

/// Whether backends at this address are this node's to serve.
#[inline(always)]
pub fn is_here(config: &Config, address: &Address) -> bool {
    local_pod(address).is_some() || is_own(config, address)
}

/// From here on, what the Pod sends and receives is looked up among the flows.
#[inline(always)]
pub fn mark_pod(address: &Address) {
    use crate::maps::PODS;
    if let Some(pod) = PODS.get_ptr_mut(address) {
        // SAFETY: a removed entry may be reused for another Pod meanwhile, whose packets are then looked up for nothing.
        unsafe {
            if (*pod).flags & weft_abi::Pod::HAS_FLOWS == 0 {
                (*pod).flags |= weft_abi::Pod::HAS_FLOWS;
            }
        }
    }
}
