//! How often is probed: the more nodes there are, the less often each.

use std::time::Duration;

/// Probes a second that one node sends when all is well; it answers as many.
const MOST: f64 = 1000.0;
/// Between two probes while nothing is known yet, of few nodes.
const FIRST: Duration = Duration::from_millis(100);
/// Between two probes that tell what breaks.
pub(super) const USUAL: Duration = Duration::from_secs(1);
/// Of all others only one in so many is sent.
const RARE: u32 = 5;
/// Probes in each [`USUAL`] interval to one address of a node: one that matters, two that are rare.
const EACH: f64 = 1.0 + 2.0 / RARE as f64;

/// The time between two probes of the same kind to the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// While nothing is known.
    pub(super) first: Duration,
    /// For what tells that something breaks.
    pub(super) usual: Duration,
    /// For what seldom changes.
    pub(super) rare: Duration,
}

impl Pace {
    /// For so many addresses: the nodes, each as often as it has families.
    pub(super) fn of(addresses: usize) -> Pace {
        let slower = (addresses as f64 * EACH / MOST).max(1.0);
        let usual = USUAL.mul_f64(slower);
        Pace { first: FIRST.mul_f64(slower), usual, rare: usual * RARE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_nodes_are_probed_every_second_and_many_less_often() {
        assert_eq!(Pace::of(0), Pace::of(700));
        assert_eq!(Pace::of(700).usual, USUAL);
        let many = Pace::of(5000);
        assert_eq!(many.usual, USUAL * 7);
        assert_eq!(many.rare, USUAL * 35);
    }
}
