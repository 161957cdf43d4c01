//! Both directions of the uplink.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Address, Config, Counter, Step};

use crate::{
    maps::CONFIG,
    steps::{
        Verdict,
        deliver::{local_pod, to_local_pod},
        parse::{self, Packet, skb, stays_on_link},
        service::{self, hook, is_own, jump},
    },
};

const IPV4_LAST: usize = 9;
const UDP: u8 = 17;

/// Natively routed packets for the Pods of this node skip the host's stack; the rest is a Service's or the node's own.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    from_uplink(&ctx).0
}

#[inline(always)]
fn from_uplink(ctx: &TcContext) -> Verdict {
    match parse::packet(ctx) {
        Packet::Ip { destination, .. } => {
            let Some(config) = CONFIG.get(0) else { return Verdict::NEXT };
            // The overlay's own packets come first, because they are the most and nothing is to be looked up for them.
            if is_own(config, &destination) && is_tunnel(ctx, config, &destination) {
                return Verdict::NEXT;
            }
            if let Some(pod) = local_pod(&destination) {
                return to_local_pod(ctx, pod, Counter::FromNative);
            }
            // Neighbours are asked for by multicast.
            if stays_on_link(&destination) && destination.v4_be().is_some() {
                return Verdict::NEXT;
            }
            service::begin(ctx, hook::UPLINK_INGRESS, None)
        }
        Packet::Arp { .. } => jump(ctx, Step::Neighbour),
        Packet::Malformed | Packet::Other => Verdict::NEXT,
    }
}

/// Answers of this node's own processes that are backends. What Pods send was translated where they sent it.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    to_uplink(&ctx).0
}

#[inline(always)]
fn to_uplink(ctx: &TcContext) -> Verdict {
    // SAFETY: the context pointer is valid while the program runs.
    if unsafe { (*skb(ctx)).ingress_ifindex } != 0 {
        return Verdict::NEXT;
    }
    let Packet::Ip { source, destination } = parse::packet(ctx) else { return Verdict::NEXT };
    let Some(config) = CONFIG.get(0) else { return Verdict::NEXT };
    if !is_own(config, &source) || is_tunnel(ctx, config, &source) || stays_on_link(&destination) {
        return Verdict::NEXT;
    }
    service::begin(ctx, hook::UPLINK_EGRESS, None)
}

/// Whether it is a packet of the overlay. Fragments of one are not known for it, and are looked up for nothing.
#[inline(always)]
fn is_tunnel(ctx: &TcContext, config: &Config, like: &Address) -> bool {
    const ETHERNET: usize = 14;
    const IPV4_PORT: usize = ETHERNET + 20 + 2;
    const IPV6_NEXT_HEADER: usize = ETHERNET + 6;
    const IPV6_PORT: usize = ETHERNET + 40 + 2;
    // The outer header of a tunnel has no options.
    let (protocol, port) = if like.v4_be().is_some() {
        (ETHERNET + IPV4_LAST, IPV4_PORT)
    } else {
        (IPV6_NEXT_HEADER, IPV6_PORT)
    };
    ctx.load::<u8>(protocol).is_ok_and(|protocol| protocol == UDP)
        && ctx.load::<u16>(port).is_ok_and(|port_be| port_be == config.vxlan_port_be)
}
