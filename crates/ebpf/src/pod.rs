//! Both directions of a Pod's host-side interface.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Address, Counter};

use crate::steps::{
    Verdict, count,
    deliver::{local_pod, route, to_local_pod, to_other_node},
    parse::{self, Packet, skb, stays_on_link},
};

/// What a Pod sends.
#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    from_pod(&ctx).0
}

/// What the host's stack sends to a Pod.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    to_pod(&ctx).0
}

#[inline(always)]
fn from_pod(ctx: &TcContext) -> Verdict {
    match parse::packet(ctx) {
        Packet::Ip { source, destination } => {
            if !is_own(ctx, &source) {
                // Neighbour discovery and the like: between the Pod and its gateway only.
                if stays_on_link(&source) && stays_on_link(&destination) || is_unspecified(&source) {
                    return Verdict::NEXT;
                }
                return Verdict::drop(Counter::SourceAddress);
            }
            if let Some(pod) = local_pod(&destination) {
                return to_local_pod(pod, Counter::SameNode);
            }
            if let Some(route) = route(&destination) {
                return to_other_node(ctx, route);
            }
            count::packet(Counter::ToHost);
            Verdict::NEXT
        }
        // A Pod may ask, and tell of itself alone.
        Packet::Arp { sender } if is_own(ctx, &sender) => Verdict::NEXT,
        Packet::Arp { .. } => Verdict::drop(Counter::SourceAddress),
        Packet::Malformed => Verdict::drop(Counter::Malformed),
        Packet::Other => Verdict::drop(Counter::Protocol),
    }
}

#[inline(always)]
fn to_pod(ctx: &TcContext) -> Verdict {
    match parse::packet(ctx) {
        Packet::Ip { destination, .. } if !is_own(ctx, &destination) && !stays_on_link(&destination) => {
            Verdict::drop(Counter::NotThisPod)
        }
        Packet::Malformed => Verdict::drop(Counter::Malformed),
        _ => {
            count::packet(Counter::FromHost);
            Verdict::NEXT
        }
    }
}

/// Whether the address belongs to the Pod behind this interface.
#[inline(always)]
fn is_own(ctx: &TcContext, address: &Address) -> bool {
    // SAFETY: the context pointer is valid while the program runs.
    let ifindex = unsafe { (*skb(ctx)).ifindex };
    local_pod(address).is_some_and(|pod| pod.ifindex == ifindex)
}

/// `::`, the source of duplicate address detection (RFC 4862); the stack never forwards it.
#[inline(always)]
fn is_unspecified(address: &Address) -> bool {
    address.words_be == [0; 4]
}
