//! Both directions of the uplink.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::{Address, Config, Counter, ENTRY_VNI, OVERLAY_VNI, Step};

use crate::{
    maps::CONFIG,
    overlay,
    steps::{
        Verdict,
        deliver::{local_pod, to_local_pod},
        link,
        parse::{self, Ip, Packet, skb, stays_on_link},
        service::{self, hook, is_own, jump},
        ways::way,
        wrap,
    },
};

const UDP: u8 = 17;
/// `PACKET_OTHERHOST` (linux/if_packet.h): seen by chance, because a switch did not know better.
const OTHER_HOST: u32 = 3;

/// Natively routed packets of other nodes for the Pods of this node skip the host's stack; the rest is a Service's or the node's own.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    from_uplink(&ctx).0
}

#[inline(always)]
fn from_uplink(ctx: &TcContext) -> Verdict {
    // SAFETY: the context pointer is valid while the program runs.
    if unsafe { (*skb(ctx)).pkt_type } == OTHER_HOST {
        return Verdict::NEXT;
    }
    match parse::packet(ctx) {
        Packet::Ip(Ip { source, destination, hops, .. }) => {
            let Some(config) = CONFIG.get(0) else { return Verdict::NEXT };
            // What is the node's own is no Pod's, and known without a look-up.
            let own = is_own(config, &destination);
            if own && is_tunnel(ctx, config) {
                return from_tunnel(ctx, config, &source);
            }
            let label = destination == config.label_v4 || destination == config.label_v6;
            if !own
                && !label
                && let Some(pod) = local_pod(&destination)
            {
                // What is from outside is tracked by the host, as the Pod's answers are: else they would be masqueraded.
                if way(config, &source).is_none() {
                    return Verdict::NEXT;
                }
                return to_local_pod(ctx, pod, &hops, Counter::FromNative);
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

/// What another node, whose tunnel ends at this address, has wrapped, or somebody in its name. What is for a Pod of this node, and what
/// entered elsewhere, skips the overlay's device and the host's stack in front of it.
#[inline(always)]
fn from_tunnel(ctx: &TcContext, config: &Config, end: &Address) -> Verdict {
    let Ok(from) = link::source(ctx) else { return Verdict::NEXT };
    if let Some(wrapped) = wrap::wrapped(ctx) {
        let tunnel = &wrapped.tunnel;
        let pod = match tunnel.kind() {
            OVERLAY_VNI => wrapped.destination(ctx).and_then(|address| local_pod(&address)),
            _ => None,
        };
        if pod.is_some() || tunnel.kind() == ENTRY_VNI {
            return match wrapped.unwrap(ctx) {
                Ok(()) => overlay::out_of(ctx, tunnel, pod, Some(from)),
                Err(_) => Verdict::drop(Counter::Malformed),
            };
        }
    }
    let is_anothers = way(config, end).is_some_and(|way| link::is_anothers(ctx, config, way, end, from));
    if is_anothers { Verdict::drop(Counter::TunnelSource) } else { Verdict::NEXT }
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
    let Some(config) = CONFIG.get(0) else { return Verdict::NEXT };
    if is_tunnel(ctx, config) {
        return Verdict::NEXT;
    }
    let Packet::Ip(Ip { source, destination, .. }) = parse::packet(ctx) else { return Verdict::NEXT };
    if !is_own(config, &source) || stays_on_link(&destination) {
        return Verdict::NEXT;
    }
    service::begin(ctx, hook::UPLINK_EGRESS, None)
}

/// Whether it is a packet of the overlay. Its outer header has no options, and lies where it can be read at once.
#[inline(always)]
fn is_tunnel(ctx: &TcContext, config: &Config) -> bool {
    const ETHERNET: usize = 14;
    const IPV4_PROTOCOL: usize = ETHERNET + 9;
    const IPV4_PORT: usize = ETHERNET + 20 + 2;
    const IPV6_NEXT_HEADER: usize = ETHERNET + 6;
    const IPV6_PORT: usize = ETHERNET + 40 + 2;
    const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
    // SAFETY: the context pointer is valid while the program runs.
    let is_v4 = unsafe { (*skb(ctx)).protocol } as u16 == ETHERTYPE_IPV4;
    let (protocol, port) = if is_v4 { (IPV4_PROTOCOL, IPV4_PORT) } else { (IPV6_NEXT_HEADER, IPV6_PORT) };
    let data = ctx.data();
    if data + IPV6_PORT + 2 > ctx.data_end() {
        return false;
    }
    // SAFETY: the bounds were checked; the port may be unaligned, so it is read as such.
    unsafe {
        *((data + protocol) as *const u8) == UDP
            && ((data + port) as *const u16).read_unaligned() == config.vxlan_port_be
    }
}
