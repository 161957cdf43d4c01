//! Whose hardware a frame comes from: on one link, a node's address can be written by anybody, and its hardware address by whom the
//! switch lets.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as FibLookup},
    helpers::bpf_fib_lookup,
    programs::TcContext,
};
use weft_abi::{Address, Config};

use super::{
    deliver::{AF_INET, AF_INET6},
    parse::skb,
};

/// Offset of the source address in the Ethernet header.
const SOURCE: usize = 6;

/// Whether a frame in the name of this address has another source than the neighbour who has it. What is behind a router, or not
/// known as a neighbour now, may have any.
#[inline(always)]
pub fn is_anothers(ctx: &TcContext, config: &Config, own: &Address, named: &Address) -> bool {
    if config.flags & Config::ANY_HARDWARE != 0 {
        return false;
    }
    // SAFETY: plain integers, for which zero is a value.
    let mut found: FibLookup = unsafe { core::mem::zeroed() };
    found.ifindex = config.uplink_ifindex;
    match named.v4_be() {
        Some(named_be) => {
            found.family = AF_INET as u8;
            found.__bindgen_anon_3.ipv4_src = own.words_be[3];
            found.__bindgen_anon_4.ipv4_dst = named_be;
        }
        None => {
            found.family = AF_INET6 as u8;
            found.__bindgen_anon_3.ipv6_src = own.words_be;
            found.__bindgen_anon_4.ipv6_dst = named.words_be;
        }
    }
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the parameters outlive the call and their size is given; what the helper filled in is read.
    unsafe {
        let result = bpf_fib_lookup(skb(ctx).cast(), &raw mut found, size, BPF_FIB_LOOKUP_OUTPUT);
        if result != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || found.ifindex != config.uplink_ifindex {
            return false;
        }
        // The helper puts the router in the place of what is behind it.
        let is_neighbour = match named.v4_be() {
            Some(named_be) => found.__bindgen_anon_4.ipv4_dst == named_be,
            None => found.__bindgen_anon_4.ipv6_dst == named.words_be,
        };
        is_neighbour && ctx.load::<[u8; 6]>(SOURCE).is_ok_and(|from| from != found.dmac)
    }
}
