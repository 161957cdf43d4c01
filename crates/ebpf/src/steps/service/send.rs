//! Sending a translated packet on its way.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::{bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
};
use weft_abi::{
    Address, Backend, Config, Counter, DIRECT_VNI, ENTRY_VNI, Flow, GATEWAY_MAC, LABEL_SHIFT, NODE_MAC,
    OVERLAY_VNI, Path, Pod, Route,
};

use super::{ETHERNET, Verdict, Work, hook, is_own, mark_pod, mss, part};
use crate::{
    maps::BACKENDS,
    steps::{
        count,
        deliver::{
            exceeds, into_tunnel, local_pod, reach_pod, route, set_tunnel_key, through_device, to_neighbour,
        },
        ways::{Way, way},
    },
};

const SOURCE_MAC: usize = 6;
const IPV4_FRAGMENT: usize = ETHERNET + 6;
const DONT_FRAGMENT: u16 = 0x4000;

/// Sends the packet where its flow leads: to a backend on another node by its route, if that is known already.
#[inline(always)]
pub fn on(ctx: &TcContext, config: &Config, work: &Work, known: Option<&Way>) -> Verdict {
    let flow = &work.flow;
    if flow.flags & Flow::CLAMP != 0 {
        mss::clamp(ctx, config, work);
    }
    match flow.way {
        Flow::BACKEND_INSIDE => to_backend_inside(ctx, config, work),
        Flow::BACKEND_OUTSIDE => match known {
            Some(way) => to_node_of_backend(ctx, config, work, way),
            None => to_backend_outside(ctx, config, work),
        },
        Flow::BACKEND_DIRECT => match backend_way(config, flow) {
            Some(way) => to_entry(ctx, config, work, way, DIRECT_VNI),
            None => Verdict::drop(Counter::NoTunnel),
        },
        Flow::BACKEND_ENTERED => to_backend_here(ctx, config, work),
        Flow::CLIENT_LINK if work.hook == hook::UPLINK_EGRESS => Verdict::NEXT,
        Flow::CLIENT_LINK => by_link(flow.ifindex),
        Flow::CLIENT_NODE => to_node(ctx, config, work.hook),
        Flow::CLIENT_ENTRY => to_client_of_entry(ctx, config, work),
        Flow::CLIENT_STACK => {
            count::packet(Counter::ToHost);
            Verdict::NEXT
        }
        _ => to_client(ctx, config, work),
    }
}

/// The MTU of the packet's way, if the packet is too large for it and may not be cut into fragments.
#[inline(always)]
pub fn too_large(ctx: &TcContext, config: &Config, work: &Work) -> Option<u32> {
    let least = config.overlay_mtu.min(config.uplink_mtu);
    if ctx.len() <= least + ETHERNET as u32 || work.hook == hook::TO_POD || work.hook == hook::POD_INGRESS {
        return None;
    }
    let flow = &work.flow;
    let (ifindex, mtu) = match flow.way {
        Flow::CLIENT_ENTRY | Flow::BACKEND_DIRECT => (config.overlay_ifindex, config.overlay_mtu),
        Flow::CLIENT_LINK => (config.uplink_ifindex, config.uplink_mtu),
        Flow::CLIENT_NODE | Flow::CLIENT_STACK | Flow::BACKEND_ENTERED => return None,
        _ if local_pod(&flow.destination).is_some() => return None,
        way => match route(&flow.destination) {
            Some(route) if way != Flow::BACKEND_OUTSIDE && route.path == Path::Native as u32 => {
                (config.uplink_ifindex, config.uplink_mtu)
            }
            Some(_) => (config.overlay_ifindex, config.overlay_mtu),
            None => return None,
        },
    };
    if !exceeds(ctx, ifindex, mtu) {
        return None;
    }
    // The tunnel's own packets may be fragmented where the sender allows it for its packet.
    let may_fragment = work.ipv6 == 0
        && u16::from_be(ctx.load(IPV4_FRAGMENT).unwrap_or(0)) & DONT_FRAGMENT == 0
        && ifindex == config.overlay_ifindex;
    if may_fragment { None } else { Some(mtu) }
}

