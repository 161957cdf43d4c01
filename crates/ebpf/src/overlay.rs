//! Both directions of the overlay device.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Counter, NODE_MAC};

use crate::maps::CONFIG;
use crate::steps::{
    Verdict,
    deliver::{local_pod, route, set_tunnel_key, to_local_pod, tunnel_end},
    parse::{self, Packet, stays_on_link},
};

/// Where Ethernet's source address is, bytes.
const SOURCE_MAC_OFFSET: usize = 6;

/// What other nodes sent through their tunnels: to a Pod of this node, else to the node itself.
#[classifier]
pub fn overlay_ingress(ctx: TcContext) -> i32 {
    from_tunnel(&ctx).0
}

#[inline(always)]
fn from_tunnel(ctx: &TcContext) -> Verdict {
    match parse::packet(ctx) {
        Packet::Ip { source, destination } => {
            // Anybody who reaches this node can send it a tunnel packet, a Pod too.
            let known = route(&source).map(|route| route.tunnel);
            if known.is_none() || known != tunnel_end(ctx) {
                return Verdict::drop(Counter::TunnelSource);
            }
            match local_pod(&destination) {
                Some(pod) => to_local_pod(pod, Counter::FromOverlay),
                None => Verdict::NEXT,
            }
        }
        Packet::Malformed => Verdict::drop(Counter::Malformed),
        Packet::Arp { .. } | Packet::Other => Verdict::drop(Counter::Protocol),
    }
}

/// What enters the tunnel. A Pod's packet brings its tunnel key along; what the host's stack sends gets it here.
#[classifier]
pub fn overlay_egress(ctx: TcContext) -> i32 {
    to_tunnel(&ctx).0
}

#[inline(always)]
fn to_tunnel(ctx: &TcContext) -> Verdict {
    if tunnel_end(ctx).is_some() {
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
    let Some(config) = CONFIG.get(0) else { return Verdict::drop(Counter::TunnelKey) };
    if ctx.store(SOURCE_MAC_OFFSET, &NODE_MAC, 0).is_err()
        || set_tunnel_key(ctx, config, &route.tunnel).is_err()
    {
        return Verdict::drop(Counter::TunnelKey);
    }
    Verdict::NEXT
}
