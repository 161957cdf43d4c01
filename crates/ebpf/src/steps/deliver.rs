//! Sending a packet on its way.

use aya_ebpf::{
    bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_redir_neigh, bpf_tunnel_key},
    helpers::{
        bpf_check_mtu, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_get_tunnel_key,
        bpf_skb_set_tunnel_key,
    },
    maps::lpm_trie::Key,
    programs::TcContext,
};
use weft_abi::{Address, Config, Counter, GATEWAY_MAC, LABEL_SHIFT, NODE_MAC, OVERLAY_VNI, Path, Pod, Route};

use super::{Verdict, count, hops::Hops, link, parse::skb, service, ways::Way, wrap};
use crate::maps::{PODS, ROUTES};

pub const AF_INET: u32 = 2;
pub const AF_INET6: u32 = 10;
/// Ethernet header, bytes: part of a packet's length on the wire, not of its MTU.
const ETHERNET: u32 = 14;
const TUNNEL_TTL: u8 = 64;
/// Mark of a packet on its way through the queue of a Pod's host-side interface. No Pod can set it: the kernel clears marks between
/// namespaces.
const DELIVERED: u32 = 0x7765_6674;

/// The Pod of this node that has this address.
#[inline(always)]
pub fn local_pod(address: &Address) -> Option<&'static Pod> {
    // SAFETY: a removed entry may be reused for another Pod while it is read: the packet then reaches the Pod that has
    // the address now or none, both of which a packet in flight may do.
    unsafe { PODS.get(address) }
}

/// The way to another node's address or Pod.
#[inline(always)]
pub fn route(address: &Address) -> Option<&'static Route> {
    ROUTES.get(Key::new(128, *address))
}

/// Hands a packet to a Pod of this node; one whose flows are translated is given what they say first. Only from an ingress hook.
#[inline(always)]
pub fn to_local_pod(ctx: &TcContext, pod: &Pod, hops: &Hops, way: Counter) -> Verdict {
    count::packet(way);
    if pod.flags & Pod::HAS_FLOWS != 0 {
        return service::begin(ctx, service::hook::TO_POD, None);
    }
    forward_to_pod(ctx, pod, hops)
}

/// Hands a packet to a Pod of this node as a router does: it loses a hop.
#[inline(always)]
pub fn forward_to_pod(ctx: &TcContext, pod: &Pod, hops: &Hops) -> Verdict {
    match lose_hop(ctx, hops) {
        Ok(()) => reach_pod(ctx, pod),
        Err(verdict) => verdict,
    }
}

/// Takes a hop from a packet that is about to be forwarded.
#[inline(always)]
pub fn lose_hop(ctx: &TcContext, hops: &Hops) -> Result<(), Verdict> {
    one_less(hops)?.store(ctx).map_err(|_| Verdict::drop(Counter::Malformed))
}

/// The hops of a packet that is about to be forwarded. What has none left is handed to the host's stack, which tells the sender.
#[inline(always)]
pub fn one_less(hops: &Hops) -> Result<Hops, Verdict> {
    if hops.are_spent() {
        count::packet(Counter::HopsSpent);
        return Err(Verdict::NEXT);
    }
    Ok(hops.lost())
}

/// Whether these programs have sent a packet by the queue of a Pod's host-side interface, where it is met again. Forgets it.
#[inline(always)]
pub fn is_delivered(ctx: &TcContext) -> bool {
    // SAFETY: the context pointer is valid while the program runs.
    let delivered = unsafe { (*skb(ctx)).mark } == DELIVERED;
    if delivered {
        ctx.set_mark(0);
    }
    delivered
}

/// Hands a packet to a Pod of this node, without the host's stack in between: straight into the Pod's namespace, or through
/// the queue of its host-side interface if what it receives is shaped. Only from an ingress hook.
#[inline(always)]
pub fn reach_pod(ctx: &TcContext, pod: &Pod) -> Verdict {
    if pod.flags & Pod::SHAPED != 0 {
        ctx.set_mark(DELIVERED);
        // By way of the neighbour, because on this way the Pod looks at the frame's hardware address.
        // SAFETY: without parameters the helper reads none.
        return Verdict(unsafe { bpf_redirect_neigh(pod.ifindex, core::ptr::null_mut(), 0, 0) } as i32);
    }
    // SAFETY: a helper without pointers.
    Verdict(unsafe { bpf_redirect_peer(pod.ifindex, 0) } as i32)
}

/// Sends a Pod's packet to another node. What is too large for the path is left to the host's stack, whose route over
/// the same path has the same MTU: it fragments, or answers the Pod with the ICMP error that path MTU discovery needs.
#[inline(always)]
pub fn to_other_node(ctx: &TcContext, config: &Config, way: &Way, hops: &Hops) -> Verdict {
    let native = way.path == Path::Native as u32;
    let (ifindex, mtu) = if native {
        (config.uplink_ifindex, config.uplink_mtu)
    } else {
        (config.overlay_ifindex, config.overlay_mtu)
    };
    if exceeds(ctx, ifindex, mtu) {
        return Verdict::NEXT;
    }
    if let Err(verdict) = lose_hop(ctx, hops) {
        return verdict;
    }
    if native {
        count::packet(Counter::ToNative);
        return to_neighbour(config, &way.next_hop);
    }
    count::packet(Counter::ToOverlay);
    into_tunnel(ctx, config, way, OVERLAY_VNI)
}

