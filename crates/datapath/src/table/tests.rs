use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Store, Table, Written};

/// A kernel table in memory that counts writes and can refuse keys.
#[derive(Debug, Default)]
struct Memory {
    entries: BTreeMap<u8, u8>,
    writes: usize,
    refuse: Option<u8>,
}

impl Store<u8, u8> for &mut Memory {
    type Error = u8;

    fn upsert(&mut self, key: &u8, value: &u8) -> Result<(), u8> {
        if self.refuse == Some(*key) {
            return Err(*key);
        }
        self.writes += 1;
        self.entries.insert(*key, *value);
        Ok(())
    }

    fn remove(&mut self, key: &u8) -> Result<(), u8> {
        if self.refuse == Some(*key) {
            return Err(*key);
        }
        self.writes += 1;
        self.entries.remove(key);
        Ok(())
    }

    fn dump(&mut self) -> Result<Vec<(u8, u8)>, u8> {
        Ok(self.entries.iter().map(|(key, value)| (*key, *value)).collect())
    }
}

fn entries() -> impl Strategy<Value = BTreeMap<u8, u8>> {
    proptest::collection::btree_map(0_u8..24, 0_u8..4, 0..24)
}

fn differing(one: &BTreeMap<u8, u8>, other: &BTreeMap<u8, u8>) -> usize {
    (0..=u8::MAX).filter(|key| one.get(key) != other.get(key)).count()
}

proptest! {
    #[test]
    fn resync_from_any_kernel_state_ends_at_the_desired_state_with_the_fewest_writes(
        before in entries(), meddled in entries(), desired in entries(),
    ) {
        let mut memory = Memory { entries: before, ..Memory::default() };
        let mut table = Table::adopt(&mut memory).unwrap();
        table.replace(|_, _| true, desired.clone());
        table.flush().unwrap();
        // Somebody else writes to the kernel's table.
        table.store.entries.clone_from(&meddled);
        table.store.writes = 0;
        let written = table.resync().unwrap();
        prop_assert_eq!(written.total(), differing(&meddled, &desired));
        prop_assert_eq!(table.store.writes, written.total());
        prop_assert_eq!(&table.store.entries, &desired);
        prop_assert_eq!(table.resync().unwrap(), Written::default());
    }

    #[test]
    fn any_sequence_of_wishes_equals_the_last_one(steps in proptest::collection::vec(
        (0_u8..24, proptest::option::of(0_u8..4), any::<bool>()), 0..64,
    )) {
        let mut memory = Memory::default();
        let mut table = Table::adopt(&mut memory).unwrap();
        let mut reference = BTreeMap::new();
        for (key, value, flush) in steps {
            match value {
                Some(value) => {
                    table.set(key, value);
                    reference.insert(key, value);
                }
                None => {
                    table.unset(&key);
                    reference.remove(&key);
                }
            }
            if flush {
                table.flush().unwrap();
                prop_assert_eq!(&table.store.entries, &reference);
            }
        }
        table.flush().unwrap();
        prop_assert_eq!(&table.store.entries, &reference);
    }

    #[test]
    fn an_entry_that_is_refused_stays_pending_and_holds_up_no_other(desired in entries(), refused in 0_u8..24) {
        let mut memory = Memory { refuse: Some(refused), ..Memory::default() };
        let mut table = Table::adopt(&mut memory).unwrap();
        table.replace(|_, _| true, desired.clone());
        prop_assert_eq!(table.flush().is_err(), desired.contains_key(&refused));
        let mut others = desired.clone();
        others.remove(&refused);
        prop_assert_eq!(&table.store.entries, &others);
        table.store.refuse = None;
        table.flush().unwrap();
        prop_assert_eq!(&table.store.entries, &desired);
    }
}

#[test]
fn nothing_is_written_when_nothing_changes() {
    let mut memory = Memory { entries: BTreeMap::from([(1, 1), (2, 2)]), ..Memory::default() };
    let mut table = Table::adopt(&mut memory).unwrap();
    table.replace(|_, _| true, BTreeMap::from([(1, 1), (2, 2)]));
    assert_eq!(table.flush(), Ok(Written::default()));
    assert_eq!(table.store.writes, 0);
}

#[test]
fn a_scope_leaves_the_rest_alone() {
    let mut memory = Memory { entries: BTreeMap::from([(1, 1), (2, 2), (3, 3)]), ..Memory::default() };
    let mut table = Table::adopt(&mut memory).unwrap();
    table.replace(|key, _| *key < 3, BTreeMap::from([(1, 9)]));
    table.flush().unwrap();
    assert_eq!(table.store.entries, BTreeMap::from([(1, 9), (3, 3)]));
}
