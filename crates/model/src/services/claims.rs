//! Who has an address and port when several Service ports name it.

use std::{net::IpAddr, sync::Arc};

use super::{Frontend, FrontendKind, ServiceKey, ServicePort};
use crate::Protocol;

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

/// What Service ports are reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    address: IpAddr,
    port: u16,
    protocol: Protocol,
}

/// Who names a place. Their order is who has it: by kind as [`FrontendKind`] orders them, else the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    kind: FrontendKind,
    pub(super) service: ServiceKey,
    port: Arc<str>,
}

/// The place of an address, port and protocol.
pub(super) fn place(address: IpAddr, port: u16, protocol: Protocol) -> Place {
    Place { address, port, protocol }
}

/// A place that a port of a Service names, and who it is there.
pub(super) fn claim(service: &ServiceKey, port: &ServicePort, frontend: Frontend) -> (Place, Claimant) {
    let place = Place { address: frontend.address, port: frontend.port, protocol: port.protocol };
    (place, Claimant { kind: frontend.kind, service: service.clone(), port: Arc::clone(&port.name) })
}

// === impl Conflict ===

impl Conflict {
    pub(super) fn new((place, loser, holder): (&Place, &Claimant, &Claimant)) -> Self {
        Self {
            service: loser.service.clone(),
            frontend: Frontend { address: place.address, port: place.port, kind: loser.kind },
            protocol: place.protocol,
            holder: holder.service.clone(),
        }
    }
}
