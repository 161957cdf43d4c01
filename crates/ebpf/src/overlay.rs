//! Both directions of the overlay device.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Counter, NODE_MAC};

use crate::steps::{
    Verdict,
    deliver::{local_pod, route, set_tunnel_key, to_local_pod},
    parse::{self, Packet, skb, stays_on_link},
};

/// Where Ethernet's source address is, bytes.
const SOURCE_MAC_OFFSET: usize = 6;

/// What other nodes sent through their tunnels: to a Pod of this node, else to the node itself.
#[classifier]
pub fn overlay_ingress(ctx: TcContext) -> i32 {
    match parse::packet(&ctx) {
        Packet::Ip { destination, .. } => match local_pod(&destination) {
            Some(pod) => to_local_pod(pod, Counter::FromOverlay),
            None => Verdict::NEXT,
        },
        Packet::Malformed => Verdict::drop(Counter::Malformed),
        Packet::Arp { .. } | Packet::Other => Verdict::drop(Counter::Protocol),
    }
    .0
}

/// What enters the tunnel. A Pod's packet brings its tunnel key along; what the host's stack sends gets it here.
#[classifier]
pub fn overlay_egress(ctx: TcContext) -> i32 {
    to_tunnel(&ctx).0
}

#[inline(always)]
fn to_tunnel(ctx: &TcContext) -> Verdict {
    if has_tunnel_key(ctx) {
        return Verdict::NEXT;
    }
    let Packet::Ip { destination, .. } = parse::packet(ctx) else {
        return Verdict::drop(Counter::Protocol);
    };
    // The stack's own chatter (MLD, IGMP) finds nobody in the overlay; the device drops it for want of a tunnel.
    if stays_on_link(&destination) {
        return Verdict::NEXT;
    }
    let Some(route) = route(&destination) else {
        return Verdict::drop(Counter::NoTunnel);
    };
    if ctx.store(SOURCE_MAC_OFFSET, &NODE_MAC, 0).is_err() || set_tunnel_key(ctx, &route.next_hop).is_err() {
        return Verdict::drop(Counter::TunnelKey);
    }
    Verdict::NEXT
}

/// Whether the packet has tunnel metadata already.
#[inline(always)]
fn has_tunnel_key(ctx: &TcContext) -> bool {
    use aya_ebpf::{
        bindings::{BPF_F_TUNINFO_IPV6, bpf_tunnel_key},
        helpers::bpf_skb_get_tunnel_key,
    };
    // SAFETY: plain integers, for which zero is a value.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the key outlives both calls and its size is given. The helper refuses the other family.
    unsafe {
        bpf_skb_get_tunnel_key(skb(ctx), &raw mut key, size, 0) == 0
            || bpf_skb_get_tunnel_key(skb(ctx), &raw mut key, size, u64::from(BPF_F_TUNINFO_IPV6)) == 0
    }
}
