//! A Service that a socket of this node answers (cluster DNS): while there is one, nothing is translated.

use aya_ebpf::programs::TcContext;
use weft_abi::{Counter, FrontendKey, Step};

use super::{UDP, Verdict, Work, hook, jump, table};
use crate::{
    maps::{CONFIG, PODS},
    steps::{
        count,
        node_socket::{self, Sender},
        parse::skb,
    },
};

/// [`Step::Socket`].
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Verdict {
    let Some(work) = super::work() else { return Verdict::drop(Counter::MissingStep) };
    // Before anything is looked for: what is too much costs as little as can be.
    if work.hook == hook::POD_EGRESS && !may_ask(ctx, work) {
        return Verdict::drop(Counter::DnsRate);
    }
    let asked = FrontendKey {
        address: work.key.destination,
        port_be: work.key.destination_port_be,
        protocol: work.key.protocol,
        reserved: 0,
    };
    let sender = Sender { address: work.key.source, port_be: work.key.source_port_be };
    if node_socket::answers(skb(ctx).cast(), &sender, &asked) {
        count::packet(Counter::ToHost);
        return Verdict::NEXT;
    }
    work.no_socket = 1;
    jump(ctx, Step::Request)
}

/// Whether the Pod may ask once more: a token bucket, kept as the time at which it is full again. All Pods share the socket's
/// queue, so that what comes faster than it is answered would push the others' questions out of it. Of TCP, which waits by
/// itself, connections count.
#[inline(always)]
fn may_ask(ctx: &TcContext, work: &Work) -> bool {
    if work.key.protocol != UDP && !table::opens(work) {
        return true;
    }
    let Some(config) = CONFIG.get(0) else { return true };
    if config.dns_gap_ns == 0 {
        return true;
    }
    let Some(pod) = PODS.get_ptr_mut(&work.key.source) else { return true };
    // SAFETY: the word is aligned; a removed entry may be reused for another Pod meanwhile, which then may ask a little less.
    unsafe {
        let until_ns = &raw mut (*pod).asked_until_ns;
        let before_ns = until_ns.read_volatile();
        if before_ns > work.now_ns + config.dns_burst_ns {
            return false;
        }
        // A datagram that is segmented by the stack is as many questions.
        let cost_ns = config.dns_gap_ns * u64::from((*skb(ctx)).gso_segs).max(1);
        if before_ns < work.now_ns {
            // Two CPUs that come here at once count one question too few.
            until_ns.write_volatile(work.now_ns + cost_ns);
        } else {
            count::add_many(until_ns, cost_ns);
        }
    }
    true
}
