//! Both directions of a Pod's host-side interface.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Address, Counter, Pod, Route};

use crate::steps::{
    Verdict, count,
    deliver::{local_pod, route, to_local_pod, to_other_node},
    parse::{self, ETHERNET, Ip, Packet, is_link_local, skb, stays_on_link},
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
    // SAFETY: the context pointer is valid while the program runs.
    if unsafe { (*skb(ctx)).vlan_present } != 0 {
        return Verdict::drop(Counter::Vlan);
    }
    match parse::packet(ctx) {
        Packet::Ip(ip) => {
            let Some(own) = own(ctx, &ip.source) else {
                return if is_of_link(ctx, &ip) {
                    Verdict::NEXT
                } else {
                    Verdict::drop(Counter::SourceAddress)
                };
            };
            if own.flags & Pod::HAS_FLOWS != 0 || may_be_icmp(ip.protocol) {
                return service::begin(ctx, hook::POD_EGRESS, None);
            }
            if let Some(pod) = local_pod(&ip.destination) {
                return to_local_pod(ctx, pod, &ip.hops, Counter::SameNode);
            }
            match route(&ip.destination) {
                Some(route) if route.path != Route::SERVICES => to_other_node(ctx, route, &ip.hops),
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
        Packet::Ip(Ip { destination, .. }) => {
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

/// Whether a packet that is not from one of the Pod's addresses is between the Pod and its gateway alone: from a link-local address
/// of its own, or, while it has none yet, what finds out whether it may have one (RFC 4862 section 5.4) and its reports of
/// groups (RFC 3590).
#[inline(always)]
fn is_of_link(ctx: &TcContext, ip: &Ip) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ICMPV6: u8 = 58;
    const SOLICITATION: u8 = 135;
    const LINK_SCOPE: u32 = 0xff02;
    if ip.hops.ipv6 == 0 || !stays_on_link(&ip.destination) {
        return false;
    }
    if ip.source.words_be != [0; 4] {
        return is_link_local(&ip.source);
    }
    if u32::from_be(ip.destination.words_be[0]) >> 16 != LINK_SCOPE {
        return false;
    }
    // The first bytes behind the IPv6 header: a message, or an extension header of eight bytes and a message.
    let Ok([first, length, _, _, _, _, _, _, second]) = ctx.load::<[u8; 9]>(ETHERNET + 40) else {
        return false;
    };
    match ip.protocol {
        ICMPV6 => first == SOLICITATION,
        HOP_BY_HOP => first == ICMPV6 && length == 0 && matches!(second, 131 | 132 | 143),
        _ => false,
    }
}

/// Whether it may be ICMP, which is looked at more closely: it may be behind extension headers and in fragments.
#[inline(always)]
fn may_be_icmp(protocol: u8) -> bool {
    /// ICMP and ICMPv6; what they may be behind: hop-by-hop and destination options, routing, fragments.
    const LOOKED_AT: u64 = 1 << 1 | 1 << 58 | 1 << 0 | 1 << 60 | 1 << 43 | 1 << 44;
    protocol < 64 && LOOKED_AT >> protocol & 1 != 0
}
