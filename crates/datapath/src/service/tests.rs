//! Any sequence of changes, and any number of restarts in between, leaves the kernel as one fresh start would.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use proptest::prelude::*;
use weft_abi::{Backend, Plain, ServiceCounters, ServicePort};
use weft_model::{
    Protocol,
    services::{
        BackendKey, BackendState, Choice, Frontend, FrontendKind, ServiceKey, ServicePortKey,
        ServicePortPlan, WhenEmpty,
    },
};

use super::*;
use crate::encode;

/// A kernel's tables, in memory, which outlive the process.
#[derive(Clone)]
struct Kernel {
    frontends: Hash<FrontendKey, weft_abi::Frontend>,
    source_ranges: Hash<(SourceRange, u32), u32>,
    members: Hash<AffinityMember, u32>,
    service_ports: Elements<ServicePort>,
    slots: Elements<u32>,
    backends: Elements<Backend>,
    backend_ports: Elements<u64>,
    writes: Arc<Writes>,
}

/// Counts writes, and lets them fail.
#[derive(Default)]
struct Writes {
    count: AtomicUsize,
    /// So many more succeed.
    allowed: Mutex<Option<usize>>,
}

impl Writes {
    fn write(&self, map: &'static str) -> Result<(), BpfTableError> {
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
struct Hash<K, V>(Arc<Mutex<BTreeMap<K, V>>>, Arc<Writes>);

#[derive(Clone)]
struct Elements<V>(Arc<Mutex<Vec<V>>>, Arc<Writes>);

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
    fn new(service_ports: usize, slots: usize, backends: usize) -> Kernel {
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
            writes,
        }
    }

    fn large() -> Kernel {
        Kernel::new(64, 1 << 14, 256)
    }

    /// A process starts.
    fn open(&self) -> Services {
        let stores = Stores {
            frontends: Box::new(self.frontends.clone()),
            source_ranges: Box::new(self.source_ranges.clone()),
            members: Box::new(self.members.clone()),
            service_ports: Box::new(self.service_ports.clone()),
            slots: Box::new(self.slots.clone()),
            backends: Box::new(self.backends.clone()),
            backend_ports: Box::new(self.backend_ports.clone()),
        };
        let surroundings = Surroundings {
            node_addresses: vec![NODE],
            all_node_addresses: BTreeSet::new(),
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            dns_addresses: Vec::new(),
        };
        Services::adopt(stores, Limits::default(), surroundings).unwrap()
    }

    fn take_writes(&self) -> usize {
        self.writes.count.swap(0, Ordering::Relaxed)
    }

    /// What it does with a connection, in words that no index is part of: for each frontend its flags, affinity, source ranges
    /// and, for either scope, how many slots each backend has.
    fn behaviour(&self) -> BTreeMap<FrontendKey, Behaviour> {
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
                            (
                                encode::backend_key(&backends[member.backend as usize]).unwrap().0,
                                member.outside,
                            )
                        })
                        .collect(),
                };
                (*key, behaviour)
            })
            .collect()
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Behaviour {
    flags: (u32, u32, u32),
    inside: BTreeMap<(BackendKey, bool), u32>,
    outside: BTreeMap<(BackendKey, bool), u32>,
    source_ranges: BTreeSet<(weft_abi::Address, u32)>,
    members: BTreeSet<(BackendKey, u32)>,
}

const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));

fn key(service: u8) -> ServicePortKey {
    ServicePortKey {
        service: ServiceKey::new("default", format!("s{service}")),
        port: "".into(),
        protocol: Protocol::Tcp,
        ipv6: false,
    }
}

fn backend(number: u8) -> BackendKey {
    BackendKey { address: Ipv4Addr::new(10, 244, 1, number).into(), port: 8080 }
}

fn choice(backends: &BTreeSet<u8>, when_empty: WhenEmpty) -> Choice {
    Choice { backends: backends.iter().map(|number| backend(*number)).collect(), when_empty }
}

