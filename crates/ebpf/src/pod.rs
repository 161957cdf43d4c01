//! Both directions of a Pod's host-side interface.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Address, Counter, Pod, Route};

use crate::steps::{
    Verdict, count,
    deliver::{local_pod, route, to_local_pod, to_other_node},
    parse::{self, Packet, skb, stays_on_link},
    service::{self, hook},
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
            let Some(own) = own(ctx, &source) else {
                // Neighbour discovery and the like: between the Pod and its gateway only.
                if stays_on_link(&source) && stays_on_link(&destination) || is_unspecified(&source) {
                    return Verdict::NEXT;
                }
                return Verdict::drop(Counter::SourceAddress);
            };
            if own.flags & Pod::HAS_FLOWS != 0 {
                return service::begin(ctx, hook::POD_EGRESS, None);
            }
            if let Some(pod) = local_pod(&destination) {
                return to_local_pod(ctx, pod, Counter::SameNode);
            }
            match route(&destination) {
                Some(route) if route.path != Route::SERVICES => to_other_node(ctx, route),
                _ => service::begin(ctx, hook::POD_EGRESS, None),
            }
        }
        // A Pod may ask, and tell of itself alone.
        Packet::Arp { sender } if own(ctx, &sender).is_some() => Verdict::NEXT,
        Packet::Arp { .. } => Verdict::drop(Counter::SourceAddress),
        Packet::Malformed => Verdict::drop(Counter::Malformed),
        Packet::Other => Verdict::drop(Counter::Protocol),
    }
}

#[inline(always)]
fn to_pod(ctx: &TcContext) -> Verdict {
    match parse::packet(ctx) {
        Packet::Ip { destination, .. } => {
            let pod = own(ctx, &destination);
            if pod.is_none() && !stays_on_link(&destination) {
                return Verdict::drop(Counter::NotThisPod);
            }
            count::packet(Counter::FromHost);
            if pod.is_some_and(|pod| pod.flags & Pod::HAS_FLOWS != 0) {
                return service::begin(ctx, hook::POD_INGRESS, None);
            }
            Verdict::NEXT
        }
        Packet::Malformed => Verdict::drop(Counter::Malformed),
        Packet::Arp { .. } | Packet::Other => {
            count::packet(Counter::FromHost);
            Verdict::NEXT
        }
    }
}

/// The Pod behind this interface, if the address is its own.
#[inline(always)]
fn own(ctx: &TcContext, address: &Address) -> Option<&'static Pod> {
    // SAFETY: the context pointer is valid while the program runs.
    let ifindex = unsafe { (*skb(ctx)).ifindex };
    local_pod(address).filter(|pod| pod.ifindex == ifindex)
}

/// `::`, the source of duplicate address detection (RFC 4862); the stack never forwards it.
#[inline(always)]
fn is_unspecified(address: &Address) -> bool {
    address.words_be == [0; 4]
}
