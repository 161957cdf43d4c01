//! What entered the cluster by another node, at the node of its backend: answers must go back the way it came. And what a host outside
//! sends to a Pod's own address ([`addressed`]), if the Pod may be a backend: the host may ask a Service of it from the same port, and
//! an answer tells the two apart by nothing else.

use aya_ebpf::{bindings::BPF_NOEXIST, programs::TcContext};
use weft_abi::{Address, Counter, Flow, Side, Step, port_by_another_node};

use super::{
    TCP, Verdict, Work,
    flow::lookup,
    hook, is_here, is_own, jump, part,
    request::{at_backend, other_port},
    table::{self, SYN},
};
use crate::{
    maps::{CONFIG, FLOWS},
    steps::deliver::route,
};

/// Tries to find a source port that the client's other flows do not have.
const TRIES: u32 = 6;

/// [`Step::Enter`].
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Verdict {
    let Some(work) = super::work() else { return Verdict::drop(Counter::MissingStep) };
    let Some(config) = CONFIG.get(0) else { return Verdict::drop(Counter::MissingStep) };
    if !is_here(config, &work.key.destination) {
        return Verdict::drop(Counter::TunnelSource);
    }
    if work.part == part::LATER {
        return Verdict::drop(Counter::Fragment);
    }
    if work.key.source_port_be == 0 && work.key.destination_port_be == 0 {
        return Verdict::drop(Counter::Protocol);
    }
    // Labelled by a node whose labels are not known.
    if work.label_be != 0 && work.entry.source == work.key.source {
        return Verdict::drop(Counter::TunnelSource);
    }
    if work.again == 0 && !table::may_begin(&work.key.source, Side::Outside) {
        return without_room(work);
    }
    let client = &work.key.source;
    let in_cluster = is_here(config, client) || route(client).is_some();
    let other = in_cluster || is_own(config, &work.key.destination);
    for attempt in 0..TRIES {
        let port_be = match attempt {
            0 if other => at_backend(&work.key, port_by_another_node),
            0 => work.key.source_port_be,
            _ => other_port(),
        };
        entries(work, port_be);
        let exists = match FLOWS.insert(&work.other, &work.reply, u64::from(BPF_NOEXIST)) {
            Ok(()) => false,
            Err(error) if error == -EEXIST => true,
            Err(_) => return without_room(work),
        };
        if exists && !replaces(work) {
            continue;
        }
        if table::put(work, &work.entry).is_err() {
            let _ = FLOWS.remove(&work.other);
            return without_room(work);
        }
        if work.again == 0 {
            table::count_begun(&work.key.source, Side::Outside);
        }
        return jump(ctx, Step::Flow);
    }
    Verdict::drop(Counter::FlowsFull)
}

/// What becomes of a packet whose flow finds no room in the table: what the host's stack brings needs none.
#[inline(always)]
fn without_room(work: &Work) -> Verdict {
    if work.hook == hook::ENTRY { Verdict::drop(Counter::FlowsFull) } else { Verdict::NEXT }
}

/// Writes over the other direction, which is there already, if it is this flow's: one that came by this node before, that ends, or
/// that has moved here from a node that no longer takes it in. A flow that did not enter as a Service's takes the place of one that is over.
#[inline(always)]
fn replaces(work: &Work) -> bool {
    let Some(reply) = lookup(&work.other) else {
        // Gone in between.
        return FLOWS.insert(&work.other, &work.reply, 0).is_ok();
    };
    let same = reply.way == work.reply.way
        && reply.tunnel == work.reply.tunnel
        && reply.destination == work.reply.destination
        && reply.destination_port_be == work.reply.destination_port_be;
    let gives_way = if work.hook == hook::ENTRY { table::takes_over(work, reply) } else { reply.is_over() };
    if !same && !gives_way {
        return false;
    }
    *reply = work.reply;
    true
}

#[inline(always)]
fn entries(work: &mut Work, port_be: u16) {
    let key = &work.key;
    let labelled = if work.label_be != 0 { Flow::LABELLED } else { 0 };
    let (addressed, way, tunnel) = if work.hook == hook::ENTRY {
        (0, Flow::CLIENT_ENTRY, work.tunnel)
    } else {
        (Flow::ADDRESSED, Flow::CLIENT_STACK, Address { words_be: [0; 4] })
    };
    let seen = if key.protocol != TCP || work.tcp & SYN == 0 { Flow::OPENED } else { 0 };
    work.flow = Flow {
        last_ns: work.now_ns,
        source: key.source,
        destination: key.destination,
        tunnel: Address { words_be: [0; 4] },
        source_port_be: port_be,
        destination_port_be: key.destination_port_be,
        backend: Flow::NO_BACKEND,
        generation: 0,
        ifindex: 0,
        pair_entry: 0,
        way: Flow::BACKEND_ENTERED,
        seen,
        flags: labelled | addressed | if port_be == key.source_port_be { 0 } else { Flow::OTHER_PORT },
        answered_ns: 0,
    };
    work.other = key.pair(&work.flow);
    work.reply = Flow {
        last_ns: work.now_ns,
        source: key.destination,
        destination: work.entry.source,
        tunnel,
        source_port_be: key.destination_port_be,
        destination_port_be: work.entry.source_port_be,
        backend: Flow::NO_BACKEND,
        generation: 0,
        ifindex: 0,
        pair_entry: work.entry.entry,
        way,
        seen: if seen != 0 { Flow::ANSWERED } else { 0 },
        flags: labelled,
        answered_ns: 0,
    };
}

const EEXIST: i32 = 17;
