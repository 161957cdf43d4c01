//! Counting.

use core::arch::asm;

use weft_abi::Counter;

use crate::maps::COUNTERS;

/// Counts one packet (a GSO packet counts once).
#[inline(always)]
pub fn packet(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot belongs to this CPU, and programs of one CPU do not interrupt each other mid-increment in a
        // way that matters for a statistic.
        unsafe { *slot += 1 };
    }
}

/// Adds one to a word that other CPUs add to as well.
#[inline(always)]
pub fn add(counter: *mut u64) {
    add_many(counter, 1);
}

/// Adds to a word that other CPUs add to as well.
#[inline(always)]
pub fn add_many(counter: *mut u64, more: u64) {
    // The target's atomics lack what the instruction set has (no compare-and-swap, hence no `fetch_add` in `core`).
    // SAFETY: the pointer is to an aligned word of a map's value.
    unsafe { asm!("lock *(u64 *)({counter} + 0) += {more}", counter = in(reg) counter, more = in(reg) more) };
}

/// Takes one from a word that other CPUs change as well.
#[inline(always)]
pub fn subtract(counter: *mut u64) {
    // SAFETY: the pointer is to an aligned word of a map's value.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {less}", counter = in(reg) counter, less = in(reg) u64::MAX)
    };
}
