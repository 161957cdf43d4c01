//! Who has what several want.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

/// Everybody's wishes. Of several who want the same, the first in their order has it: whatever the order of events.
#[derive(Clone, Debug)]
pub struct Claims<What, Who> {
    claimants: HashMap<What, Claimants<Who>>,
    contested: BTreeSet<What>,
}

/// Most of what is wanted is wanted once.
#[derive(Clone, Debug)]
enum Claimants<Who> {
    One(Who),
    Many(BTreeSet<Who>),
}

// === impl Claims ===

impl<What: Copy + Eq + Hash + Ord, Who: Clone + Ord> Claims<What, Who> {
    /// Wants it. Returns whoever had it and does not any more.
    pub fn add(&mut self, what: What, who: Who) -> Option<Who> {
        let Some(claimants) = self.claimants.get_mut(&what) else {
            self.claimants.insert(what, Claimants::One(who));
            return None;
        };
        let holder = claimants.first().cloned();
        if let Claimants::One(one) = claimants {
            if *one == who {
                return None;
            }
            *claimants = Claimants::Many(BTreeSet::from([one.clone()]));
        }
        if let Claimants::Many(all) = claimants {
            all.insert(who);
        }
        self.contested.insert(what);
        holder.filter(|holder| claimants.first() != Some(holder))
    }

    /// Wants it no longer. Returns who has it now instead.
    pub fn remove(&mut self, what: &What, who: &Who) -> Option<&Who> {
        let claimants = self.claimants.get_mut(what)?;
        let held = claimants.first() == Some(who);
        match claimants {
            Claimants::One(_) if held => drop(self.claimants.remove(what)),
            Claimants::One(_) => {}
            Claimants::Many(all) => {
                all.remove(who);
                if all.len() == 1
                    && let Some(last) = all.pop_first()
                {
                    *claimants = Claimants::One(last);
                    self.contested.remove(what);
                }
            }
        }
        self.holder(what).filter(|_| held)
    }

    /// Who has it.
    pub fn holder(&self, what: &What) -> Option<&Who> {
        self.claimants.get(what)?.first()
    }

    /// What is wanted by others than who has it: what, who else, and who has it.
    pub fn conflicts(&self) -> impl Iterator<Item = (&What, &Who, &Who)> {
        self.contested.iter().flat_map(|what| {
            let all = match self.claimants.get(what) {
                Some(Claimants::Many(all)) => Some(all),
                _ => None,
            };
            let holder = all.and_then(BTreeSet::first);
            let others = all.into_iter().flatten().skip(1);
            others.filter_map(move |other| Some((what, other, holder?)))
        })
    }
}

impl<What, Who> Default for Claims<What, Who> {
    fn default() -> Self {
        Self { claimants: HashMap::new(), contested: BTreeSet::new() }
    }
}

// === impl Claimants ===

impl<Who: Ord> Claimants<Who> {
    fn first(&self) -> Option<&Who> {
        match self {
            Self::One(one) => Some(one),
            Self::Many(all) => all.first(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against sets of all who want it.
        #[test]
        fn the_first_has_it(steps in proptest::collection::vec((any::<bool>(), 0..3_u8, 0..4_u8), 0..60)) {
            let (mut claims, mut wanted) = (Claims::default(), BTreeMap::<u8, BTreeSet<u8>>::new());
            for (wants, what, who) in steps {
                let all = wanted.entry(what).or_default();
                let before = all.first().copied();
                if wants {
                    all.insert(who);
                    let lost = before.filter(|before| Some(before) != all.first());
                    prop_assert_eq!(claims.add(what, who), lost);
                } else {
                    all.remove(&who);
                    let heir = all.first().filter(|_| before == Some(who));
                    prop_assert_eq!(claims.remove(&what, &who), heir);
                }
                prop_assert_eq!(claims.holder(&what), all.first());
                let conflicts: Vec<_> = claims.conflicts().map(|(what, other, holder)| (*what, *other, *holder)).collect();
                let expected: Vec<_> = (wanted.iter())
                    .flat_map(|(what, all)| all.iter().skip(1).map(|other| (*what, *other, *all.first().unwrap())))
                    .collect();
                prop_assert_eq!(conflicts, expected);
            }
        }
    }
}
