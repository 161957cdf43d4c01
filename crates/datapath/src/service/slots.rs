//! Which slots are whose.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// What was given back rests for so long before it is given out again: a program that read the old place of a list just before it
/// was moved must not find another Service's backends there.
pub(super) const REST: Duration = Duration::from_secs(1);

/// A run of slots: 2^`class` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the first slot; a multiple of the run's length.
    pub(super) first: u32,
    /// Binary logarithm of the run's length.
    pub(super) class: u8,
}

/// Free runs by class: a buddy allocator.
#[derive(Debug)]
pub(super) struct SlotRuns {
    free: Vec<BTreeSet<u32>>,
    resting: VecDeque<(Instant, Place)>,
}

/// The smallest class with room for so many slots.
pub(super) fn class_of(count: u32) -> u8 {
    count.next_power_of_two().trailing_zeros() as u8
}

impl SlotRuns {
    /// `total` slots, a power of two, all free.
    pub(super) fn new(total: u32) -> SlotRuns {
        let top = class_of(total);
        let mut free = vec![BTreeSet::new(); usize::from(top) + 1];
        if let Some(whole) = free.last_mut() {
            whole.insert(0);
        }
        SlotRuns { free, resting: VecDeque::new() }
    }

    /// Takes this very run, if it is free.
    pub(super) fn reserve(&mut self, wanted: Place) -> bool {
        for class in wanted.class..self.free.len() as u8 {
            let first = wanted.first & !((1_u32 << class) - 1);
            if self.take_exactly(Place { first, class }) {
                self.split(Place { first, class }, wanted);
                return true;
            }
        }
        false
    }

    /// Takes a run of a class, the first that there is.
    pub(super) fn allocate(&mut self, class: u8, now: Instant) -> Option<Place> {
        self.wake(now);
        let found = (class..self.free.len() as u8)
            .find_map(|class| Some(Place { first: *self.free.get(usize::from(class))?.first()?, class }))?;
        self.take_exactly(found);
        let wanted = Place { first: found.first, class };
        self.split(found, wanted);
        Some(wanted)
    }

    /// Gives a run back, after a rest.
    pub(super) fn release(&mut self, place: Place, now: Instant) {
        self.resting.push_back((now, place));
    }

    fn wake(&mut self, now: Instant) {
        while let Some((since, place)) = self.resting.front().copied()
            && now.saturating_duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.merge(place);
        }
    }

    fn take_exactly(&mut self, place: Place) -> bool {
        self.free.get_mut(usize::from(place.class)).is_some_and(|free| free.remove(&place.first))
    }

    /// Frees what of `whole` is not `wanted`.
    fn split(&mut self, whole: Place, wanted: Place) {
        let mut first = whole.first;
        for class in (wanted.class..whole.class).rev() {
            let (lower, upper) = (first, first + (1 << class));
            let (kept, freed) = if wanted.first >= upper { (upper, lower) } else { (lower, upper) };
            if let Some(free) = self.free.get_mut(usize::from(class)) {
                free.insert(freed);
            }
            first = kept;
        }
    }

    fn merge(&mut self, mut place: Place) {
        while usize::from(place.class) + 1 < self.free.len() {
            let buddy = place.first ^ (1 << place.class);
            if !self.take_exactly(Place { first: buddy, class: place.class }) {
                break;
            }
            place = Place { first: place.first & buddy, class: place.class + 1 };
        }
        if let Some(free) = self.free.get_mut(usize::from(place.class)) {
            free.insert(place.first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_never_overlap_and_everything_comes_back(
            steps in proptest::collection::vec((any::<bool>(), 0_u8..5, any::<u16>()), 0..200),
        ) {
            let start = Instant::now();
            let mut runs = SlotRuns::new(64);
            let mut held: Vec<Place> = Vec::new();
            for (number, (take, class, which)) in steps.into_iter().enumerate() {
                let now = start + REST * number as u32;
                if take || held.is_empty() {
                    if let Some(place) = runs.allocate(class, now) {
                        prop_assert_eq!(place.first % (1 << class), 0);
                        held.push(place);
                    } else {
                        // What is free or resting has no room of that size in one piece.
                        let used: u32 = held.iter().map(|place| 1 << place.class).sum();
                        prop_assert!(used > 0);
                    }
                } else {
                    let place = held.swap_remove(usize::from(which) % held.len());
                    runs.release(place, now);
                }
                let mut covered = BTreeMap::new();
                for place in &held {
                    for slot in place.first..place.first + (1 << place.class) {
                        prop_assert!(covered.insert(slot, place.class).is_none());
                    }
                }
            }
            let end = start + REST * 1000;
            held.drain(..).for_each(|place| runs.release(place, end));
            prop_assert_eq!(runs.allocate(6, end + REST).map(|place| place.first), Some(0));
        }
    }

    #[test]
    fn a_run_rests_before_it_is_another_s() {
        let start = Instant::now();
        let mut runs = SlotRuns::new(2);
        let place = runs.allocate(1, start).unwrap();
        runs.release(place, start);
        assert_eq!(runs.allocate(0, start), None);
        assert_eq!(runs.allocate(1, start + REST), Some(place));
    }

    #[test]
    fn a_run_that_is_known_is_reserved_once() {
        let mut runs = SlotRuns::new(64);
        let place = Place { first: 24, class: 3 };
        assert!(runs.reserve(place));
        assert!(!runs.reserve(place));
        assert!(!runs.reserve(Place { first: 16, class: 4 }));
        assert!(runs.reserve(Place { first: 16, class: 3 }));
    }
}
