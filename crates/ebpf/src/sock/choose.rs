//! Which backend a new connection is given.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use weft_abi::{
    Address, Affinity, AffinityKey, AffinityMember, Backend, Counter, ServicePort, Slots, backend_port,
};

use crate::{
    maps::{
        AFFINITIES, AFFINITY_MEMBERS, BACKEND_COUNTERS, BACKEND_PORTS, BACKENDS, SERVICE_COUNTERS, SLOTS,
    },
    steps::count,
};

const NANOSECONDS: u64 = 1_000_000_000;

/// A backend that was chosen.
pub struct Choice {
    /// Its index.
    pub index: u32,
    pub backend: &'static Backend,
}

/// The backend of this index, if it still is the one that had it then, and may go on being used (by datagrams only while it
/// answers).
#[inline(always)]
pub fn backend_of(index: u32, generation: u32, serving: bool) -> Option<&'static Backend> {
    let needed = if serving { Backend::LIVE | Backend::SERVING } else { Backend::LIVE };
    BACKENDS.get(index).filter(|backend| backend.generation == generation && backend.flags & needed == needed)
}

/// How a new connection is given a slot.
#[derive(Clone, Copy)]
pub enum Spread {
    /// Any, at random: connections from inside.
    Random,
    /// By this number, which is the same on every node: connections from outside.
    Hash(u32),
}

/// The backend that the client had before if there is affinity, else one of the slots. When the affinity's time is over the choice is
/// free: a hash of the client's address alone would name the same backend for ever.
#[inline(always)]
pub fn choose(
    index: u32,
    service_port: &ServicePort,
    slots: Slots,
    spread: Spread,
    client: &Address,
) -> Option<Choice> {
    if slots.count() == 0 {
        return None;
    }
    if service_port.affinity_seconds == 0 {
        return any(slots, spread);
    }
    same_as_before(index, service_port, slots, spread, client)
}

#[inline(always)]
fn any(slots: Slots, spread: Spread) -> Option<Choice> {
    // A slot that is being rewritten may name a backend that is just gone: the next one is another's.
    for attempt in 0..2 {
        let number = match spread {
            // SAFETY: a helper without pointers.
            Spread::Random => unsafe { bpf_get_prandom_u32() },
            Spread::Hash(hash) => hash.wrapping_add(attempt),
        };
        let index = *SLOTS.get(slots.first().wrapping_add(number % slots.count()))?;
        if let Some(backend) = BACKENDS.get(index)
            && backend.flags & Backend::LIVE != 0
        {
            return Some(Choice { index, backend });
        }
    }
    None
}

#[inline(always)]
fn same_as_before(
    index: u32,
    service_port: &ServicePort,
    slots: Slots,
    spread: Spread,
    client: &Address,
) -> Option<Choice> {
    // SAFETY: a helper without pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    let key = AffinityKey { client: *client, affinity: service_port.affinity, reserved: 0 };
    let mut spread = spread;
    if let Some(before) = AFFINITIES.get_ptr_mut(&key) {
        // SAFETY: entries of this map are not reused while a program holds them, and each field is one word.
        let Affinity { last_ns, backend, generation } = unsafe { *before };
        let in_time = now.wrapping_sub(last_ns) <= u64::from(service_port.affinity_seconds) * NANOSECONDS;
        let member = AffinityMember {
            service_port: index,
            backend,
            role: match spread {
                Spread::Random => AffinityMember::INSIDE,
                Spread::Hash(_) => AffinityMember::OUTSIDE,
            },
        };
        // SAFETY: only whether there is an entry is asked.
        let may = in_time && unsafe { AFFINITY_MEMBERS.get(&member) }.is_some();
        if let Some(found) = backend_of(backend, generation, false).filter(|_| may) {
            // SAFETY: as above.
            unsafe { (*before).last_ns = now };
            return Some(Choice { index: backend, backend: found });
        }
        if !in_time {
            spread = Spread::Random;
        }
    }
    let choice = any(slots, spread)?;
    let remembered = Affinity { last_ns: now, backend: choice.index, generation: choice.backend.generation };
    if AFFINITIES.insert(&key, &remembered, 0).is_err() {
        count::packet(Counter::AffinitiesFull);
    }
    Some(choice)
}

/// Counts a connection that was given a backend.
#[inline(always)]
pub fn count_connection(service_port: u32, backend: u32) {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(service_port) {
        // SAFETY: the element is never removed.
        count::add(unsafe { &raw mut (*counters).connections });
    }
    if let Some(counter) = BACKEND_COUNTERS.get_ptr_mut(backend) {
        count::add(counter);
    }
}

/// Counts a connection that found no backend.
#[inline(always)]
pub fn count_without_backend(service_port: u32) {
    if let Some(counters) = SERVICE_COUNTERS.get_ptr_mut(service_port) {
        // SAFETY: the element is never removed.
        count::add(unsafe { &raw mut (*counters).without_backend });
    }
}

/// Whether any backend has or had this port.
#[inline(always)]
pub fn may_be_backend(port_be: u16) -> bool {
    let (word, bit) = backend_port(u16::from_be(port_be));
    BACKEND_PORTS.get(word).is_some_and(|bits| *bits & bit != 0)
}
