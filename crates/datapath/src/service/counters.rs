//! What is counted by index begins at zero for whoever is given the index next.

use crate::table::{BpfTableError, array::ArrayStore};

/// Counters, one an index.
pub(super) struct Counters<C> {
    store: Box<dyn ArrayStore<C> + Send>,
    /// Indexes that were given out again, and still have what was counted before.
    stale: Vec<u32>,
}

impl<C: Default> Counters<C> {
    pub(super) fn new(store: Box<dyn ArrayStore<C> + Send>) -> Counters<C> {
        Counters { store, stale: Vec::new() }
    }

    /// The index is somebody else's from now on.
    pub(super) fn begin(&mut self, index: u32) {
        self.stale.push(index);
    }

    /// Writes the zeros; what fails is tried again the next time.
    pub(super) fn flush(&mut self) -> Result<(), BpfTableError> {
        while let Some(index) = self.stale.last() {
            self.store.write(*index, &C::default())?;
            self.stale.pop();
        }
        Ok(())
    }
}
