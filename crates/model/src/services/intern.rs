//! One copy of what stands in many objects.

use std::{collections::HashSet, hash::Hash, sync::Arc};

/// Values that are kept once. What nobody uses any more is dropped in time.
#[derive(Debug)]
pub(crate) struct Interned<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// Look for unused ones when there are so many.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 1024;

// === impl Interned ===

impl<T: ?Sized> Default for Interned<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), sweep_at: FIRST_SWEEP }
    }
}

impl<T: ?Sized + Hash + Eq> Interned<T> {
    /// The one copy of `value`. It is made here: what came from elsewhere goes whole, and leaves no holes in its memory.
    pub(crate) fn one(&mut self, value: &T) -> Arc<T>
    where
        for<'v> Arc<T>: From<&'v T>,
    {
        if let Some(known) = self.values.get(value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(FIRST_SWEEP);
        }
        let kept: Arc<T> = value.into();
        self.values.insert(Arc::clone(&kept));
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_become_one_and_unused_ones_go() {
        let mut strings = Interned::<str>::default();
        let first = strings.one("a");
        assert!(Arc::ptr_eq(&first, &strings.one("a")));
        for i in 0..10 * FIRST_SWEEP {
            strings.one(&i.to_string());
        }
        assert!(strings.values.len() <= 2 * FIRST_SWEEP);
        assert!(Arc::ptr_eq(&first, &strings.one("a")));
    }
}
