//! The first step: a packet whose flow is known is translated and sent on.

use aya_ebpf::programs::TcContext;
use weft_abi::{AffinityMember, Config, Counter, Flow, FlowKey, Frontend, FrontendKey, Route, Step};

use super::{
    TCP, UDP, Verdict, Work, addressed, hook, is_own, jump, label,
    send::{self, too_large},
    table::{self, RST},
    translate,
    transport::{self, Transport},
};
use crate::{
    maps::{AFFINITY_MEMBERS, CONFIG, FLOWS, FRONTENDS},
    sock::choose::backend_of,
    steps::{
        count,
        deliver::{forward_to_pod, local_pod, one_less, route, to_other_node},
        hops::Hops,
        ways::way,
    },
};

/// [`Step::Flow`].
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Verdict {
    let Some(work) = super::work() else { return Verdict::drop(Counter::MissingStep) };
    match transport::read(ctx, work) {
        Ok(Transport::Ports) => {}
        Ok(Transport::Error) => return jump(ctx, Step::Error),
        Ok(Transport::Neighbour) if work.hook == hook::UPLINK_INGRESS => return jump(ctx, Step::Neighbour),
        Ok(Transport::Neighbour | Transport::Discovery) if leaves_link(work) => {
            return Verdict::drop(Counter::BeyondLink);
        }
        Ok(_) => return without_flow(ctx, work),
        Err(verdict) => return verdict,
    }
    let Some(flow) = find(work) else { return without_flow(ctx, work) };
    if flow.is_forward() {
        let over = !is_usable(work, flow);
        if over {
            table::end(&work.entry, flow);
        }
        if table::opens(work) && flow.is_closing() || over && work.key.protocol != TCP {
            work.again = 1;
            // A client that uses its port again begins anew where it enters, and at its backend's node as well.
            let enters = work.hook == hook::ENTRY || flow.flags & Flow::ADDRESSED != 0;
            return jump(ctx, if enters { Step::Enter } else { Step::Request });
        }
        if table::is_displaced(work, flow) {
            return Verdict::drop(Counter::Late);
        }
        // An RST needs no answer and may end what is left at the other end.
        if over && work.tcp & RST == 0 {
            return jump(ctx, Step::Refuse);
        }
    }
    table::note(work, flow);
    label::note_answer(work, flow);
    work.flow = *flow;
    let (client, port_be) = (work.key.source, work.key.source_port_be);
    let Some(config) = CONFIG.get(0) else { return Verdict::drop(Counter::MissingStep) };
    let way = label::choose_path(config, work, &client, port_be, false);
    transport::remember_fragment(work);
    if let Some(mtu) = too_large(ctx, config, work) {
        work.mtu = mtu;
        return jump(ctx, Step::Refuse);
    }
    let hops = match hops_of_translated(config, work) {
        Ok(hops) => hops,
        Err(verdict) => return verdict,
    };
    if translate::packet(ctx, work, &hops).is_err() {
        return Verdict::drop(Counter::Untranslated);
    }
    send::on(ctx, config, work, way)
}

/// The hops of a packet of a flow once it is sent on. It loses one where these programs forward it: neither where the host's stack
/// sent it, nor where that takes it in. Without one left it goes to the stack as it is, which tells the sender; but to itself it
/// would deliver it.
#[inline(always)]
pub fn hops_of_translated(config: &Config, work: &Work) -> Result<Hops, Verdict> {
    let hops = work.hops();
    let from_stack = matches!(work.hook, hook::POD_INGRESS | hook::OVERLAY_EGRESS | hook::UPLINK_EGRESS);
    let to_stack = matches!(work.flow.way, Flow::CLIENT_NODE | Flow::CLIENT_STACK);
    if from_stack || to_stack || is_own(config, &work.flow.destination) {
        return Ok(hops);
    }
    if hops.are_spent() && is_own(config, &work.key.destination) {
        return Err(Verdict::drop(Counter::HopLimit));
    }
    one_less(&hops)
}

/// Whether neighbour discovery is about to leave the link of the Pod that sent it.
#[inline(always)]
fn leaves_link(work: &Work) -> bool {
    let destination = &work.key.destination;
    work.hook == hook::POD_EGRESS && (local_pod(destination).is_some() || route(destination).is_some())
}

