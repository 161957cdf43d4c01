//! Counting.

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