/// The way to the node of the flow's backend.
#[inline(always)]
fn backend_way(config: &Config, flow: &Flow) -> Option<&'static Way> {
    let backend: &Backend = BACKENDS.get(flow.backend)?;
    way(config, &backend.address)
}

#[inline(always)]
fn to_backend_inside(ctx: &TcContext, config: &Config, work: &Work) -> Verdict {
    let destination = &work.flow.destination;
    let from_stack = work.hook == hook::OVERLAY_EGRESS;
    if let Some(pod) = local_pod(destination) {
        if from_stack {
            mark(pod, destination);
        }
        return to_pod(ctx, pod, work.hook);
    }
    if is_own(config, destination) {
        return if from_stack { to_node(ctx, config, work.hook) } else { Verdict::NEXT };
    }
    match way(config, destination) {
        Some(way) if from_stack => stack_to_tunnel_or_link(ctx, config, way),
        Some(way) => to_other_node(ctx, config, way),
        // Outside of the cluster: the host's stack knows the way, and masquerades Pods.
        None if from_stack => by_link(config.uplink_ifindex),
        None => {
            count::packet(Counter::ToHost);
            Verdict::NEXT
        }
    }
}

#[inline(always)]
fn to_backend_outside(ctx: &TcContext, config: &Config, work: &Work) -> Verdict {
    let destination = &work.flow.destination;
    if let Some(pod) = local_pod(destination) {
        mark(pod, destination);
        return to_pod(ctx, pod, work.hook);
    }
    if is_own(config, destination) {
        return Verdict::NEXT;
    }
    match way(config, destination) {
        Some(way) => to_node_of_backend(ctx, config, work, way),
        None => by_link(config.uplink_ifindex),
    }
}

#[inline(always)]
fn to_node_of_backend(ctx: &TcContext, config: &Config, work: &Work, way: &Way) -> Verdict {
    if work.flow.flags & Flow::LABELLED != 0 && work.label_be == 0 {
        return to_entry_natively(ctx, config, work, way);
    }
    to_entry(ctx, config, work, way, ENTRY_VNI | work.label_be << LABEL_SHIFT)
}

#[inline(always)]
fn to_backend_here(ctx: &TcContext, config: &Config, work: &Work) -> Verdict {
    let destination = &work.flow.destination;
    match local_pod(destination) {
        Some(pod) => {
            mark(pod, destination);
            to_pod(ctx, pod, work.hook)
        }
        None if is_own(config, destination) => Verdict::NEXT,
        None => Verdict::drop(Counter::NoTunnel),
    }
}

#[inline(always)]
fn to_client(ctx: &TcContext, config: &Config, work: &Work) -> Verdict {
    if work.hook == hook::POD_INGRESS || work.hook == hook::UPLINK_EGRESS {
        return Verdict::NEXT;
    }
    let destination = &work.flow.destination;
    if let Some(pod) = local_pod(destination) {
        return to_pod(ctx, pod, work.hook);
    }
    match way(config, destination) {
        Some(way) if work.hook == hook::OVERLAY_EGRESS => stack_to_tunnel(ctx, way),
        Some(way) => to_other_node(ctx, config, way),
        None => by_link(config.uplink_ifindex),
    }
}

#[inline(always)]
fn mark(pod: &Pod, address: &Address) {
    if pod.flags & Pod::HAS_FLOWS == 0 {
        mark_pod(address);
    }
}

/// To a Pod of this node: from an ingress hook at once, from an egress hook by way of its host-side interface.
#[inline(always)]
fn to_pod(ctx: &TcContext, pod: &Pod, hook: u32) -> Verdict {
    match hook {
        hook::POD_INGRESS => Verdict::NEXT,
        hook::OVERLAY_EGRESS | hook::UPLINK_EGRESS => by_link(pod.ifindex),
        _ => reach_pod(ctx, pod),
    }
}