/// The packet's flow. What came through an entry tunnel is an answer to what entered here, or entered at the tunnel's other end.
#[inline(always)]
fn find(work: &mut Work) -> Option<&'static mut Flow> {
    work.entry = work.key;
    if work.hook != hook::ENTRY {
        return lookup(&work.key);
    }
    // What has a label goes towards its backend.
    if work.label_be == 0
        && let Some(flow) = lookup(&work.key)
        && !flow.is_forward()
        && route(&work.key.source).is_some_and(|route| route.tunnel == work.tunnel)
    {
        return Some(flow);
    }
    work.entry = label::entered(work, &work.key)?;
    let flow = lookup(&work.entry)?;
    if label::is_of(flow, &work.key) {
        return Some(flow);
    }
    // The answers of the flow that had this label before are not this one's.
    table::forget(&work.entry, flow);
    None
}

/// A flow by its key.
#[inline(always)]
pub fn lookup(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: an entry that is removed and reused while it is written to belongs to a flow whose state is then read a little
    // off: it ends early or late.
    FLOWS.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Whether the flow's backend still is the one that it was given, and may have its packets.
#[inline(always)]
fn is_usable(work: &Work, flow: &Flow) -> bool {
    let udp = work.key.protocol == UDP;
    flow.backend == Flow::NO_BACKEND
        || backend_of(flow.backend, flow.generation, udp).is_some()
            && (!udp || !table::is_to_be_noted(work, flow) || is_its_services(work, flow))
}

/// Whether the Service that is asked for, which may be another one by now, still has the flow's backend. Looked up once a second, and
/// for datagrams alone: a connection stays with its Pod. What a socket of the node may answer is decided anew each time.
#[inline(always)]
fn is_its_services(work: &Work, flow: &Flow) -> bool {
    let asked = FrontendKey {
        address: work.key.destination,
        port_be: work.key.destination_port_be,
        protocol: work.key.protocol,
        reserved: 0,
    };
    // SAFETY: of an entry that is replaced while it is read, both are the Service's.
    let Some(frontend) = (unsafe { FRONTENDS.get(&asked) }) else { return false };
    let member = AffinityMember {
        service_port: frontend.service_port,
        backend: flow.backend,
        role: AffinityMember::STAYS,
    };
    // SAFETY: only whether there is an entry is asked.
    frontend.flags & Frontend::NODE_SOCKET == 0 && unsafe { AFFINITY_MEMBERS.get(&member) }.is_some()
}

/// What becomes of a packet that belongs to no flow.
#[inline(always)]
pub fn without_flow(ctx: &TcContext, work: &Work) -> Verdict {
    let destination = &work.key.destination;
    if label::is_unknown(work) {
        return Verdict::drop(Counter::UnknownLabel);
    }
    table::make_way(work);
    match work.hook {
        hook::POD_EGRESS => {
            if let Some(pod) = local_pod(destination) {
                count::packet(Counter::SameNode);
                return forward_to_pod(ctx, pod, &work.hops());
            }
            let Some(config) = CONFIG.get(0) else { return Verdict::drop(Counter::MissingStep) };
            if let Some(way) = way(config, destination)
                && way.path != Route::SERVICES
            {
                return to_other_node(ctx, config, way, &work.hops());
            }
            jump(ctx, Step::Request)
        }
        hook::TO_POD => match local_pod(destination) {
            Some(pod) => forward_to_pod(ctx, pod, &work.hops()),
            None => Verdict::NEXT,
        },
        hook::OVERLAY_EGRESS => match route(destination) {
            Some(route) if route.path == Route::SERVICES => jump(ctx, Step::Request),
            Some(route) => send::stack_to_tunnel(ctx, route),
            None => Verdict::drop(Counter::NoTunnel),
        },
        hook::OVERLAY_INGRESS | hook::UPLINK_INGRESS | hook::DIRECT => jump(ctx, Step::Request),
        hook::ENTRY => jump(ctx, Step::Enter),
        hook::POD_INGRESS if addressed::begins(ctx, work) => jump(ctx, Step::Enter),
        _ => Verdict::NEXT,
    }
}
