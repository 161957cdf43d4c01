//! How often one client may ask.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// Counts the questions of each client in the second that is now, for all threads together.
#[derive(Debug)]
pub struct Rate {
    /// By the hash of their addresses: the second, and how many. Two clients may share a place, and then the limit.
    places: Box<[AtomicU64]>,
    hasher: RandomState,
    start: Instant,
}

const PLACES: usize = 4096;

// === impl Rate ===

impl Rate {
    pub fn new() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, hasher: RandomState::new(), start: Instant::now() }
    }

    /// The second that it is now: the same for all threads. It wraps after a lifetime.
    pub fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.start).as_secs() as u32
    }

    /// The client asks in this second, in which it may `most` times; whether it may now.
    pub fn admit(&self, client: IpAddr, second: u32, most: u32) -> bool {
        let place = self.hasher.hash_one(client) as usize % PLACES;
        let Some(place) = self.places.get(place) else { return true };
        let first = u64::from(second) << 32;
        let before = place.load(Relaxed);
        if before >> 32 == u64::from(second) {
            return place.fetch_add(1, Relaxed) & 0xffff_ffff < u64::from(most);
        }
        // Whoever loses this race has counted one question too few.
        place.store(first | 1, Relaxed);
        most > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_ask_so_often_each_second() {
        let rate = Rate::new();
        let [one, other] = [1, 2].map(|last| IpAddr::from([10, 244, 0, last]));
        for second in [7, 8] {
            let admitted = (0..100).filter(|_| rate.admit(one, second, 10)).count();
            assert_eq!(admitted, 10);
        }
        assert!(rate.admit(other, 8, 10));
        assert!(!rate.admit(other, 8, 0));
    }
}
