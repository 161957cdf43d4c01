//! Who has an address and port when several Service ports name it.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Frontend, FrontendKind, ServiceKey};
use crate::Protocol;

/// Everybody's wishes. The first in [`Claimant`]'s order has it: a Service's own address beats what others say of it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_place: HashMap<Place, Claimants>,
    contested: BTreeSet<Place>,
}

/// An address and port that two Service ports name; one of them is not reached by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// Who is not reached by it.
    pub service: ServiceKey,
    /// What it is not reached by.
    pub frontend: Frontend,
    /// Its protocol.
    pub protocol: Protocol,
    /// Who is.
    pub holder: ServiceKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    address: IpAddr,
    port: u16,
    protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    kind: FrontendKind,
    service: ServiceKey,
    port: Arc<str>,
}

#[derive(Debug)]
enum Claimants {
    One(Claimant),
    Many(BTreeSet<Claimant>),
}

// === impl Claims ===

impl Claims {
    /// Port `port` of `service` wants this. Whoever had it and does not any more.
    pub(super) fn add(
        &mut self,
        service: &ServiceKey,
        port: &Arc<str>,
        protocol: Protocol,
        frontend: Frontend,
    ) -> Option<ServiceKey> {
        let place = Place::new(frontend, protocol);
        let claimant = Claimant { kind: frontend.kind, service: service.clone(), port: Arc::clone(port) };
        let Some(claimants) = self.by_place.get_mut(&place) else {
            self.by_place.insert(place, Claimants::One(claimant));
            return None;
        };
        let holder = claimants.first().cloned();
        if let Claimants::One(one) = claimants {
            if *one == claimant {
                return None;
            }
            *claimants = Claimants::Many(BTreeSet::from([one.clone()]));
        }
        if let Claimants::Many(all) = claimants {
            all.insert(claimant);
        }
        self.contested.insert(place);
        holder.filter(|holder| claimants.first() != Some(holder)).map(|holder| holder.service)
    }

    /// Port `port` of `service` does not want this any more. Who has it now instead.
    pub(super) fn remove(
        &mut self,
        service: &ServiceKey,
        port: &Arc<str>,
        protocol: Protocol,
        frontend: Frontend,
    ) -> Option<ServiceKey> {
        let place = Place::new(frontend, protocol);
        let claimant = Claimant { kind: frontend.kind, service: service.clone(), port: Arc::clone(port) };
        let claimants = self.by_place.get_mut(&place)?;
        let held = claimants.first() == Some(&claimant);
        match claimants {
            Claimants::One(one) => {
                if *one == claimant {
                    self.by_place.remove(&place);
                }
                return None;
            }
            Claimants::Many(all) => {
                all.remove(&claimant);
                if all.len() == 1
                    && let Some(last) = all.pop_first()
                {
                    *claimants = Claimants::One(last);
                    self.contested.remove(&place);
                }
            }
        }
        claimants.first().filter(|_| held).map(|heir| heir.service.clone())
    }

    /// Port `port` of `service` is reached by this.
    pub(super) fn holds(
        &self,
        service: &ServiceKey,
        port: &Arc<str>,
        protocol: Protocol,
        frontend: Frontend,
    ) -> bool {
        self.by_place.get(&Place::new(frontend, protocol)).and_then(Claimants::first).is_some_and(|holder| {
            holder.kind == frontend.kind && holder.service == *service && holder.port == *port
        })
    }

    /// What several Service ports name.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for place in &self.contested {
            let Some(Claimants::Many(all)) = self.by_place.get(place) else { continue };
            let mut all = all.iter();
            let Some(holder) = all.next() else { continue };
            conflicts.extend(all.map(|loser| Conflict {
                service: loser.service.clone(),
                frontend: Frontend { address: place.address, port: place.port, kind: loser.kind },
                protocol: place.protocol,
                holder: holder.service.clone(),
            }));
        }
        conflicts
    }
}

// === impl Place ===

impl Place {
    fn new(frontend: Frontend, protocol: Protocol) -> Self {
        Self { address: frontend.address, port: frontend.port, protocol }
    }
}

// === impl Claimants ===

impl Claimants {
    fn first(&self) -> Option<&Claimant> {
        match self {
            Self::One(one) => Some(one),
            Self::Many(all) => all.first(),
        }
    }
}