/// Into the tunnel to the other node.
#[inline(always)]
pub fn into_tunnel(ctx: &TcContext, config: &Config, way: &Way, vni: u32) -> Verdict {
    let end = &way.tunnel;
    if wrap::may_be(ctx, config, end)
        && let Some(gateway) = link::gateway(ctx, config, way)
    {
        match wrap::wrap(ctx, config, end, vni) {
            Ok(true) => return to_neighbour(config, &gateway),
            Ok(false) => {}
            Err(_) => return Verdict::drop(Counter::TunnelKey),
        }
    }
    through_device(ctx, config, end, vni)
}

/// Into the tunnel by the overlay's device, with the hardware addresses that both of its ends expect.
#[inline(always)]
pub fn through_device(ctx: &TcContext, config: &Config, end: &Address, vni: u32) -> Verdict {
    if ctx.store(0, &[GATEWAY_MAC, NODE_MAC], 0).is_err() || set_tunnel_key(ctx, config, end, vni).is_err() {
        return Verdict::drop(Counter::TunnelKey);
    }
    // SAFETY: a helper without pointers.
    Verdict(unsafe { bpf_redirect(config.overlay_ifindex, 0) } as i32)
}

/// Addresses the tunnel for a packet that is about to enter the overlay device.
#[inline(always)]
pub fn set_tunnel_key(ctx: &TcContext, config: &Config, remote: &Address, vni: u32) -> Result<(), ()> {
    // SAFETY: plain integers, for which zero is a value.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.tunnel_ttl = TUNNEL_TTL;
    let mut flags = u64::from(BPF_F_ZERO_CSUM_TX);
    match remote.v4_be() {
        // The helper takes IPv4 in host byte order and IPv6 in network byte order.
        Some(v4_be) => {
            key.__bindgen_anon_1.remote_ipv4 = u32::from_be(v4_be);
            key.__bindgen_anon_3.local_ipv4 = u32::from_be(config.tunnel_v4.words_be[3]);
        }
        None => {
            key.__bindgen_anon_1.remote_ipv6 = remote.words_be;
            key.__bindgen_anon_3.local_ipv6 = config.tunnel_v6.words_be;
            flags |= u64::from(BPF_F_TUNINFO_IPV6);
        }
    }
    // SAFETY: the key outlives the call and its size is given.
    let result =
        unsafe { bpf_skb_set_tunnel_key(skb(ctx), &raw mut key, size_of::<bpf_tunnel_key>() as u32, flags) };
    if result == 0 { Ok(()) } else { Err(()) }
}

/// A tunnel that a packet came through, or, if it was given its key already, is about to take.
pub struct Tunnel {
    /// Its other end.
    pub end: Address,
    /// Network identifier.
    pub vni: u32,
}

impl Tunnel {
    /// Its network identifier without the label.
    #[inline(always)]
    pub fn kind(&self) -> u32 {
        self.vni & ((1 << LABEL_SHIFT) - 1)
    }
}

/// The packet's tunnel, if it has one.
#[inline(always)]
pub fn tunnel(ctx: &TcContext) -> Option<Tunnel> {
    // SAFETY: plain integers, for which zero is a value.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: the key outlives the call and its size is given. The helper refuses the other family.
    if unsafe { bpf_skb_get_tunnel_key(skb(ctx), &raw mut key, size, 0) } == 0 {
        // SAFETY: the helper filled the IPv4 side in.
        let end = Address::from_v4_be(unsafe { key.__bindgen_anon_1.remote_ipv4 }.to_be());
        return Some(Tunnel { end, vni: key.tunnel_id });
    }
    // SAFETY: as above.
    if unsafe { bpf_skb_get_tunnel_key(skb(ctx), &raw mut key, size, u64::from(BPF_F_TUNINFO_IPV6)) } == 0 {
        // SAFETY: the helper filled the IPv6 side in.
        let end = Address { words_be: unsafe { key.__bindgen_anon_1.remote_ipv6 } };
        return Some(Tunnel { end, vni: key.tunnel_id });
    }
    None
}

/// Over the uplink to a next hop on its link.
#[inline(always)]
pub fn to_neighbour(config: &Config, next_hop: &Address) -> Verdict {
    // SAFETY: plain integers, for which zero is a value.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    match next_hop.v4_be() {
        Some(v4_be) => {
            neighbour.nh_family = AF_INET;
            neighbour.__bindgen_anon_1.ipv4_nh = v4_be;
        }
        None => {
            neighbour.nh_family = AF_INET6;
            neighbour.__bindgen_anon_1.ipv6_nh = next_hop.words_be;
        }
    }
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the parameters outlive the call and their size is given.
    Verdict(unsafe { bpf_redirect_neigh(config.uplink_ifindex, &raw mut neighbour, size, 0) } as i32)
}

/// Whether a packet, or any segment that it will be cut into, is larger than the interface takes.
#[inline(always)]
pub fn exceeds(ctx: &TcContext, ifindex: u32, mtu: u32) -> bool {
    const CHECK_SEGMENTS: u64 = 1;
    if ctx.len() <= mtu + ETHERNET {
        return false;
    }
    // SAFETY: the context pointer is valid while the program runs.
    if unsafe { (*skb(ctx)).gso_size } == 0 {
        return true;
    }
    let mut mtu_len = 0;
    // SAFETY: the out parameter outlives the call.
    let result = unsafe { bpf_check_mtu(skb(ctx).cast(), ifindex, &raw mut mtu_len, 0, CHECK_SEGMENTS) };
    result != 0
}
