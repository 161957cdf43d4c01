//! Whose a frontend is where several Service ports want the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weft_abi::{Address, FrontendKey};
use weft_model::services::ServicePortKey;

/// Who has which frontend. Of several, the first by name has it: the same on every node and whatever the order of events.
#[derive(Default)]
pub(super) struct Claims {
    owners: HashMap<FrontendKey, ServicePortKey>,
    /// Who else wants it.
    others: BTreeMap<FrontendKey, BTreeSet<ServicePortKey>>,
    /// The frontends at each address that is a Service's own.
    addresses: BTreeMap<Address, BTreeSet<FrontendKey>>,
}

impl Claims {
    /// Wants a frontend; says whether it is the claimant's now.
    pub(super) fn claim(&mut self, frontend: FrontendKey, who: &ServicePortKey) -> bool {
        match self.owners.get_mut(&frontend) {
            None => drop(self.owners.insert(frontend, who.clone())),
            Some(owner) if owner == who => {}
            Some(owner) if &*owner < who => {
                self.others.entry(frontend).or_default().insert(who.clone());
                return false;
            }
            Some(owner) => {
                let old = std::mem::replace(owner, who.clone());
                self.others.entry(frontend).or_default().insert(old);
            }
        }
        true
    }

    /// Who wants a frontend that is another's: who, which, and whose it is.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = (&ServicePortKey, &FrontendKey, &ServicePortKey)> {
        self.others.iter().flat_map(|(frontend, others)| {
            let owner = self.owners.get(frontend);
            others.iter().filter_map(move |other| Some((other, frontend, owner?)))
        })
    }

    /// Wants it no longer. Returns who has it now, if that is somebody else than before.
    pub(super) fn release(&mut self, frontend: &FrontendKey, who: &ServicePortKey) -> Option<ServicePortKey> {
        if let Some(others) = self.others.get_mut(frontend) {
            let was_waiting = others.remove(who);
            let next = if was_waiting { None } else { others.pop_first() };
            if others.is_empty() {
                self.others.remove(frontend);
            }
            if was_waiting {
                return None;
            }
            if let Some(next) = next {
                self.owners.insert(*frontend, next.clone());
                return Some(next);
            }
        }
        self.owners.remove(frontend);
        None
    }

    /// Whose it is.
    pub(super) fn owner(&self, frontend: &FrontendKey) -> Option<&ServicePortKey> {
        self.owners.get(frontend)
    }

    /// The frontend's address is a Service's own; true if it was not before.
    pub(super) fn count(&mut self, frontend: FrontendKey) -> bool {
        let at = self.addresses.entry(frontend.address).or_default();
        at.insert(frontend);
        at.len() == 1
    }

    /// The frontend no longer makes its address a Service's own; true if it was the last that did.
    pub(super) fn uncount(&mut self, frontend: &FrontendKey) -> bool {
        let Some(at) = self.addresses.get_mut(&frontend.address) else { return false };
        at.remove(frontend);
        if !at.is_empty() {
            return false;
        }
        self.addresses.remove(&frontend.address);
        true
    }

    /// Whether an address is a Service's own.
    pub(super) fn has_address(&self, address: &Address) -> bool {
        self.addresses.contains_key(address)
    }
}
