//! The ways to other nodes that this CPU has just looked up: a look-up goes from prefix to prefix, each in memory of its own, for every
//! packet, and most packets go where the one before went.

use core::{cell::Cell, ops::Deref};

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
pub struct Ways([Way; KEPT]);

// SAFETY: each CPU has its own, and programs of one CPU that see packets do not interrupt each other.
unsafe impl Sync for Ways {}

/// What was found for an address.
#[repr(C)]
pub struct Way {
    address: Address,
    /// [`Config::routes`] when it was looked up.
    routes: u32,
    /// The kernel's clock then.
    ticks: u32,
    /// Where frames of the other node's tunnels come from, once that was looked up: see [`super::link`].
    pub hardware: Cell<[u16; 3]>,
    /// Zero: there is no way.
    is_there: u16,
    /// By whom the end of those tunnels is reached, IPv4, once that was looked up: see there.
    pub gateway_be: Cell<u32>,
    route: Route,
}

/// The way to another node's address or Pod. For packets alone: what runs in a process may be interrupted by what uses this too.
#[inline(always)]
pub fn way(config: &Config, address: &Address) -> Option<&'static Way> {
    let ways = WAYS.get_ptr_mut(0)?;
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
        way.is_there = u16::from(found.is_some());
        if let Some(found) = found {
            way.route = *found;
        }
        (way.hardware, way.gateway_be) = (Cell::new([0; 3]), Cell::new(0));
        (way.address, way.routes, way.ticks) = (*address, routes, ticks);
    }
    if way.is_there == 0 { None } else { Some(way) }
}

// === impl Way ===

impl Deref for Way {
    type Target = Route;

    #[inline(always)]
    fn deref(&self) -> &Route {
        &self.route
    }
}
