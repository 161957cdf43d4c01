//! Whatever happens to Services, no two have the same address or port, and all of it comes back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Services, addresses_of, ports_of};

/// A few addresses and ports only, so that they run out.
fn small() -> Services {
    Services::new(vec!["10.0.0.0/29".parse().unwrap(), "fd00::/125".parse().unwrap()], 30000..=30005)
}

fn spec() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    let families =
        prop::sample::select(vec![json!(null), json!(["IPv4"]), json!(["IPv6"]), json!(["IPv6", "IPv4"])]);
    let policy = prop::sample::select(vec![json!(null), json!("SingleStack"), json!("PreferDualStack")]);
    let address = prop::sample::select(vec![
        json!(null),
        json!(null),
        json!("None"),
        json!("10.0.0.2"),
        json!("10.9.9.9"),
    ]);
    let number = prop::sample::select(vec![json!(null), json!(null), json!(30000), json!(30003), json!(1)]);
    let port = (prop::sample::select(vec!["TCP", "UDP"]), number, 80..83_u16)
        .prop_map(|(protocol, number, port)| json!({"protocol": protocol, "nodePort": number, "port": port}));
    let local = prop::sample::select(vec!["Local", "Cluster"]);
    let health = prop::sample::select(vec![json!(null), json!(null), json!(30001), json!(30003)]);
    (kind, families, policy, address, prop::collection::vec(port, 1..3), local, health).prop_map(
        |(kind, families, policy, address, ports, local, health)| {
            let mut spec = json!({
                "type": kind, "ipFamilies": families, "ipFamilyPolicy": policy, "clusterIP": address,
                "ports": ports, "externalTrafficPolicy": local, "healthCheckNodePort": health,
            });
            spec.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            json!({"metadata": {"name": "s"}, "spec": spec})
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    /// Create or replace; whether the write happens after all.
    Put(u8, Value, bool),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u8, spec(), prop::bool::weighted(0.8)).prop_map(|(name, spec, kept)| Step::Put(name, spec, kept)),
        1 => (0..6_u8).prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 0..40)
}

fn check(live: &BTreeMap<u8, Value>, services: &Services) -> Result<(), TestCaseError> {
    let mut addresses: Vec<_> = live.values().flat_map(addresses_of).collect();
    let mut ports: Vec<_> = live.values().flat_map(ports_of).collect();
    let counts = (addresses.len(), ports.len());
    addresses.sort();
    addresses.dedup();
    ports.sort();
    ports.dedup();
    prop_assert_eq!((addresses.len(), ports.len()), counts, "given twice: {:?}", live);
    let taken = services.lock();
    prop_assert_eq!((taken.addresses.len(), taken.ports.len()), counts, "leaked or lost: {:?}", live);
    Ok(())
}

proptest! {
    #[test]
    fn nothing_is_given_twice_or_lost(steps in steps()) {
        let services = small();
        let mut live: BTreeMap<u8, Value> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Delete(name) => {
                    if let Some(gone) = live.remove(&name) {
                        services.free(&gone);
                    }
                }
                Step::Put(name, mut service, kept) => {
                    let before = live.get(&name).cloned();
                    let Ok(reserved) = services.reserve(&mut service, before.as_ref()) else { continue };
                    if !kept {
                        drop(reserved);
                        continue;
                    }
                    reserved.keep();
                    if let Some(before) = &before {
                        services.free_dropped(before, &service);
                    }
                    live.insert(name, service);
                }
            }
            check(&live, &services)?;
        }
    }
}

/// A12: the lower ports stay for those who ask for a number, until no others are left.
#[test]
fn ports_are_given_out_from_the_upper_part_first() {
    let mut given = Vec::new();
    let services = Services::new(vec!["10.0.0.0/16".parse().unwrap()], 30000..=32767);
    for _ in 30000..=32767 {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        services.reserve(&mut service, None).unwrap().keep();
        given.extend(ports_of(&service));
    }
    let (upper, lower) = given.split_at(32767 - 30085);
    assert!(upper.iter().all(|port| *port >= 30086), "{upper:?}");
    assert!(lower.iter().eq(&(30000..30086).collect::<Vec<u16>>()), "{lower:?}");
    let mut health = json!({"metadata": {"name": "s"}, "spec": {
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}],
    }});
    let services = Services::new(vec!["10.0.0.0/16".parse().unwrap()], 30000..=32767);
    services.reserve(&mut health, None).unwrap().keep();
    assert!(ports_of(&health).iter().all(|port| *port >= 30086), "{health}");
}

#[test]
fn an_update_that_says_nothing_of_families_keeps_them() {
    let services = small();
    let mut one = json!({"metadata": {"name": "s"}, "spec": {"type": "ClusterIP", "ipFamilies": ["IPv6"], "ports": []}});
    services.reserve(&mut one, None).unwrap().keep();
    let mut again = json!({"metadata": {"name": "s"}, "spec": {"type": "ClusterIP", "ports": []}});
    services.reserve(&mut again, Some(&one)).unwrap().keep();
    assert_eq!(again["spec"]["clusterIPs"], one["spec"]["clusterIPs"]);
    assert_eq!(again["spec"]["ipFamilies"], json!(["IPv6"]));
}
