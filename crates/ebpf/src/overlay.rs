//! Both directions of the overlay device.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Counter, DIRECT_VNI, ENTRY_VNI, OVERLAY_VNI, Pod};

use crate::{
    maps::CONFIG,
    steps::{
        Verdict,
        deliver::{Tunnel, local_pod, to_local_pod, tunnel},
        link::is_anothers,
        parse::{self, Ip, Packet, stays_on_link},
        service::{self, hook},
        ways::way,
    },
};

/// What other nodes sent through their tunnels: to a Pod of this node, else to a Service or the node itself.
#[classifier]
pub fn overlay_ingress(ctx: TcContext) -> i32 {
    from_tunnel(&ctx).0
}

#[inline(always)]
fn from_tunnel(ctx: &TcContext) -> Verdict {
    // Whatever came over the wire has a tunnel: this was sent to the node's stack by a program of the node.
    match tunnel(ctx) {
        Some(tunnel) => out_of(ctx, &tunnel, None, None),
        None => Verdict::NEXT,
    }
}

/// What came through a tunnel: for this Pod, if it is known to be for one of this node; in a frame from this hardware address, unless
/// that has been looked at.
#[inline(always)]
pub fn out_of(
    ctx: &TcContext,
    tunnel: &Tunnel,
    pod: Option<&'static Pod>,
    from: Option<[u16; 3]>,
) -> Verdict {
    match parse::packet(ctx) {
        Packet::Ip(Ip { source, destination, hops, .. }) => {
            // Anybody who reaches this node can send it a tunnel packet, a Pod too.
            let sender = match tunnel.kind() {
                OVERLAY_VNI => &source,
                // Sources are from outside: it is the node that must be known.
                ENTRY_VNI | DIRECT_VNI => &tunnel.end,
                _ => return Verdict::drop(Counter::TunnelSource),
            };
            let Some(config) = CONFIG.get(0) else { return Verdict::drop(Counter::TunnelSource) };
            let Some(way) = way(config, sender) else { return Verdict::drop(Counter::TunnelSource) };
            if way.tunnel != tunnel.end
                || from.is_some_and(|from| is_anothers(ctx, config, way, &tunnel.end, from))
            {
                return Verdict::drop(Counter::TunnelSource);
            }
            let hook = match tunnel.kind() {
                OVERLAY_VNI => match pod.or_else(|| local_pod(&destination)) {
                    Some(pod) => return to_local_pod(ctx, pod, &hops, Counter::FromOverlay),
                    None => hook::OVERLAY_INGRESS,
                },
                ENTRY_VNI => hook::ENTRY,
                _ => hook::DIRECT,
            };
            if stays_on_link(&destination) {
                return Verdict::NEXT;
            }
            service::begin(ctx, hook, Some(tunnel))
        }
        Packet::Malformed => Verdict::drop(Counter::Malformed),
        Packet::Arp { .. } | Packet::Other => Verdict::drop(Counter::Protocol),
    }
}

/// What enters the tunnel. What a program sends brings its tunnel key along; what the host's stack sends gets it from here on.
#[classifier]
pub fn overlay_egress(ctx: TcContext) -> i32 {
    to_tunnel(&ctx).0
}

#[inline(always)]
fn to_tunnel(ctx: &TcContext) -> Verdict {
    if tunnel(ctx).is_some() {
        return Verdict::NEXT;
    }
    let Packet::Ip(Ip { destination, .. }) = parse::packet(ctx) else {
        return Verdict::drop(Counter::Protocol);
    };
    // The stack's own chatter (MLD, IGMP) finds nobody in the overlay; the device drops it for want of a tunnel.
    if stays_on_link(&destination) {
        return Verdict::NEXT;
    }
    service::begin(ctx, hook::OVERLAY_EGRESS, None)
}
