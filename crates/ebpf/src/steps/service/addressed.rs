//! What a host outside sends to a Pod's own address, brought by the host's stack ([`weft_abi::Flow::ADDRESSED`]).

use aya_ebpf::programs::TcContext;
use weft_abi::{MAX_FLOWS_ADDRESSED, Side};

use super::{TCP, UDP, Work, part, table};
use crate::{
    sock::choose::may_be_backend,
    steps::{
        deliver::{local_pod, route},
        parse::{ETHERNET, Ip, skb, words},
    },
};

/// Offset of the destination port in the transport header.
const PORT: usize = 2;

/// Whether a packet for a Pod whose flows are not looked up may begin such a flow. The port is read where it is without options.
#[inline(always)]
pub fn may_be(ctx: &TcContext, ip: &Ip) -> bool {
    let header = if ip.hops.ipv6 == 0 { 20 } else { 40 };
    is_forwarded(ctx)
        && matches!(ip.protocol, TCP | UDP)
        && words(ctx, ETHERNET + header + PORT).is_ok_and(|[port_be]| may_be_backend(port_be))
        && local_pod(&ip.source).is_none()
        && route(&ip.source).is_none()
}

/// Whether a packet that belongs to no flow begins one. An answer over UDP may begin one as well, which does no harm: it is not changed.
#[inline(always)]
pub fn begins(ctx: &TcContext, work: &Work) -> bool {
    let key = &work.key;
    is_forwarded(ctx)
        && work.part != part::LATER
        && (key.protocol == UDP || table::opens(work))
        && may_be_backend(key.destination_port_be)
        && table::in_table(Side::Outside) < i64::from(MAX_FLOWS_ADDRESSED)
        && local_pod(&key.source).is_none()
        && route(&key.source).is_none()
}

/// Whether the host did not send it itself.
#[inline(always)]
fn is_forwarded(ctx: &TcContext) -> bool {
    // SAFETY: the context pointer is valid while the program runs.
    unsafe { (*skb(ctx)).ingress_ifindex != 0 }
}