/// How a Service port may be.
#[derive(Clone, Debug)]
struct Sketch {
    known: BTreeMap<u8, bool>,
    chosen: BTreeSet<u8>,
    local: BTreeSet<u8>,
    kinds: BTreeSet<u8>,
    affinity: bool,
    ranges: bool,
    drop: bool,
    shared_address: bool,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    (
        proptest::collection::btree_map(0_u8..12, any::<bool>(), 0..12),
        proptest::collection::btree_set(0_u8..12, 0..12),
        proptest::collection::btree_set(0_u8..12, 0..12),
        proptest::collection::btree_set(0_u8..4, 0..4),
        any::<[bool; 4]>(),
    )
        .prop_map(|(known, chosen, local, kinds, [affinity, ranges, drop, shared_address])| {
            let known_only =
                |set: BTreeSet<u8>| set.into_iter().filter(|number| known.contains_key(number)).collect();
            Sketch {
                chosen: known_only(chosen),
                local: known_only(local),
                known: known.clone(),
                kinds,
                affinity,
                ranges,
                drop,
                shared_address,
            }
        })
}

fn plan(service: u8, sketch: &Sketch) -> ServicePortPlan {
    let mut frontends: Vec<Frontend> = sketch
        .kinds
        .iter()
        .map(|kind| match kind {
            0 => Frontend {
                address: Ipv4Addr::new(10, 96, 0, 1 + service).into(),
                port: 80,
                kind: FrontendKind::ClusterIp,
            },
            1 => Frontend { address: NODE, port: 30_000 + u16::from(service), kind: FrontendKind::NodePort },
            2 => Frontend {
                address: Ipv4Addr::new(192, 168, 1, 128 + service).into(),
                port: 80,
                kind: FrontendKind::LoadBalancer,
            },
            // Two Services may want the same external IP.
            _ => Frontend {
                address: Ipv4Addr::new(198, 51, 100, if sketch.shared_address { 1 } else { 2 + service })
                    .into(),
                port: 80,
                kind: FrontendKind::ExternalIp,
            },
        })
        .collect();
    frontends.sort();
    let when = if sketch.drop { WhenEmpty::Drop } else { WhenEmpty::Reject };
    ServicePortPlan {
        frontends,
        internal: choice(&sketch.chosen, when),
        cluster: choice(&sketch.chosen, WhenEmpty::Reject),
        external: choice(&sketch.local, when),
        known: (sketch.known.iter())
            .map(|(number, serving)| BackendState { key: backend(*number), serving: *serving })
            .collect(),
        affinity_seconds: sketch.affinity.then_some(10_800),
        source_ranges: if sketch.ranges { vec!["203.0.113.0/24".parse().unwrap()] } else { Vec::new() },
        nobody_else: sketch.ranges,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Change(Vec<(u8, Option<Sketch>)>),
    /// After so many writes the kernel has no memory for more; the agent then says everything again.
    Failure(usize, Vec<(u8, Option<Sketch>)>),
    /// The process ends and another starts; this is what has changed meanwhile.
    Restart(Vec<(u8, Option<Sketch>)>),
    Pause,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = || proptest::collection::vec((0_u8..6, proptest::option::weighted(0.8, sketch())), 0..4);
    prop_oneof![
        5 => changes().prop_map(Step::Change),
        1 => changes().prop_map(Step::Restart),
        1 => (0_usize..12, changes()).prop_map(|(allowed, changes)| Step::Failure(allowed, changes)),
        1 => Just(Step::Pause),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_changes_and_restarts_ends_as_a_fresh_start(
        steps in proptest::collection::vec(step(), 1..12),
    ) {
        let kernel = Kernel::large();
        let mut services = kernel.open();
        let mut now = Instant::now();
        services.replace(Vec::new(), now).unwrap();
        let mut wanted: BTreeMap<ServicePortKey, ServicePortPlan> = BTreeMap::new();
        let mut failed = false;
        for step in steps.into_iter().chain([Step::Change(Vec::new())]) {
            now += Duration::from_millis(100);
            let restart = matches!(step, Step::Restart(_));
            let allowed = if let Step::Failure(allowed, _) = step { Some(allowed) } else { None };
            match step {
                Step::Pause => now += slots::REST,
                Step::Change(changes) | Step::Restart(changes) | Step::Failure(_, changes) => {
                    let changes: Vec<_> = changes
                        .into_iter()
                        .map(|(service, sketch)| (key(service), sketch.map(|sketch| plan(service, &sketch))))
                        .collect();
                    for (key, plan) in &changes {
                        match plan {
                            Some(plan) => drop(wanted.insert(key.clone(), plan.clone())),
                            None => drop(wanted.remove(key)),
                        }
                    }
                    if restart {
                        services = kernel.open();
                    }
                    *kernel.writes.allowed.lock().unwrap() = allowed;
                    let done = if failed || restart {
                        services.replace(wanted.clone().into_iter().collect(), now)
                    } else {
                        services.change(changes, now)
                    };
                    *kernel.writes.allowed.lock().unwrap() = None;
                    prop_assert!(done.is_ok() || allowed.is_some());
                    failed = done.is_err();
                }
            }
            if failed {
                // Until it is said again, which may be something else by then.
                continue;
            }
            let fresh = Kernel::large();
            fresh.open().replace(wanted.clone().into_iter().collect(), now).unwrap();
            prop_assert_eq!(kernel.behaviour(), fresh.behaviour());
            // Nothing is kept that nobody lists.
            let live = |kernel: &Kernel| {
                let backends = kernel.backends.0.lock().unwrap();
                backends.iter().filter(|entry| entry.flags & Backend::LIVE != 0).count()
            };
            prop_assert_eq!(live(&kernel), live(&fresh));
        }
        // A restart that finds nothing changed writes nothing (but the entry of a Service port that no frontend leads to, since
        // another has them all: nothing tells whose it was).
        if services.not_served().is_empty() {
            kernel.take_writes();
            let written = kernel.open().replace(wanted.into_iter().collect(), now).unwrap();
            prop_assert_eq!(written.written, Written::default());
            prop_assert_eq!(kernel.take_writes(), 0);
        }
    }
}

fn simple(chosen: impl IntoIterator<Item = u8>) -> Sketch {
    let chosen: BTreeSet<u8> = chosen.into_iter().collect();
    Sketch {
        known: chosen.iter().map(|number| (*number, true)).collect(),
        local: chosen.clone(),
        chosen,
        kinds: [0].into(),
        affinity: false,
        ranges: false,
        drop: false,
        shared_address: false,
    }
}

#[test]
fn one_endpoint_more_costs_one_endpoint() {
    let kernel = Kernel::new(1024, 1 << 15, 16_384);
    let mut services = kernel.open();
    let now = Instant::now();
    let plans = (0..200).map(|service| (key(service), plan(service, &simple(0..9)))).collect();
    services.replace(plans, now).unwrap();
    kernel.take_writes();
    services.change(vec![(key(7), Some(plan(7, &simple(0..10))))], now).unwrap();
    // The backend, its slot, and the list's length.
    assert_eq!(kernel.take_writes(), 3);
    services.change(vec![(key(7), Some(plan(7, &simple((0..4).chain(5..10)))))], now).unwrap();
    // The slot of the one that goes, and the length; the backend stays, for others list it.
    assert_eq!(kernel.take_writes(), 2);
}

#[test]
fn a_backend_that_nobody_lists_is_gone_and_its_entry_is_another_s_only_after_a_rest() {
    let kernel = Kernel::large();
    let mut services = kernel.open();
    let now = Instant::now();
    services.replace(vec![(key(1), plan(1, &simple([1, 2])))], now).unwrap();
    let before = kernel.backends.0.lock().unwrap().clone();
    services.change(vec![(key(1), Some(plan(1, &simple([2]))))], now).unwrap();
    let gone = services.take_gone();
    assert_eq!(gone.len(), 1);
    let entry = kernel.backends.0.lock().unwrap()[gone[0].index as usize];
    assert_eq!(entry.flags, 0);
    assert_eq!(entry.generation, before[gone[0].index as usize].generation + 1);
    services.change(vec![(key(1), Some(plan(1, &simple([2, 3]))))], now).unwrap();
    assert_eq!(kernel.backends.0.lock().unwrap()[gone[0].index as usize], entry);
    let later = now + slots::REST;
    services.change(vec![(key(1), Some(plan(1, &simple([2, 3, 4]))))], later).unwrap();
    let entry = kernel.backends.0.lock().unwrap()[gone[0].index as usize];
    assert_eq!(encode::backend_key(&entry).unwrap().0, backend(4));
}

#[test]
fn full_tables_refuse_what_is_new_keep_what_is_served_and_take_it_in_once_there_is_room() {
    let kernel = Kernel::new(2, 8, 4);
    let mut services = kernel.open();
    let now = Instant::now();
    services.replace(vec![(key(1), plan(1, &simple([1, 2])))], now).unwrap();
    let served = kernel.behaviour();
    let too_many = services.change(vec![(key(2), Some(plan(2, &simple(3..9))))], now).unwrap();
    assert_eq!(too_many.refused, [(key(2), Refused::Full("backends"))]);
    assert_eq!(kernel.behaviour(), served);
    // What is refused as a change stays as it was.
    let grown = services.change(vec![(key(1), Some(plan(1, &simple(1..9))))], now).unwrap();
    assert_eq!(grown.refused.len(), 2);
    assert_eq!(kernel.behaviour(), served);
    let fewer = vec![(key(1), None), (key(2), Some(plan(2, &simple(3..5))))];
    assert_eq!(services.change(fewer, now).unwrap().refused, []);
    assert_eq!(kernel.behaviour().len(), 2);
    let third = vec![(key(3), Some(plan(3, &simple([3])))), (key(4), Some(plan(4, &simple([4]))))];
    assert_eq!(services.change(third, now).unwrap().refused, [(key(4), Refused::Full("Service ports"))]);
    services.change(vec![(key(3), None)], now).unwrap();
    // What one change gives back, the next one takes.
    assert_eq!(services.change(Vec::new(), now).unwrap().refused, []);
    assert_eq!(kernel.behaviour().len(), 4);
}

#[test]
fn backends_that_change_places_while_the_table_is_full_are_refused_and_taken_once_the_old_are_gone() {
    let kernel = Kernel::new(2, 8, 2);
    let mut services = kernel.open();
    let now = Instant::now();
    services.replace(vec![(key(1), plan(1, &simple([1, 2])))], now).unwrap();
    let served = kernel.behaviour();
    let others = vec![(key(1), Some(plan(1, &simple([3, 4]))))];
    let refused = services.change(others, now).unwrap().refused;
    assert_eq!(refused, [(key(1), Refused::Full("backends"))]);
    assert_eq!(kernel.behaviour(), served);
    services.change(vec![(key(1), None)], now).unwrap();
    let later = now + slots::REST;
    services.change(vec![(key(1), Some(plan(1, &simple([3, 4]))))], later).unwrap();
    assert_eq!(kernel.behaviour().len(), served.len());
}

#[test]
fn of_two_that_want_the_same_frontend_the_first_by_name_has_it() {
    let shared = Sketch { kinds: [3].into(), shared_address: true, ..simple([1]) };
    let kernel = Kernel::large();
    let mut services = kernel.open();
    let now = Instant::now();
    let owner = |kernel: &Kernel, services: &Services| {
        let index = kernel.frontends.0.lock().unwrap().values().next().unwrap().service_port;
        let found = services
            .installed
            .iter()
            .find(|(_, port)| port.external.is_some_and(|entry| entry.index == index));
        found.unwrap().0.clone()
    };
    services.replace(vec![(key(2), plan(2, &shared))], now).unwrap();
    let written = services.change(vec![(key(1), Some(plan(1, &shared)))], now).unwrap();
    assert_eq!(owner(&kernel, &services), key(1));
    assert!(
        matches!(&written.refused[..], [(loser, Refused::Taken { by, .. })] if *loser == key(2) && **by == key(1))
    );
    let written = services.change(vec![(key(1), None)], now).unwrap();
    assert_eq!(owner(&kernel, &services), key(2));
    assert_eq!(written.refused, []);
}

#[test]
fn nothing_is_removed_before_a_whole_list_is_known() {
    let kernel = Kernel::large();
    kernel.open().replace(vec![(key(1), plan(1, &simple([1])))], Instant::now()).unwrap();
    let served = kernel.behaviour();
    let mut services = kernel.open();
    services.change(Vec::new(), Instant::now()).unwrap();
    assert_eq!(kernel.behaviour(), served);
    let mapping = weft_model::PortMapping {
        host_ip: None,
        host_port: 8080,
        container_port: 80,
        protocol: Protocol::Tcp,
    };
    let (port, mapped) = host_port_plan(&mapping, backend(9).address, &[NODE]).unwrap();
    services.change(vec![(port.clone(), Some(mapped))], Instant::now()).unwrap();
    assert_eq!(kernel.behaviour().len(), served.len() + 1);
    // Ports of the node outlive both a restart and a whole list of Services.
    let mut services = kernel.open();
    services.replace(Vec::new(), Instant::now()).unwrap();
    assert_eq!(kernel.behaviour().len(), 1);
    services.change(vec![(port, None)], Instant::now()).unwrap();
    assert!(kernel.behaviour().is_empty());
    let _ = ServiceCounters::default();
}
