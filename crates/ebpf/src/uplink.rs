//! What arrives on the uplink.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weft_abi::Counter;

use crate::steps::{
    Verdict,
    deliver::{local_pod, to_local_pod},
    parse::{self, Packet},
};

/// Natively routed packets for the Pods of this node skip the host's stack; everything else is the node's own.
#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    match parse::packet(&ctx) {
        Packet::Ip { destination, .. } => match local_pod(&destination) {
            Some(pod) => to_local_pod(pod, Counter::FromNative),
            None => Verdict::NEXT,
        },
        Packet::Arp { .. } | Packet::Malformed | Packet::Other => Verdict::NEXT,
    }
    .0
}
