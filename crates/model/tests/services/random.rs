//! Any sequence of events comes to the same plan as the naive reference, and its changes add up to it.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};
use weft_model::{
    Protocol,
    services::{
        AddressType, Changes, Endpoint, EndpointSlice, Event, HealthCheck, Ingress, LoadBalancer, Planner,
        Protected, Service, ServiceKey, ServicePort, ServiceType, SliceKey, SlicePort, ThisNode,
        TrafficPolicy, Unreachable,
    },
};

use crate::{
    build::{ip, this_node},
    reference::{Plan, World},
};

#[derive(Clone, Debug)]
enum Step {
    Service(Service),
    ServiceGone(ServiceKey),
    Slice(EndpointSlice),
    SliceGone(SliceKey),
    /// A list of what there is now, after these were removed unseen; it breaks off before its end a few times.
    Relist {
        lost_services: Vec<ServiceKey>,
        lost_slices: Vec<SliceKey>,
        broken: usize,
    },
    /// The last object is heard again.
    Replay,
    Node {
        addresses: usize,
        zone: Option<&'static str>,
    },
    Protect {
        nodes: bool,
        all: bool,
    },
    /// Endpoints with these host numbers are behind nodes that give no sign of life.
    Unreachable(Vec<u8>),
    Take,
    TakeAll,
}

const ZONES: [&str; 2] = ["zone-a", "zone-b"];

fn name() -> impl Strategy<Value = Arc<str>> {
    select(vec!["a", "b", "c"]).prop_map(Arc::from)
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    (select(vec!["x", "y"]), name()).prop_map(|(namespace, name)| ServiceKey::new(namespace, name))
}

fn slice_key() -> impl Strategy<Value = SliceKey> {
    (select(vec!["x", "y"]), name()).prop_map(|(namespace, name)| SliceKey::new(namespace, name))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp])
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn addresses(of: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<std::net::IpAddr>> {
    vec(select(of), 0..=most).prop_map(|all| all.into_iter().map(ip).collect())
}

fn service_ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let one = (protocol(), 80..82_u16, option::of(30_000..30_002_u16));
    vec(one, 0..3).prop_map(|all| {
        let named = |(i, (protocol, port, node_port))| ServicePort {
            name: Arc::from(["", "p"].get(i).copied().unwrap_or("q")),
            protocol,
            port,
            node_port,
        };
        all.into_iter().enumerate().map(named).collect()
    })
}

prop_compose! {
    fn service()(
        key in service_key(),
        kind in select(vec![ServiceType::ClusterIp, ServiceType::NodePort, ServiceType::LoadBalancer, ServiceType::LoadBalancer, ServiceType::ExternalName]),
        not_ours in prop::bool::weighted(0.1),
        cluster_ips in addresses(&["10.96.0.1", "10.96.0.2", "fd00:96::1", "fd00:96::2"], 2),
        ports in service_ports(),
        external_ips in addresses(&["10.96.0.1", "198.51.100.1", "192.168.1.2", "fd00:99::1"], 2),
        ingress in addresses(&["198.51.100.1", "198.51.100.2", "fd00:99::1"], 2),
        proxy in any::<bool>(),
        internal_policy in policy(),
        external_policy in policy(),
        affinity_seconds in option::of(1..3_u32),
        source_ranges in option::of(vec(select(vec!["10.0.0.1/8", "fd00::1/16", "0.0.0.0/0"]), 0..3)),
        health_check_port in option::of(Just(32_000)),
    ) -> Service {
        Service {
            uid: Arc::from(format!("uid-{key}")),
            key,
            kind,
            not_ours,
            cluster_ips: cluster_ips.into(),
            headless: false,
            external_name: None,
            ports: ports.into(),
            external_ips: external_ips.into(),
            ingress: ingress.into_iter().enumerate().map(|(i, address)| Ingress { address, proxy: proxy && i == 0 }).collect(),
            internal_policy,
            external_policy,
            affinity_seconds,
            source_ranges: source_ranges.map(|ranges| ranges.iter().map(|range| range.parse().unwrap()).collect()),
            health_check_port,
        }
    }
}

