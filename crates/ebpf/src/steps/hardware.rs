//! Whose hardware a frame comes from: on one link, a node's address can be written by anybody, and its hardware address by whom the
//! switch lets.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as FibLookup},
    helpers::{bpf_fib_lookup, bpf_jiffies64},
    programs::TcContext,
};
use weft_abi::{Address, Config};

use super::{
    deliver::{AF_INET, AF_INET6},
    parse::{self, skb},
};
use crate::maps::NEIGHBOURS;

/// Offset of the source address in the Ethernet header.
const SOURCE: usize = 6;
/// How long a result of a look-up is used, ticks of the kernel's clock, of which it has 100 to 1000 in a second. To ask what time it
/// is otherwise is a call.
const KEPT: u64 = 250;
/// Neighbours that a CPU keeps, maximum; a power of two.
pub const NEIGHBOURS_KEPT: u32 = 64;

/// An address that may come from this hardware address, so far as was looked up: most packets come from few neighbours, and a look-up
/// costs as much as all else that is done with them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Neighbour {
    address: Address,
    /// Ticks of the kernel's clock.
    until: u64,
    hardware: [u16; 3],
    reserved: u16,
}

/// Whether a frame in the name of this address has another source than the neighbour who has it. What is behind a router, or not
/// known as a neighbour now, may have any.
#[inline(always)]
pub fn is_anothers(ctx: &TcContext, config: &Config, own: &Address, named: &Address) -> bool {
    if config.flags & Config::ANY_HARDWARE != 0 {
        return false;
    }
    let Ok(from) = parse::words::<3>(ctx, SOURCE) else { return false };
    // SAFETY: a helper without pointers.
    let now = unsafe { bpf_jiffies64() };
    // The last byte of an address tells the nodes of a link apart.
    let place = u32::from_be(named.words_be[3]) % NEIGHBOURS_KEPT;
    // SAFETY: programs of one CPU do not interrupt each other.
    let Some(kept) = NEIGHBOURS.get_ptr_mut(place).map(|kept| unsafe { &mut *kept }) else { return false };
    if kept.address == *named && kept.hardware == from && now < kept.until {
        return false;
    }
    match look_up(ctx, config, own, named, from) {
        Some(true) => true,
        Some(false) => {
            *kept = Neighbour { address: *named, until: now + KEPT, hardware: from, reserved: 0 };
            false
        }
        None => false,
    }
}

/// The same, as the kernel has it now; `None` if it does not know the neighbour.
#[inline(always)]
fn look_up(ctx: &TcContext, config: &Config, own: &Address, named: &Address, from: [u16; 3]) -> Option<bool> {
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
        let [a, b, c, d, e, f] = found.dmac;
        let words = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])];
        Some(is_neighbour && from != words)
    }
}
