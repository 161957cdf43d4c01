//! The table of flows: what is seen of a flow, and what its client has in it.

use weft_abi::{Address, Flow, FlowKey, MAX_FLOWS_OF_CLIENT, MAX_FLOWS_OF_OUTSIDER, MAX_FLOWS_OUTSIDE, Side};

use super::{TCP, Work, flow::lookup};
use crate::{
    maps::{FLOW_SIDES, FLOWS, FLOWS_BEGUN, FLOWS_ENDED},
    steps::{
        count,
        deliver::{local_pod, route},
    },
};

pub const FIN: u32 = 1;
pub const SYN: u32 = 2;
pub const RST: u32 = 4;
pub const ACK: u32 = 16;

/// Writing it more often would only make CPUs wait for each other.
const REFRESH_NS: u64 = 1_000_000_000;

/// Whether the packet opens a connection.
#[inline(always)]
pub fn opens(work: &Work) -> bool {
    work.key.protocol == TCP && work.tcp & (SYN | ACK | RST) == SYN
}

/// Whether it is time to note that the flow is in use.
#[inline(always)]
pub fn is_to_be_noted(work: &Work, flow: &Flow) -> bool {
    work.now_ns.wrapping_sub(flow.last_ns) > REFRESH_NS
}

/// Notes what a packet says of its flow's state, here and, where it is news, in the other direction's entry.
#[inline(always)]
pub fn note(work: &Work, flow: &mut Flow) {
    if is_to_be_noted(work, flow) {
        flow.last_ns = work.now_ns;
    }
    let (mut here, mut there) = (0, 0);
    if work.key.protocol != TCP || work.tcp & SYN == 0 {
        here |= Flow::OPENED;
        there |= Flow::ANSWERED;
    }
    if work.tcp & FIN != 0 {
        here |= Flow::FIN;
        there |= Flow::PEER_FIN;
    }
    if work.tcp & RST != 0 {
        here |= Flow::RST;
        there |= Flow::RST;
    }
    if flow.seen & here == here {
        return;
    }
    flow.seen |= here;
    if let Some(other) = answers(&work.entry, &work.entry.pair(flow)) {
        other.seen |= there;
    }
}

/// Whether a connection has lost its answers to a later flow of the client's port, which it may do once it is over: what comes late
/// would be taken for that flow's at the backend, and on the way there.
#[inline(always)]
pub fn is_displaced(work: &Work, flow: &Flow) -> bool {
    work.key.protocol == TCP
        && flow.is_closing()
        && flow.way != Flow::BACKEND_DIRECT
        && !opens(work)
        && answers(&work.entry, &work.entry.pair(flow)).is_none()
}

/// Notes in both directions of a flow that its backend is gone, so that they are not kept for as long as what may go on.
#[inline(always)]
pub fn end(key: &FlowKey, flow: &mut Flow) {
    flow.seen |= Flow::RST;
    if let Some(answers) = answers(key, &key.pair(flow)) {
        answers.seen |= Flow::RST;
    }
}

/// Lets go of the answers of a flow that is over, whose client opens a connection to the backend itself, from the same port.
#[inline(always)]
pub fn make_way(work: &Work) {
    if !opens(work) {
        return;
    }
    let answers = work.key.turned();
    if lookup(&answers).is_some_and(|flow| !flow.is_forward() && flow.is_over()) {
        let _ = FLOWS.remove(&answers);
    }
}

/// The answers by this key, if they are those of the flow with the other; they may be another's meanwhile.
#[inline(always)]
fn answers(key: &FlowKey, pair: &FlowKey) -> Option<&'static mut Flow> {
    lookup(pair).filter(|answers| pair.pair(answers) == *key)
}

/// Removes both directions of a flow.
#[inline(always)]
pub fn forget(key: &FlowKey, flow: &Flow) {
    let (pair, client) = (key.pair(flow), flow.client(key));
    if answers(key, &pair).is_some() {
        let _ = FLOWS.remove(&pair);
    }
    let side = flow.side();
    if FLOWS.remove(key).is_err() {
        return;
    }
    if let Some(begun) = FLOWS_BEGUN.get_ptr_mut(&client) {
        count::subtract(begun);
    }
    if let Some(begun) = FLOW_SIDES.get_ptr_mut(side as u32) {
        count::subtract(begun);
    }
}

/// Whether a packet from outside goes on with, or begins after, the flow that has its answers: one that has moved here from a way
/// that no longer takes it in, or one that is over. Of this node's own two frontends neither goes on with the other's.
#[inline(always)]
pub fn takes_over(work: &Work, reply: &Flow) -> bool {
    let (by_entry, by_link) = (reply.way == Flow::CLIENT_ENTRY, reply.way == Flow::CLIENT_LINK);
    let moved = by_entry || by_link && work.reply.way == Flow::CLIENT_ENTRY;
    let goes_on = moved && work.key.protocol == TCP && work.tcp & SYN == 0;
    goes_on || (by_entry || by_link) && opens(work) && reply.is_over()
}

/// Whether a client may have another flow. What comes from outside, whose clients are as many as somebody wants there to be, leaves
/// room for what begins on this node.
#[inline(always)]
pub fn may_begin(client: &Address, side: Side) -> bool {
    if side as u32 == Side::Outside as u32 && in_table(side) >= i64::from(MAX_FLOWS_OUTSIDE) {
        return false;
    }
    // SAFETY: a counter that is read while it changes is off by one.
    let begun = unsafe { FLOWS_BEGUN.get(client) }.copied().unwrap_or(0);
    if begun < u64::from(MAX_FLOWS_OF_CLIENT) {
        return true;
    }
    let in_cluster = local_pod(client).is_some() || route(client).is_some();
    let most = if in_cluster { MAX_FLOWS_OF_CLIENT } else { MAX_FLOWS_OF_OUTSIDER };
    // SAFETY: as above.
    let ended = unsafe { FLOWS_ENDED.get(client) }.copied().unwrap_or(0);
    // A flow that both sides let go of at once is counted twice: less than none is none.
    (begun.wrapping_sub(ended) as i64) < i64::from(most)
}

/// Flows that began on a side and are still in the table.
#[inline(always)]
pub fn in_table(side: Side) -> i64 {
    let count = |index: u32| FLOW_SIDES.get(index).copied().unwrap_or(0);
    count(side as u32).wrapping_sub(count(Side::COUNT + side as u32)) as i64
}

/// Writes the flow at hand under this key. If it begins in the place of another flow, it is written over that one, because a new entry
/// would have to be allocated, and the old one freed.
#[inline(always)]
pub fn put(work: &Work, key: &FlowKey) -> Result<(), i32> {
    if work.again != 0
        && let Some(flow) = lookup(key)
    {
        *flow = work.flow;
        return Ok(());
    }
    FLOWS.insert(key, &work.flow, 0)
}

/// Counts a flow that has begun.
#[inline(always)]
pub fn count_begun(client: &Address, side: Side) {
    if let Some(begun) = FLOW_SIDES.get_ptr_mut(side as u32) {
        count::add(begun);
    }
    if let Some(begun) = FLOWS_BEGUN.get_ptr_mut(client) {
        count::add(begun);
        return;
    }
    // Where there is no room for another client, the flow table itself is what limits.
    let _ = FLOWS_BEGUN.insert(client, &1, 0);
}
