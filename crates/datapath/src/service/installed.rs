//! What the kernel holds now.

use std::collections::BTreeMap;

use weft_abi::{Backend, ServiceCounters, Slots};
use weft_model::services::{BackendKey, Frontend, ServicePortKey};

use super::{ServiceError, Services, host_ports::is_host_port, port::Entry};
use crate::{
    encode,
    table::{Store as _, array::ArrayStore},
};

/// A Service port as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledServicePort {
    /// Which one.
    pub key: ServicePortKey,
    /// A port of the node that leads to a Pod, instead of a Service's.
    pub is_host_port: bool,
    /// The frontends that lead to it.
    pub frontends: Vec<Frontend>,
    /// Backends of connections to the cluster IP.
    pub internal: Vec<InstalledBackend>,
    /// Backends of connections from inside to its other frontends.
    pub cluster: Vec<InstalledBackend>,
    /// Backends of connections from outside to its other frontends.
    pub external: Vec<InstalledBackend>,
    /// Backends that new connections are not given, but which may keep those that they have.
    pub draining: Vec<InstalledBackend>,
    /// Connections that were given a backend.
    pub connections: u64,
    /// Connections that found none.
    pub without_backend: u64,
    /// How long a client comes back to the same backend, in seconds.
    pub affinity_seconds: Option<u32>,
}

/// A backend as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstalledBackend {
    /// Which one.
    pub key: BackendKey,
    /// It answers.
    pub serving: bool,
    /// Connections that it was given, by all Services that list it.
    pub connections: u64,
}

impl Services {
    /// Reads the tables and says whose what is.
    pub(crate) fn read(
        &mut self,
        counts: &mut CountReaders,
    ) -> Result<Vec<InstalledServicePort>, ServiceError> {
        let frontends: BTreeMap<_, _> = self.frontends.store().dump()?.into_iter().collect();
        let service_ports = self.service_ports.read()?;
        let slots = self.slots.read()?;
        let backends = self.backends.read()?;
        let entries = self.installed.values().flat_map(|port| [port.internal, port.external]).flatten();
        let ports = entries.map(|entry| entry.index + 1).max().unwrap_or(0);
        let port_counts = counts.service_ports.read(ports)?;
        let backend_counts = counts.backends.read(backends.len() as u32)?;
        let backend_at = |index: u32| {
            let entry: &Backend = backends.get(index as usize)?;
            Some(InstalledBackend {
                key: encode::backend_key(entry)?.0,
                serving: entry.flags & Backend::SERVING != 0,
                connections: backend_counts.get(index as usize).copied().unwrap_or(0),
            })
        };
        let list = |run: Slots| {
            // Slots past the last that was written name the first backend, as the kernel made them.
            let slots = (run.first()..run.first().saturating_add(run.count()))
                .map(|slot| slots.get(slot as usize).copied().unwrap_or_default());
            let mut list: Vec<InstalledBackend> = slots.filter_map(backend_at).collect();
            list.sort();
            list.dedup();
            list
        };
        let mut read = Vec::new();
        for (key, installed) in &self.installed {
            let value = |entry: Option<Entry>| {
                entry.and_then(|entry| service_ports.get(entry.index as usize)).copied().unwrap_or_default()
            };
            let counted = |entry: Option<Entry>| {
                entry.and_then(|entry| port_counts.get(entry.index as usize)).copied().unwrap_or_default()
            };
            let (internal, external) = (value(installed.internal), value(installed.external));
            let (one, other) = (counted(installed.internal), counted(installed.external));
            let leads_here = |frontend: &&Frontend| {
                let entry = encode::frontend_key(frontend.address, frontend.port, key.protocol);
                let of = [installed.internal, installed.external];
                frontends
                    .get(&entry)
                    .is_some_and(|found| of.iter().flatten().any(|entry| entry.index == found.service_port))
            };
            let mut port = InstalledServicePort {
                key: key.clone(),
                is_host_port: is_host_port(&installed.plan),
                frontends: installed.plan.frontends.iter().filter(leads_here).copied().collect(),
                internal: list(internal.inside),
                cluster: list(external.inside),
                external: list(external.outside),
                draining: Vec::new(),
                connections: one.connections + other.connections,
                without_backend: one.without_backend + other.without_backend,
                affinity_seconds: installed.plan.affinity_seconds,
            };
            let chosen = |key: &BackendKey| {
                [&port.internal, &port.cluster, &port.external]
                    .into_iter()
                    .flatten()
                    .any(|backend| backend.key == *key)
            };
            let idle = installed.plan.known.iter().filter(|state| !chosen(&state.key));
            let draining: Vec<_> =
                idle.filter_map(|state| backend_at(self.backends.index(state.key, key.protocol)?)).collect();
            port.draining = draining;
            read.push(port);
        }
        Ok(read)
    }
}

/// Reads what was counted.
pub(crate) struct CountReaders {
    pub(crate) service_ports: Box<dyn ArrayStore<ServiceCounters> + Send>,
    pub(crate) backends: Box<dyn ArrayStore<u64> + Send>,
}
