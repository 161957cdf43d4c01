//! A Service that a socket of this node answers (cluster DNS): while there is one, nothing is translated.

use aya_ebpf::programs::TcContext;
use weft_abi::{Counter, FrontendKey, Step};

use super::{Verdict, jump};
use crate::steps::{
    count,
    node_socket::{self, Sender},
    parse::skb,
};

/// [`Step::Socket`].
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Verdict {
    let Some(work) = super::work() else { return Verdict::drop(Counter::MissingStep) };
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
