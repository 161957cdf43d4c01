//! Whose hardware a frame comes from: on one link, a node's address can be written by anybody, and its hardware address by whom the
//! switch lets.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as FibLookup},
    helpers::{bpf_fib_lookup, bpf_ktime_get_coarse_ns},
    programs::TcContext,
};
use weft_abi::{Address, Config};

use super::{
    deliver::{AF_INET, AF_INET6},
    parse::skb,
};
use crate::maps::NEIGHBOURS;

/// Offset of the source address in the Ethernet header.
const SOURCE: usize = 6;
/// How long a result of a look-up is used.
const KEPT_NS: u64 = 1_000_000_000;
/// Neighbours that a CPU keeps, maximum; a power of two.
pub const NEIGHBOURS_KEPT: u32 = 64;

/// An address that may come from this hardware address, so far as was looked up: most packets come from few neighbours, and a look-up
/// costs as much as all else that is done with them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Neighbour {
    address: Address,
    /// Coarse monotonic nanoseconds.
    until_ns: u64,
    hardware: [u8; 6],
    reserved: [u8; 2],
}

/// Whether a frame in the name of this address has another source than the neighbour who has it. What is behind a router, or not
/// known as a neighbour now, may have any.
#[inline(always)]
pub fn is_anothers(ctx: &TcContext, config: &Config, own: &Address, named: &Address) -> bool {
    if config.flags & Config::ANY_HARDWARE != 0 {
        return false;
    }
    let Ok(from) = ctx.load::<[u8; 6]>(SOURCE) else { return false };
    // SAFETY: a helper without pointers.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    // The last byte of an address tells the nodes of a link apart.
    let place = u32::from_be(named.words_be[3]) % NEIGHBOURS_KEPT;
    // SAFETY: programs of one CPU do not interrupt each other.
    let Some(kept) = NEIGHBOURS.get_ptr_mut(place).map(|kept| unsafe { &mut *kept }) else { return false };
    if kept.address == *named && kept.hardware == from && now_ns < kept.until_ns {
        return false;
    }
    match look_up(ctx, config, own, named, &from) {
        Some(true) => true,
        Some(false) => {
            *kept =
                Neighbour { address: *named, until_ns: now_ns + KEPT_NS, hardware: from, reserved: [0; 2] };
            false
        }
        None => false,
    }
}

/// The same, as the kernel has it now; `None` if it does not know the neighbour.
#[inline(always)]
fn look_up(ctx: &TcContext, config: &Config, own: &Address, named: &Address, from: &[u8; 6]) -> Option<bool> {
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
            return None;
        }
        // The helper puts the router in the place of what is behind it.
        let is_neighbour = match named.v4_be() {
            Some(named_be) => found.__bindgen_anon_4.ipv4_dst == named_be,
            None => found.__bindgen_anon_4.ipv6_dst == named.words_be,
        };
        Some(is_neighbour && *from != found.dmac)
    }
}
