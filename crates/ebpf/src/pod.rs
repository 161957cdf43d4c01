//! Both directions of a Pod's host-side interface.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Address, Counter, Pod, Route};

use crate::{
    maps::CONFIG,
    steps::{
        Verdict, count,
        deliver::{is_delivered, local_pod, to_local_pod, to_other_node},
        parse::{self, Ip, Packet, is_link_local, skb, stays_on_link},
        service::{self, addressed, hook},
        ways::way,
    },
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
    // SAFETY: the context pointer is valid while the program runs.
    if unsafe { (*skb(ctx)).vlan_present } != 0 {
        return Verdict::drop(Counter::Vlan);
    }
    match parse::packet(ctx) {
        Packet::Ip(ip) => {
            let Some(own) = own(ctx, &ip.source) else {
                return Verdict::drop(if is_of_link(&ip) {
                    Counter::LinkOnly
                } else {
                    Counter::SourceAddress
                });
            };
            if own.flags & Pod::HAS_FLOWS != 0 || may_be_icmp(ip.protocol) {
                return service::begin(ctx, hook::POD_EGRESS, None);
            }
            if let Some(pod) = local_pod(&ip.destination) {
                return to_local_pod(ctx, pod, &ip.hops, Counter::SameNode);
            }
            let Some(config) = CONFIG.get(0) else { return Verdict::NEXT };
            if let Some(way) = way(config, &ip.destination)
                && way.path != Route::SERVICES
            {
                return to_other_node(ctx, config, way, &ip.hops);
            }
            service::begin(ctx, hook::POD_EGRESS, None)
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
    if is_delivered(ctx) {
        return Verdict::NEXT;
    }
    match parse::packet(ctx) {
        Packet::Ip(ip) => {
            let pod = own(ctx, &ip.destination);
            if pod.is_none() && !stays_on_link(&ip.destination) {
                return Verdict::drop(Counter::NotThisPod);
            }
            count::packet(Counter::FromHost);
            if pod.is_some_and(|pod| pod.flags & Pod::HAS_FLOWS != 0 || addressed::may_be(ctx, &ip)) {
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

/// Whether a packet that is not from one of the Pod's addresses is for its IPv6 link alone: duplicate address detection, reports of
/// groups, questions for routers. Nobody on that link needs them, because its neighbours are known, and the node's stack would
/// remember every address that they come from.
#[inline(always)]
fn is_of_link(ip: &Ip) -> bool {
    ip.hops.ipv6 != 0
        && stays_on_link(&ip.destination)
        && (is_link_local(&ip.source) || ip.source.words_be == [0; 4])
}

/// Whether it may be ICMP, which is looked at more closely: it may be behind extension headers and in fragments.
#[inline(always)]
fn may_be_icmp(protocol: u8) -> bool {
    /// ICMP and ICMPv6; what they may be behind: hop-by-hop and destination options, routing, fragments.
    const LOOKED_AT: u64 = 1 << 1 | 1 << 58 | 1 << 0 | 1 << 60 | 1 << 43 | 1 << 44;
    protocol < 64 && LOOKED_AT >> protocol & 1 != 0
}
