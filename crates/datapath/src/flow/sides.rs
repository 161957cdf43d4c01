//! How many flows of each side are in the table.
//!
//! The programs count those that begin, this side those that it removes, and what is left is the difference. Now and then a flow is
//! removed by both at once, so each walk through the whole table sets the difference right.

use aya::maps::{Array, Map, MapData, MapError};
use weft_abi::{Side, maps};

use crate::{load::Programs, service::ServiceError, table::BpfTableError};

const SIDES: [Side; Side::COUNT as usize] = [Side::Inside, Side::Outside];

pub(super) struct Sides {
    map: Array<MapData, u64>,
    counts: [Count; Side::COUNT as usize],
}

#[derive(Clone, Copy, Default)]
struct Count {
    /// Flows that had begun when the walk did.
    begun: u64,
    /// Flows that the walk has seen.
    seen: u64,
    /// Flows that were removed since this was written last.
    ended: u64,
}

impl Sides {
    pub(super) fn open(programs: &Programs) -> Result<Sides, ServiceError> {
        let map = Array::try_from(Map::Array(programs.map(maps::FLOW_SIDES)?)).map_err(at)?;
        Ok(Sides { map, counts: Default::default() })
    }

    /// Flows of a side in the table.
    pub(super) fn in_table(&self, side: Side) -> Result<u64, BpfTableError> {
        let left = self.begun(side)?.wrapping_sub(self.ended(side)?);
        // Less than none is none.
        Ok(u64::try_from(left as i64).unwrap_or(0))
    }

    /// A walk through the table begins.
    pub(super) fn begin(&mut self) -> Result<(), BpfTableError> {
        for side in SIDES {
            let begun = self.begun(side)?;
            let count = self.count(side);
            (count.begun, count.seen) = (begun, 0);
        }
        Ok(())
    }

    /// A flow in the table.
    pub(super) fn see(&mut self, side: Side) {
        self.count(side).seen += 1;
    }

    /// A flow that is about to be removed.
    pub(super) fn end(&mut self, side: Side) {
        self.count(side).ended += 1;
    }

    /// Tells the programs what has ended. When a walk is over, as many are left as it saw and has not removed, and at most those
    /// that have begun since.
    pub(super) fn write(&mut self, walk_is_over: bool) -> Result<(), BpfTableError> {
        for side in SIDES {
            let (begun, before) = (self.begun(side)?, self.ended(side)?);
            let count = self.count(side);
            let ended = before.wrapping_add(std::mem::take(&mut count.ended));
            count.seen = count.seen.saturating_sub(ended.wrapping_sub(before));
            let least = count.seen;
            let most = least + begun.wrapping_sub(count.begun);
            let ended = if walk_is_over { right(begun, ended, least, most) } else { ended };
            if ended != before {
                self.map.set(Side::COUNT + side as u32, ended, 0).map_err(at)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, side: Side) -> &mut Count {
        let [inside, outside] = &mut self.counts;
        match side {
            Side::Inside => inside,
            Side::Outside => outside,
        }
    }

    fn begun(&self, side: Side) -> Result<u64, BpfTableError> {
        self.map.get(&(side as u32), 0).map_err(at)
    }

    fn ended(&self, side: Side) -> Result<u64, BpfTableError> {
        self.map.get(&(Side::COUNT + side as u32), 0).map_err(at)
    }
}

/// How many must have ended, so that between `least` and `most` are left.
fn right(begun: u64, ended: u64, least: u64, most: u64) -> u64 {
    let left = begun.wrapping_sub(ended) as i64;
    let bound = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    begun.wrapping_sub(left.clamp(bound(least), bound(most)) as u64)
}

fn at(source: MapError) -> BpfTableError {
    BpfTableError::Map { map: maps::FLOW_SIDES, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_set_right_within_what_a_walk_saw() {
        assert_eq!(right(100, 40, 60, 60), 40, "it is right");
        assert_eq!(right(100, 40, 50, 70), 40, "it may be right");
        assert_eq!(right(100, 40, 10, 20), 80, "more have ended than was counted");
        assert_eq!(right(100, 90, 30, 40), 70, "fewer have ended than was counted");
        assert_eq!(right(5, 9, 0, 0), 5, "more have ended than have begun");
    }
}