/// By what the host's routes and neighbours say for this interface.
#[inline(always)]
pub fn by_link(ifindex: u32) -> Verdict {
    // SAFETY: without parameters the helper reads none.
    Verdict(unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) } as i32)
}

/// To this node's own stack, as if it came by the overlay: that is where the host expects Service addresses to be.
#[inline(always)]
pub fn to_node(ctx: &TcContext, config: &Config, hook: u32) -> Verdict {
    if hook == hook::OVERLAY_INGRESS || hook == hook::ENTRY {
        return Verdict::NEXT;
    }
    if ctx.store(0, &GATEWAY_MAC, 0).is_err() {
        return Verdict::drop(Counter::Untranslated);
    }
    // SAFETY: a helper without pointers.
    Verdict(unsafe { bpf_redirect(config.overlay_ifindex, u64::from(BPF_F_INGRESS)) } as i32)
}

/// To another node by the path that its packets take.
#[inline(always)]
fn to_other_node(ctx: &TcContext, config: &Config, way: &Way) -> Verdict {
    if way.path == Route::SERVICES {
        return Verdict::drop(Counter::NoService);
    }
    if way.path == Path::Native as u32 {
        count::packet(Counter::ToNative);
        return to_neighbour(config, &way.next_hop);
    }
    count::packet(Counter::ToOverlay);
    into_tunnel(ctx, config, way, OVERLAY_VNI)
}

/// To the other node of a flow from outside, clamped to what the tunnel takes.
#[inline(always)]
fn to_entry(ctx: &TcContext, config: &Config, work: &Work, way: &Way, vni: u32) -> Verdict {
    mss::clamp(ctx, config, work);
    count::packet(Counter::ToEntry);
    into_tunnel(ctx, config, way, vni)
}

/// The same with the flow's label in the client's place.
#[inline(always)]
fn to_entry_natively(ctx: &TcContext, config: &Config, work: &Work, way: &Way) -> Verdict {
    mss::clamp(ctx, config, work);
    count::packet(Counter::ToNative);
    to_neighbour(config, &way.next_hop)
}

/// Back to the node that the flow entered by. Fragments are recognised by their addresses and number alone, and all of a packet's
/// take one way.
#[inline(always)]
fn to_client_of_entry(ctx: &TcContext, config: &Config, work: &Work) -> Verdict {
    let flow = &work.flow;
    if flow.flags & Flow::LABELLED != 0
        && work.part == part::WHOLE
        && let Some(way) = way(config, &flow.destination)
        && way.path == Path::Native as u32
    {
        return to_entry_natively(ctx, config, work, way);
    }
    if let Some(way) = way(config, &flow.tunnel) {
        return to_entry(ctx, config, work, way, ENTRY_VNI);
    }
    // The cluster does not know the node any more, and it may still be there.
    count::packet(Counter::ToEntry);
    through_device(ctx, config, &flow.tunnel, ENTRY_VNI)
}

/// What the host's stack sends into the overlay goes on there, with its tunnel.
#[inline(always)]
pub fn stack_to_tunnel(ctx: &TcContext, route: &Route) -> Verdict {
    let Some(config) = crate::maps::CONFIG.get(0) else { return Verdict::drop(Counter::TunnelKey) };
    if ctx.store(SOURCE_MAC, &NODE_MAC, 0).is_err()
        || set_tunnel_key(ctx, config, &route.tunnel, OVERLAY_VNI).is_err()
    {
        return Verdict::drop(Counter::TunnelKey);
    }
    Verdict::NEXT
}

/// What the host's stack sent to a Service takes the path of its backend's node.
#[inline(always)]
fn stack_to_tunnel_or_link(ctx: &TcContext, config: &Config, route: &Route) -> Verdict {
    if route.path == Path::Native as u32 {
        return to_neighbour(config, &route.next_hop);
    }
    stack_to_tunnel(ctx, route)
}
