//! Labels ([`Flow::LABELLED`]): what stands for the client between the node that a flow entered by and the node of its backend, so
//! that its packets need no tunnel.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use weft_abi::{Address, Config, Flow, FlowKey, Path, Route};

use super::{TCP, UDP, Work, flow::lookup, hook, is_here, part};
use crate::{
    maps::CONFIG,
    steps::{
        deliver::route,
        ways::{Way, way},
    },
};

/// The other node's entry is taken to be there for so long after an answer: shorter than any flow lives.
const KNOWN_NS: u64 = 3_000_000_000;
/// How exact that is; writing it more often would only make CPUs wait for each other.
const REFRESH_NS: u64 = 1_000_000_000;
const FIRST_PORT: u32 = 1024;

/// The address of the label, if a flow from outside is to have one by this way to its backend on another node.
#[inline(always)]
pub fn address(config: &Config, work: &Work, way: Option<&Route>) -> Option<Address> {
    if work.hook != hook::UPLINK_INGRESS || !matches!(work.key.protocol, TCP | UDP) {
        return None;
    }
    let own = if work.ipv6 == 0 { &config.label_v4 } else { &config.label_v6 };
    if own.words_be[3] == 0 || way?.path != Path::Native as u32 {
        return None;
    }
    Some(*own)
}

/// A port for a label whose first choice, the client's own, is another flow's.
#[inline(always)]
pub fn other_port() -> u16 {
    // SAFETY: a helper without pointers.
    ((FIRST_PORT + unsafe { bpf_get_prandom_u32() } % (65_536 - FIRST_PORT)) as u16).to_be()
}

/// The key of what came through an entry tunnel as `packet`: with its label, or, without one, with the node that sent it.
#[inline(always)]
pub fn entered(work: &Work, packet: &FlowKey) -> Option<FlowKey> {
    let mut key = *packet;
    if work.label_be == 0 {
        key.entry = FlowKey::entry_of(&work.tunnel);
        return Some(key);
    }
    key.source = route(&work.tunnel)?.label(work.ipv6 == 0)?;
    key.source_port_be = work.label_be as u16;
    Some(key)
}

/// Whether the flow that has the label is the packet's: labels are used again.
#[inline(always)]
pub fn is_of(flow: &Flow, packet: &FlowKey) -> bool {
    flow.is_forward()
        && flow.source == packet.source
        && (flow.source_port_be == packet.source_port_be || flow.flags & Flow::OTHER_PORT != 0)
}

/// Notes at the node that the flow entered by that an answer came: the other node knows the label.
#[inline(always)]
pub fn note_answer(work: &Work, answers: &mut Flow) {
    if answers.flags & Flow::LABELLED == 0
        || answers.way != Flow::CLIENT_LINK
        || work.now_ns.wrapping_sub(answers.answered_ns) < REFRESH_NS
    {
        return;
    }
    answers.answered_ns = work.now_ns;
    let pair = work.key.pair(answers);
    if let Some(requests) = lookup(&pair) {
        requests.answered_ns = work.now_ns;
    }
}

/// Puts the client back where its label was, and the label into the tunnel's identifier, unless the packet can go natively. `packet`
/// is as it came from the client. Returns the way to the backend's node, if it looked it up.
#[inline(always)]
pub fn choose_path(
    config: &Config,
    work: &mut Work,
    client: &Address,
    client_port_be: u16,
    is_error: bool,
) -> Option<&'static Way> {
    let flow = &mut work.flow;
    if flow.flags & Flow::LABELLED == 0 || flow.way != Flow::BACKEND_OUTSIDE {
        return None;
    }
    let known = flow.answered_ns != 0 && work.now_ns.wrapping_sub(flow.answered_ns) < KNOWN_NS;
    let way = way(config, &flow.destination);
    let native = way.is_some_and(|way| way.path == Path::Native as u32);
    if !(known && !is_error && work.part == part::WHOLE && native) {
        work.label_be = u32::from(flow.source_port_be);
        flow.source = *client;
        flow.source_port_be = client_port_be;
    }
    way
}

/// Whether a label stands in the place of a client of whom nothing is known here: as long as there is no answer, the node that the flow
/// entered by tells of it again before long. Whoever it is addressed to would refuse it.
#[inline(always)]
pub fn is_unknown(work: &Work) -> bool {
    if work.hook != hook::TO_POD && work.hook != hook::UPLINK_INGRESS {
        return false;
    }
    let source = &work.key.source;
    let is_label = route(source).is_some_and(|route| route.label(work.ipv6 == 0) == Some(*source));
    is_label && CONFIG.get(0).is_some_and(|config| is_here(config, &work.key.destination))
}