prop_compose! {
    fn endpoint(ipv6: bool)(
        host in 1..4_u8,
        (ready, serving, terminating) in any::<(bool, bool, bool)>(),
        node in option::of(select(vec!["here", "there"])),
        for_nodes in vec(select(vec!["here", "there"]), 0..2),
        for_zones in vec(select(ZONES.to_vec()), 0..3),
    ) -> Endpoint {
        Endpoint {
            address: if ipv6 { ip(&format!("fd00::{host}")) } else { ip(&format!("10.0.0.{host}")) },
            ready,
            serving,
            terminating,
            node: node.map(Arc::from),
            hostname: None,
            for_nodes: for_nodes.into_iter().map(Arc::from).collect(),
            for_zones: for_zones.into_iter().map(Arc::from).collect(),
        }
    }
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let family = select(vec![AddressType::Ipv4, AddressType::Ipv4, AddressType::Ipv6, AddressType::Fqdn]);
    let port = (select(vec!["", "p", "q"]), protocol(), 8080..8082_u16);
    (slice_key(), name(), family, vec(port, 0..3)).prop_flat_map(|(key, service, address_type, ports)| {
        let endpoints = vec(endpoint(address_type == AddressType::Ipv6), 0..4);
        endpoints.prop_map(move |endpoints| EndpointSlice {
            key: key.clone(),
            service: Arc::clone(&service),
            address_type,
            ports: ports
                .iter()
                .map(|(name, protocol, port)| SlicePort {
                    name: Arc::from(*name),
                    protocol: *protocol,
                    port: *port,
                })
                .collect(),
            endpoints: endpoints.into(),
        })
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => service().prop_map(Step::Service),
        2 => service_key().prop_map(Step::ServiceGone),
        8 => slice().prop_map(Step::Slice),
        2 => slice_key().prop_map(Step::SliceGone),
        1 => (vec(service_key(), 0..3), vec(slice_key(), 0..3), 0..3_usize)
            .prop_map(|(lost_services, lost_slices, broken)| Step::Relist { lost_services, lost_slices, broken }),
        1 => Just(Step::Replay),
        1 => (0..3_usize, option::of(select(ZONES.to_vec()))).prop_map(|(addresses, zone)| Step::Node { addresses, zone }),
        1 => (any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(nodes, all)| Step::Protect { nodes, all }),
        2 => vec(1..4_u8, 0..4).prop_map(Step::Unreachable),
        4 => Just(Step::Take),
        1 => Just(Step::TakeAll),
    ]
}

/// A planner, what its changes have added up to, and what is true.
struct Run {
    planner: Planner,
    node: ThisNode,
    world: World,
    plan: Plan,
    health_checks: BTreeMap<ServiceKey, HealthCheck>,
    load_balancers: BTreeMap<ServiceKey, LoadBalancer>,
    last: Option<Event>,
}

impl Run {
    fn new() -> Self {
        Self {
            planner: Planner::new(this_node()),
            node: this_node(),
            world: World::default(),
            plan: Plan::new(),
            health_checks: BTreeMap::new(),
            load_balancers: BTreeMap::new(),
            last: None,
        }
    }

    fn hear(&mut self, event: Event) {
        self.last = Some(event.clone());
        self.planner.hear(event);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Service(service) => {
                self.world.services.insert(service.key.clone(), service.clone());
                self.hear(Event::Service(service));
            }
            Step::ServiceGone(key) => {
                self.world.services.remove(&key);
                self.hear(Event::ServiceGone(key));
            }
            Step::Slice(slice) => {
                self.world.slices.insert(slice.key.clone(), slice.clone());
                self.hear(Event::Slice(slice));
            }
            Step::SliceGone(key) => {
                self.world.slices.remove(&key);
                self.hear(Event::SliceGone(key));
            }
            Step::Relist { lost_services, lost_slices, broken } => {
                self.world.services.retain(|key, _| !lost_services.contains(key));
                self.world.slices.retain(|key, _| !lost_slices.contains(key));
                self.relist(broken);
            }
            Step::Replay => {
                if let Some(last @ (Event::Service(_) | Event::Slice(_))) = self.last.clone() {
                    self.planner.hear(last);
                }
            }
            Step::Node { addresses, zone } => {
                self.node.addresses = [ip("192.168.1.2"), ip("fd00::2")][..addresses].to_vec();
                self.node.zone = zone.map(Arc::from);
                self.planner.set_node(&self.node.addresses, zone);
            }
            Step::Protect { nodes, all } => {
                let nodes = if nodes { [ip("192.168.1.2"), ip("198.51.100.1")].into() } else { [].into() };
                self.node.protected = Protected { all, nodes, ..Protected::default() };
                self.planner.set_protected(self.node.protected.clone());
            }
            Step::Unreachable(hosts) => {
                let addresses = |host: u8| [ip(&format!("10.0.0.{host}")), ip(&format!("fd00::{host}"))];
                let ranges = hosts.into_iter().flat_map(addresses).map(IpNet::from).collect();
                self.node.unreachable = Unreachable::new(ranges);
                self.planner.set_unreachable(self.node.unreachable.clone());
            }
            Step::Take => {
                let changes = self.planner.take_changes();
                self.apply(changes);
            }
            Step::TakeAll => {
                let changes = self.planner.take_all();
                self.plan.clear();
                self.apply(changes);
            }
        }
    }

    fn relist(&mut self, broken: usize) {
        for attempt in (0..=broken).rev() {
            self.planner.hear(Event::ServicesBegin);
            self.planner.hear(Event::SlicesBegin);
            let (services, slices) =
                (self.world.services.len() / (attempt + 1), self.world.slices.len() / (attempt + 1));
            self.world
                .services
                .values()
                .take(services)
                .for_each(|one| self.planner.hear(Event::Service(one.clone())));
            self.world
                .slices
                .values()
                .take(slices)
                .for_each(|one| self.planner.hear(Event::Slice(one.clone())));
        }
        self.planner.hear(Event::SlicesEnd);
        self.planner.hear(Event::ServicesEnd);
        self.last = None;
    }

    fn apply(&mut self, changes: Changes) {
        for (key, plan) in changes.ports {
            match plan {
                Some(plan) => drop(self.plan.insert(key, plan)),
                None => assert!(self.plan.remove(&key).is_some(), "{key} is gone that never was"),
            }
        }
        for (key, check) in changes.health_checks {
            match check {
                Some(check) => drop(self.health_checks.insert(key, check)),
                None => assert!(self.health_checks.remove(&key).is_some(), "{key}"),
            }
        }
        for (key, balancer) in changes.load_balancers {
            match balancer {
                Some(balancer) => drop(self.load_balancers.insert(key, balancer)),
                None => assert!(self.load_balancers.remove(&key).is_some(), "{key}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_comes_to_the_plan_of_the_rules(steps in vec(step(), 1..40)) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.step(step));
        run.step(Step::Take);
        prop_assert_eq!(&run.plan, &run.world.plan(&run.node));

        // And a planner that only hears what there is now agrees in everything.
        let mut fresh = Run::new();
        fresh.planner.set_node(&run.node.addresses, run.node.zone.as_deref());
        fresh.planner.set_protected(run.node.protected.clone());
        fresh.planner.set_unreachable(run.node.unreachable.clone());
        run.world.slices.values().for_each(|one| fresh.planner.hear(Event::Slice(one.clone())));
        run.world.services.values().rev().for_each(|one| fresh.planner.hear(Event::Service(one.clone())));
        fresh.step(Step::Take);
        prop_assert_eq!(&run.plan, &fresh.plan);
        prop_assert_eq!(&run.health_checks, &fresh.health_checks);
        prop_assert_eq!(&run.load_balancers, &fresh.load_balancers);
        prop_assert_eq!(run.planner.conflicts(), fresh.planner.conflicts());
        prop_assert_eq!(run.planner.refusals(), fresh.planner.refusals());
        prop_assert_eq!(run.planner.counts(), fresh.planner.counts());
        prop_assert_eq!(run.planner.counts().endpoints, run.world.slices.values().map(|one| one.endpoints.len()).sum::<usize>());
        prop_assert!(!run.planner.has_changes());
    }
}
