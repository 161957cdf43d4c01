//! Any sequence of events comes to the zone that the objects say.

use std::{net::IpAddr, sync::Arc};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
};
use weft_model::{
    Protocol,
    dns::{Found, NamespaceEvent, Settings, Zone},
    services::{
        AddressType, Endpoint, EndpointSlice, Event, Service, ServiceKey, ServicePort, ServiceType, SliceKey,
        SlicePort, TrafficPolicy,
    },
};

use crate::reference::{Said, World, backwards, zone_says};

const ADDRESSES: [&str; 7] =
    ["10.244.0.1", "10.244.0.2", "10.96.0.1", "fd00::1", "fd00::2", "fd00:96::1", "fd00:7::"];

#[derive(Clone, Debug)]
enum Step {
    Service(Service),
    ServiceGone(ServiceKey),
    Slice(EndpointSlice),
    SliceGone(SliceKey),
    Namespace(Arc<str>),
    NamespaceGone(Arc<str>),
    /// A list of what there is now, after some of it was removed unseen; it breaks off before its end once or not.
    Relist {
        lost: Vec<Index>,
        breaks_off: bool,
    },
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn namespace() -> impl Strategy<Value = Arc<str>> {
    select(vec!["x", "y", "z"]).prop_map(Arc::from)
}

fn name() -> impl Strategy<Value = Arc<str>> {
    select(vec!["a", "b"]).prop_map(Arc::from)
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    (namespace(), name()).prop_map(|(namespace, name)| ServiceKey { namespace, name })
}

fn slice_key() -> impl Strategy<Value = SliceKey> {
    (namespace(), name()).prop_map(|(namespace, name)| SliceKey { namespace, name })
}

fn ports() -> impl Strategy<Value = Vec<(&'static str, Protocol, u16)>> {
    vec(
        (select(vec!["", "p", "q"]), select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]), 1..3_u16),
        0..3,
    )
    .prop_map(|mut ports| {
        // A name and protocol once, as the API has it.
        ports.sort();
        ports.dedup_by_key(|port| (port.0, port.1));
        ports
    })
}

