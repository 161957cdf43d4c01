//! The ways to other nodes that this CPU has just looked up: a look-up goes from prefix to prefix, each in memory of its own, for every
//! packet, and most packets go where the one before went.

use aya_ebpf::helpers::bpf_jiffies64;
use weft_abi::{Address, Config, Route};

use super::deliver::route;
use crate::maps::WAYS;

/// Addresses that a CPU keeps the way to, maximum; a power of two.
const KEPT: usize = 128;
/// How long a way is used, maximum: ticks of the kernel's clock, as a power of two (a quarter of a second to two and a half). Changes of
/// the table are told by [`Config::routes`]; this is for the case that they are not.
const TICKS_LOG2: u64 = 8;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ways([Way; KEPT]);

/// What was found for an address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Way {
    address: Address,
    /// [`Config::routes`] when it was looked up.
    routes: u32,
    /// The kernel's clock then.
    ticks: u32,
    route: Route,
    /// Zero: there is no way.
    is_there: u64,
}

/// The way to another node's address or Pod. For packets alone: what runs in a process may be interrupted by what uses this too.
#[inline(always)]
pub fn way(config: &Config, address: &Address) -> Option<&'static Route> {
    let Some(ways) = WAYS.get_ptr_mut(0) else { return route(address) };
    // SAFETY: the pointer is to the map's value. Read before the table, so that what is found is at least as new.
    let routes = unsafe { (&raw const config.routes).read_volatile() };
    // SAFETY: a helper without pointers.
    let ticks = (unsafe { bpf_jiffies64() } >> TICKS_LOG2) as u32;
    let last = u32::from_be(address.words_be[3]);
    // Pods of a node differ in the last byte, nodes in the one before.
    let place = (last ^ last >> 8) as usize % KEPT;
    // SAFETY: programs of one CPU that see packets do not interrupt each other.
    let way = unsafe { &mut (*ways).0[place] };
    if way.routes != routes || way.ticks != ticks || way.address != *address {
        let found = route(address);
        way.is_there = u64::from(found.is_some());
        if let Some(found) = found {
            way.route = *found;
        }
        (way.address, way.routes, way.ticks) = (*address, routes, ticks);
    }
    if way.is_there == 0 { None } else { Some(&way.route) }
}
