//! Who is who on the uplink's link. What was looked up is kept with the way to the other node, or to the Pod of it that the packet at
//! hand is from or for: a look-up costs as much as all else that is done with a packet.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as FibLookup},
    helpers::bpf_fib_lookup,
    programs::TcContext,
};
use weft_abi::{Address, Config};

use super::{
    deliver::{AF_INET, AF_INET6},
    parse::{self, skb},
    ways::Way,
};

/// Offset of the source address in the Ethernet header.
const SOURCE: usize = 6;
/// Stands for a gateway's address if no gateway is known as a neighbour now.
const NOBODY: u32 = u32::MAX;

/// A neighbour on the uplink's link.
struct Neighbour {
    address: Address,
    hardware: [u16; 3],
}

/// Where a frame comes from.
#[inline(always)]
pub fn source(ctx: &TcContext) -> Result<[u16; 3], i64> {
    parse::words(ctx, SOURCE)
}

/// Whether a frame in the name of a node's tunnel, which ends at `end`, has another source than the neighbour who has that address:
/// on one link, a node's address can be written by anybody, and its hardware address by whom the switch lets. What is behind a
/// router, or not known as a neighbour now, may have any.
#[inline(always)]
pub fn is_anothers(ctx: &TcContext, config: &Config, way: &Way, end: &Address, from: [u16; 3]) -> bool {
    // No neighbour has the address zero, which stands for one that was not looked up.
    if config.flags & Config::ANY_HARDWARE != 0 || way.hardware.get() == from && from != [0; 3] {
        return false;
    }
    let Some(neighbour) = towards(ctx, config, end) else { return false };
    if neighbour.address == *end && neighbour.hardware != from {
        return true;
    }
    way.hardware.set(from);
    false
}

/// The neighbour by whom the IPv4 end of the other node's tunnels is reached: itself or a router. `None` if another interface than the uplink leads there, or
/// that neighbour is not known now: then it is the stack's to find.
#[inline(always)]
pub fn gateway(ctx: &TcContext, config: &Config, way: &Way) -> Option<Address> {
    if way.gateway_be.get() == 0 {
        way.gateway_be
            .set(towards(ctx, config, &way.tunnel).map_or(NOBODY, |found| found.address.words_be[3]));
    }
    let gateway_be = way.gateway_be.get();
    if gateway_be == NOBODY { None } else { Some(Address::from_v4_be(gateway_be)) }
}

/// The neighbour by whom the node reaches this address, as the kernel has it now.
#[inline(always)]
fn towards(ctx: &TcContext, config: &Config, end: &Address) -> Option<Neighbour> {
    // SAFETY: plain integers, for which zero is a value.
    let mut found: FibLookup = unsafe { core::mem::zeroed() };
    found.ifindex = config.uplink_ifindex;
    match end.v4_be() {
        Some(end_be) => {
            found.family = AF_INET as u8;
            found.__bindgen_anon_3.ipv4_src = config.tunnel_v4.words_be[3];
            found.__bindgen_anon_4.ipv4_dst = end_be;
        }
        None => {
            found.family = AF_INET6 as u8;
            found.__bindgen_anon_3.ipv6_src = config.tunnel_v6.words_be;
            found.__bindgen_anon_4.ipv6_dst = end.words_be;
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
        let address = match end.v4_be() {
            Some(_) => Address::from_v4_be(found.__bindgen_anon_4.ipv4_dst),
            None => Address { words_be: found.__bindgen_anon_4.ipv6_dst },
        };
        let [a, b, c, d, e, f] = found.dmac;
        let hardware = [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])];
        Some(Neighbour { address, hardware })
    }
}