prop_compose! {
    fn service()(
        key in service_key(),
        shape in 0..8,
        addresses in vec(select(ADDRESSES.to_vec()), 0..3),
        target in select(vec!["db.example.com", "a.x.svc.cluster.local", "192.0.2.1"]),
        ports in ports(),
    ) -> Service {
        let (is_external, headless) = (shape == 0, (1..5).contains(&shape));
        let mut cluster_ips: Vec<IpAddr> = addresses.into_iter().filter(|_| !is_external && !headless).map(ip).collect();
        cluster_ips.dedup();
        Service {
            key,
            uid: Arc::from("uid"),
            kind: if is_external { ServiceType::ExternalName } else { ServiceType::ClusterIp },
            not_ours: false,
            cluster_ips: cluster_ips.into(),
            headless,
            external_name: is_external.then(|| Arc::from(target)),
            ports: ports.into_iter().map(|(name, protocol, port)| ServicePort { name: Arc::from(name), protocol, port, node_port: None }).collect(),
            external_ips: [].into(),
            ingress: [].into(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity_seconds: None,
            source_ranges: None,
            health_check_port: None,
        }
    }
}

prop_compose! {
    fn endpoint()(address in select(ADDRESSES.to_vec()), ready in any::<bool>(), hostname in option::of(select(vec!["h", "i"]))) -> Endpoint {
        Endpoint {
            address: ip(address),
            ready,
            serving: ready,
            terminating: false,
            node: None,
            hostname: hostname.map(Arc::from),
            for_nodes: [].into(),
            for_zones: [].into(),
        }
    }
}

prop_compose! {
    fn slice()(key in slice_key(), service in name(), ports in ports(), endpoints in vec(endpoint(), 0..4)) -> EndpointSlice {
        EndpointSlice {
            key,
            service,
            address_type: AddressType::Ipv4,
            ports: ports.into_iter().map(|(name, protocol, port)| SlicePort { name: Arc::from(name), protocol, port }).collect(),
            endpoints: endpoints.into(),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => service().prop_map(Step::Service),
        2 => service_key().prop_map(Step::ServiceGone),
        8 => slice().prop_map(Step::Slice),
        2 => slice_key().prop_map(Step::SliceGone),
        2 => namespace().prop_map(Step::Namespace),
        1 => namespace().prop_map(Step::NamespaceGone),
        1 => (vec(any::<Index>(), 0..3), any::<bool>()).prop_map(|(lost, breaks_off)| Step::Relist { lost, breaks_off }),
    ]
}

fn settings() -> Settings {
    Settings {
        domain: "cluster.local".parse().unwrap(),
        pod_records: true,
        name_servers: Vec::new(),
        ranges: Vec::new(),
    }
}

fn zone() -> Zone {
    Zone::new(settings())
}

/// The zone as it comes out of what another has written.
fn restart(zone: &Zone) -> Zone {
    let (mut bytes, mut part) = (Vec::new(), Some(0));
    while let Some(from) = part {
        part = zone.write_part(from, &mut bytes);
    }
    Zone::restored(settings(), &bytes).unwrap()
}

/// What a zone says that has heard nothing itself: never that there is no such name.
fn restored_says(zone: &Zone, name: &str) -> Said {
    match zone.look_up(&name.parse().unwrap()).found {
        Found::NotSynced => None,
        Found::Missing => panic!("{name} is said not to be there"),
        _ => zone_says(zone, name),
    }
}

/// Tells the zone all that there is, of each kind the first `1 / part` only; whether the lists come to their ends.
fn list(zone: &mut Zone, world: &World, part: usize, ends: bool) {
    zone.hear(&Event::SlicesBegin);
    zone.hear(&Event::ServicesBegin);
    zone.hear_namespace(&NamespaceEvent::Begin);
    for slice in world.slices.values().take(world.slices.len() / part) {
        zone.hear(&Event::Slice(slice.clone()));
    }
    for service in world.services.values().rev().take(world.services.len() / part) {
        zone.hear(&Event::Service(service.clone()));
    }
    for name in world.namespaces.iter().take(world.namespaces.len() / part) {
        zone.hear_namespace(&NamespaceEvent::Namespace(Arc::clone(name)));
    }
    if ends {
        zone.hear_namespace(&NamespaceEvent::End);
        zone.hear(&Event::ServicesEnd);
        zone.hear(&Event::SlicesEnd);
    }
}

fn run(zone: &mut Zone, world: &mut World, step: Step) {
    match step {
        Step::Service(service) => {
            zone.hear(&Event::Service(service.clone()));
            world.services.insert(service.key.clone(), service);
        }
        Step::ServiceGone(key) => {
            world.services.remove(&key);
            zone.hear(&Event::ServiceGone(key));
        }
        Step::Slice(slice) => {
            zone.hear(&Event::Slice(slice.clone()));
            world.slices.insert(slice.key.clone(), slice);
        }
        Step::SliceGone(key) => {
            world.slices.remove(&key);
            zone.hear(&Event::SliceGone(key));
        }
        Step::Namespace(name) => {
            zone.hear_namespace(&NamespaceEvent::Namespace(Arc::clone(&name)));
            world.namespaces.insert(name);
        }
        Step::NamespaceGone(name) => {
            world.namespaces.remove(&name);
            zone.hear_namespace(&NamespaceEvent::Gone(name));
        }
        Step::Relist { lost, breaks_off } => {
            for index in lost {
                lose(world, &index);
            }
            if breaks_off {
                list(zone, world, 2, false);
            }
            list(zone, world, 1, true);
        }
    }
}

fn lose(world: &mut World, index: &Index) {
    let services: Vec<_> = world.services.keys().cloned().collect();
    let slices: Vec<_> = world.slices.keys().cloned().collect();
    let namespaces: Vec<_> = world.namespaces.iter().cloned().collect();
    let all = services.len() + slices.len() + namespaces.len();
    if all == 0 {
        return;
    }
    let place = index.index(all);
    if let Some(key) = services.get(place) {
        world.services.remove(key);
    } else if let Some(key) = slices.get(place.wrapping_sub(services.len())) {
        world.slices.remove(key);
    } else if let Some(name) = namespaces.get(place.wrapping_sub(services.len() + slices.len())) {
        world.namespaces.remove(name);
    }
}

/// Names that may or may not be there.
fn candidates() -> Vec<String> {
    let mut names = Vec::new();
    for namespace in ["x", "y", "z", "w"] {
        names.push(format!("{namespace}.svc.cluster.local"));
        names.push(format!("{namespace}.pod.cluster.local"));
        for name in ["a", "b", "c"] {
            let service = format!("{name}.{namespace}.svc.cluster.local");
            for under in [
                "h",
                "i",
                "j",
                "10-244-0-1",
                "fd00--1",
                "fd00-7--0",
                "_tcp",
                "_p._tcp",
                "_q._udp",
                "_p._sctp",
                "x.h",
            ] {
                names.push(format!("{under}.{service}"));
            }
            names.push(service);
        }
    }
    names.extend(ADDRESSES.map(|address| backwards(ip(address))));
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_comes_to_the_records_of_the_specification(steps in vec(step(), 1..30)) {
        let (mut zone, mut world) = (zone(), World::default());
        list(&mut zone, &world, 1, true);
        for step in steps {
            run(&mut zone, &mut world, step);
        }
        let expected = world.says(&candidates());
        for (name, said) in &expected {
            prop_assert_eq!(&zone_says(&zone, name), said, "{}", name);
        }

        // One that hears only what there is now says the same and keeps no more.
        let mut fresh = self::zone();
        list(&mut fresh, &world, 1, true);
        for (name, said) in &expected {
            prop_assert_eq!(&zone_says(&fresh, name), said, "{}", name);
        }
        prop_assert_eq!(zone.size(), fresh.size());
        prop_assert_eq!(zone.size().endpoints, world.slices.values().map(|one| one.endpoints.len()).sum::<usize>());
    }
}

proptest! {
    #[test]
    fn a_zone_that_is_kept_is_the_same_after_a_restart(before in vec(step(), 1..30), after in vec(step(), 1..10)) {
        let (mut zone, mut world) = (zone(), World::default());
        list(&mut zone, &world, 1, true);
        before.into_iter().for_each(|step| run(&mut zone, &mut world, step));
        let mut restored = restart(&zone);
        prop_assert!(!restored.is_synced());
        prop_assert_eq!(restored.size(), zone.size());
        let expected = world.says(&candidates());
        for (name, said) in &expected {
            prop_assert_eq!(&restored_says(&restored, name), said, "{}", name);
        }
        prop_assert_eq!(restart(&restored).size(), zone.size());

        // What happened while nobody listened is heard by and by, and then nothing is left of what was kept.
        after.into_iter().for_each(|step| run(&mut zone, &mut world, step));
        list(&mut restored, &world, 2, false);
        prop_assert!(!restored.is_synced());
        list(&mut restored, &world, 1, true);
        for (name, said) in &world.says(&candidates()) {
            prop_assert_eq!(&zone_says(&restored, name), said, "{}", name);
        }
        let mut fresh = self::zone();
        list(&mut fresh, &world, 1, true);
        prop_assert_eq!(restored.size(), fresh.size());
    }
}

#[test]
fn a_zone_of_many_parts_is_kept_whole() {
    let mut world = World::default();
    for number in 0..200 {
        let service = Service {
            key: ServiceKey::new("x", format!("s{number}")),
            uid: Arc::from("uid"),
            kind: ServiceType::ClusterIp,
            not_ours: false,
            cluster_ips: [].into(),
            headless: true,
            external_name: None,
            ports: [].into(),
            external_ips: [].into(),
            ingress: [].into(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity_seconds: None,
            source_ranges: None,
            health_check_port: None,
        };
        world.services.insert(service.key.clone(), service);
    }
    let mut zone = zone();
    list(&mut zone, &world, 1, true);
    assert_eq!(zone.size().services, 200);
    assert_eq!(restart(&zone).size(), zone.size());
}

#[test]
fn nothing_is_left_of_what_is_gone() {
    let mut zone = zone();
    let world = World::default();
    list(&mut zone, &world, 1, true);
    let before = zone.size();
    let key = ServiceKey::new("x", "a");
    for serial in 0..3 {
        let slice = EndpointSlice {
            key: SliceKey::new("x", "s"),
            service: "a".into(),
            address_type: AddressType::Ipv4,
            ports: [].into(),
            endpoints: [].into(),
        };
        zone.hear(&Event::Slice(slice.clone()));
        assert_eq!(zone_says(&zone, "x.svc.cluster.local"), Some(Default::default()), "{serial}");
        zone.hear(&Event::SliceGone(slice.key));
        zone.hear(&Event::ServiceGone(key.clone()));
        assert_eq!(zone_says(&zone, "x.svc.cluster.local"), None);
        assert_eq!(zone.size(), before);
    }
}
