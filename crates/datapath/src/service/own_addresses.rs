//! Which addresses are Services' own.

use std::collections::{BTreeMap, BTreeSet};

use weft_abi::{Address, FrontendKey};

/// The frontends at each address that is a Service's own.
#[derive(Default)]
pub(super) struct OwnAddresses(BTreeMap<Address, BTreeSet<FrontendKey>>);

impl OwnAddresses {
    /// The frontend's address is a Service's own; true if it was not before.
    pub(super) fn count(&mut self, frontend: FrontendKey) -> bool {
        let at = self.0.entry(frontend.address).or_default();
        at.insert(frontend);
        at.len() == 1
    }

    /// The frontend no longer makes its address a Service's own; true if it was the last that did.
    pub(super) fn uncount(&mut self, frontend: &FrontendKey) -> bool {
        let Some(at) = self.0.get_mut(&frontend.address) else { return false };
        at.remove(frontend);
        if !at.is_empty() {
            return false;
        }
        self.0.remove(&frontend.address);
        true
    }

    /// Whether an address is a Service's own.
    pub(super) fn has(&self, address: &Address) -> bool {
        self.0.contains_key(address)
    }
}
