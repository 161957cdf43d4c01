//! The kernel's tables, in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use weft_abi::{Backend, Plain, ServiceCounters, ServicePort};
use weft_model::services::BackendKey;

use super::{super::*, plans::NODE};
use crate::encode;

/// A kernel's tables, in memory, which outlive the process.
#[derive(Clone)]
pub struct Kernel {
    pub frontends: Hash<FrontendKey, weft_abi::Frontend>,
    pub source_ranges: Hash<(SourceRange, u32), u32>,
    pub members: Hash<AffinityMember, u32>,
    pub service_ports: Elements<ServicePort>,
    pub slots: Elements<u32>,
    pub backends: Elements<Backend>,
    pub backend_ports: Elements<u64>,
    pub service_counters: Elements<ServiceCounters>,
    pub backend_counters: Elements<u64>,
    pub writes: Arc<Writes>,
}

/// Counts writes, and lets them fail.
#[derive(Default)]
pub struct Writes {
    count: AtomicUsize,
    /// So many more succeed.
    pub allowed: Mutex<Option<usize>>,
}

impl Writes {
    pub fn write(&self, map: &'static str) -> Result<(), BpfTableError> {
        if let Some(allowed) = self.allowed.lock().unwrap().as_mut() {
            let no_memory = || std::io::Error::from_raw_os_error(libc::ENOMEM);
            *allowed =
                allowed.checked_sub(1).ok_or_else(|| BpfTableError::Read { map, source: no_memory() })?;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[derive(Clone)]
pub struct Hash<K, V>(pub Arc<Mutex<BTreeMap<K, V>>>, Arc<Writes>);

#[derive(Clone)]
pub struct Elements<V>(pub Arc<Mutex<Vec<V>>>, Arc<Writes>);

impl<K: Ord + Clone, V: Clone> Store<K, V> for Hash<K, V> {
    type Error = BpfTableError;

    fn upsert(&mut self, key: &K, value: &V) -> Result<(), BpfTableError> {
        self.1.write("hash")?;
        self.0.lock().unwrap().insert(key.clone(), value.clone());
        Ok(())
    }

    fn remove(&mut self, key: &K) -> Result<(), BpfTableError> {
        self.1.write("hash")?;
        self.0.lock().unwrap().remove(key);
        Ok(())
    }

    fn dump(&mut self) -> Result<Vec<(K, V)>, BpfTableError> {
        Ok(self.0.lock().unwrap().iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl<V: Plain> ArrayStore<V> for Elements<V> {
    fn write(&mut self, index: u32, value: &V) -> Result<(), BpfTableError> {
        self.1.write("array")?;
        self.0.lock().unwrap()[index as usize] = *value;
        Ok(())
    }

    fn read(&mut self, count: u32) -> Result<Vec<V>, BpfTableError> {
        Ok(self.0.lock().unwrap()[..count as usize].to_vec())
    }

    fn size(&self) -> u32 {
        self.0.lock().unwrap().len() as u32
    }
}

impl Kernel {
    pub fn new(service_ports: usize, slots: usize, backends: usize) -> Kernel {
        let writes = Arc::<Writes>::default();
        Kernel {
            frontends: Hash(Arc::default(), writes.clone()),
            source_ranges: Hash(Arc::default(), writes.clone()),
            members: Hash(Arc::default(), writes.clone()),
            service_ports: Elements(
                Arc::new(Mutex::new(vec![ServicePort::default(); service_ports])),
                writes.clone(),
            ),
            slots: Elements(Arc::new(Mutex::new(vec![0; slots])), writes.clone()),
            backends: Elements(Arc::new(Mutex::new(vec![Backend::default(); backends])), writes.clone()),
            backend_ports: Elements(Arc::new(Mutex::new(vec![0; 1024])), writes.clone()),
            service_counters: Elements(
                Arc::new(Mutex::new(vec![ServiceCounters::default(); service_ports])),
                writes.clone(),
            ),
            backend_counters: Elements(Arc::new(Mutex::new(vec![0; backends])), writes.clone()),
            writes,
        }
    }

    pub fn large() -> Kernel {
        Kernel::new(64, 1 << 14, 256)
    }

    /// A process starts.
    pub fn open(&self) -> Services {
        let stores = Stores {
            frontends: Box::new(self.frontends.clone()),
            source_ranges: Box::new(self.source_ranges.clone()),
            members: Box::new(self.members.clone()),
            service_ports: Box::new(self.service_ports.clone()),
            slots: Box::new(self.slots.clone()),
            backends: Box::new(self.backends.clone()),
            backend_ports: Box::new(self.backend_ports.clone()),
            service_counters: Box::new(self.service_counters.clone()),
            backend_counters: Box::new(self.backend_counters.clone()),
        };
        let surroundings = Surroundings {
            node_addresses: vec![NODE],
            all_node_addresses: BTreeSet::new(),
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            dns_addresses: Vec::new(),
        };
        Services::adopt(stores, Limits::default(), surroundings).unwrap()
    }

    pub fn take_writes(&self) -> usize {
        self.writes.count.swap(0, Ordering::Relaxed)
    }

    /// What it does with a connection, in words that no index is part of: for each frontend its flags, affinity, source ranges
    /// and, for either scope, how many slots each backend has.
    pub fn behaviour(&self) -> BTreeMap<FrontendKey, Behaviour> {
        let (ports, slots, backends) = (
            self.service_ports.0.lock().unwrap(),
            self.slots.0.lock().unwrap(),
            self.backends.0.lock().unwrap(),
        );
        let list = |run: weft_abi::Slots| {
            let mut list = BTreeMap::<(BackendKey, bool), u32>::new();
            for slot in run.first()..run.first() + run.count() {
                let entry = backends[slots[slot as usize] as usize];
                assert!(entry.flags & Backend::LIVE != 0, "a slot names a backend that is gone");
                let key = encode::backend_key(&entry).unwrap().0;
                *list.entry((key, entry.flags & Backend::SERVING != 0)).or_default() += 1;
            }
            list
        };
        let frontends = self.frontends.0.lock().unwrap();
        frontends
            .iter()
            .map(|(key, frontend)| {
                if frontend.flags & weft_abi::Frontend::ADDRESS != 0 {
                    return (*key, Behaviour::default());
                }
                let port = ports[frontend.service_port as usize];
                let ranges = self.source_ranges.0.lock().unwrap();
                let members = self.members.0.lock().unwrap();
                let behaviour = Behaviour {
                    flags: (frontend.flags, port.flags, port.affinity_seconds),
                    inside: list(port.inside),
                    outside: list(port.outside),
                    source_ranges: (ranges.keys())
                        .filter(|(range, _)| range.service_port == frontend.service_port)
                        .map(|(range, bits)| (range.address, *bits))
                        .collect(),
                    members: (members.keys())
                        .filter(|member| member.service_port == frontend.service_port)
                        .map(|member| {
                            (encode::backend_key(&backends[member.backend as usize]).unwrap().0, member.role)
                        })
                        .collect(),
                };
                (*key, behaviour)
            })
            .collect()
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    flags: (u32, u32, u32),
    inside: BTreeMap<(BackendKey, bool), u32>,
    outside: BTreeMap<(BackendKey, bool), u32>,
    source_ranges: BTreeSet<(weft_abi::Address, u32)>,
    members: BTreeSet<(BackendKey, u32)>,
}
