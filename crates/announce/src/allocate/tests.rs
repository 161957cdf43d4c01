use std::collections::HashSet;

use proptest::prelude::*;
use weft_model::services::ServiceKey;

use super::*;

fn service(name: &str) -> BalancedService {
    BalancedService {
        key: ServiceKey::new("default", name),
        uid: name.into(),
        version: "1".into(),
        created: 0,
        labels: BTreeMap::new(),
        wants_addresses: true,
        class: None,
        families: vec![false],
        needs_every_family: false,
        wishes: Vec::new(),
        held: Vec::new(),
    }
}

fn pools() -> Pools {
    "- {name: a, cidrs: [10.0.0.0/30, 'fd00::/126']}\n- {name: asked, cidrs: [10.0.1.0/30], autoAssign: false}"
        .parse()
        .unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn what_is_in_the_status_is_kept() {
    let mut one = service("one");
    one.held = ips(&["10.0.0.2"]);
    let services = [one, service("two")];
    let decisions = allocate(&services, &pools(), &BTreeSet::new());
    assert_eq!(decisions[0].addresses, ips(&["10.0.0.2"]));
    assert_ne!(decisions[1].addresses, decisions[0].addresses);
    assert!(decisions.iter().all(|decision| decision.problem.is_none()));
}

#[test]
fn of_two_with_the_same_address_the_older_keeps_it() {
    let (mut young, mut old) = (service("a"), service("b"));
    (young.created, old.created) = (2, 1);
    (young.held, old.held) = (ips(&["10.0.0.1"]), ips(&["10.0.0.1"]));
    let services = [young, old];
    let decisions = allocate(&services, &pools(), &BTreeSet::new());
    assert_eq!((decisions[0].service.created, &decisions[0].addresses), (1, &ips(&["10.0.0.1"])));
    assert_ne!(decisions[1].addresses, ips(&["10.0.0.1"]));
    assert_eq!(decisions[1].addresses.len(), 1);
}

#[test]
fn a_wish_is_met_or_its_refusal_is_said() {
    let mut has = service("has");
    has.held = ips(&["10.0.0.1"]);
    has.wishes = vec!["10.0.1.3".into()];
    let mut taken = service("taken");
    (taken.created, taken.wishes) = (1, vec!["10.0.1.3".into()]);
    let mut kept = service("kept");
    (kept.created, kept.wishes, kept.held) = (2, vec!["192.0.2.1".into()], ips(&["10.0.0.2"]));
    let mut odd = service("odd");
    (odd.created, odd.wishes) = (3, vec!["fd00::1".into()]);
    let mut wrong = service("wrong");
    (wrong.created, wrong.wishes) = (4, vec!["everything".into()]);
    let services = [has, taken, kept, odd, wrong];
    let decisions = allocate(&services, &pools(), &BTreeSet::new());
    assert_eq!((&decisions[0].addresses, &decisions[0].problem), (&ips(&["10.0.1.3"]), &None));
    assert!(decisions[1].addresses.is_empty());
    let said = |at: usize| decisions[at].problem.clone().unwrap();
    assert_eq!(said(1), Problem::Taken("10.0.1.3".parse().unwrap(), "default/has".into()));
    // It has what it had before, until it can have what it asks for.
    assert_eq!(decisions[2].addresses, ips(&["10.0.0.2"]));
    assert_eq!(said(2), Problem::NotInPool("192.0.2.1".parse().unwrap()));
    assert!(said(3).to_string().contains("does not have its family"));
    assert_eq!(said(4).reason(), "LoadBalancerAddressRefused");
}

#[test]
fn a_full_pool_is_said() {
    let services: Vec<BalancedService> = (0..5).map(|number| service(&format!("s{number}"))).collect();
    let decisions = allocate(&services, &pools(), &BTreeSet::new());
    let given: HashSet<_> = decisions.iter().flat_map(|decision| &decision.addresses).collect();
    assert_eq!(given.len(), 4);
    let problems: Vec<_> = decisions.iter().filter_map(|decision| decision.problem.as_ref()).collect();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "no free IPv4 address: pool a is full; enlarge it, or free addresses"
    );
}

#[test]
fn several_full_pools_are_named() {
    let exhausted = Problem::Exhausted { family: "IPv4", pools: vec!["a".into(), "b".into()] };
    assert_eq!(
        exhausted.to_string(),
        "no free IPv4 address: pools a, b are full; enlarge one, or free addresses"
    );
}

#[test]
fn both_families_are_given_where_there_are_both() {
    let mut dual = service("dual");
    dual.families = vec![true, false];
    let v4_only: Pools = "- {name: a, cidrs: [10.0.0.0/30]}".parse().unwrap();
    let services = [dual.clone()];
    assert_eq!(
        allocate(&services, &pools(), &BTreeSet::new())[0]
            .addresses
            .iter()
            .map(IpAddr::is_ipv6)
            .collect::<Vec<_>>(),
        [true, false]
    );
    let decisions = allocate(&services, &v4_only, &BTreeSet::new());
    assert_eq!((decisions[0].addresses.len(), &decisions[0].problem), (1, &None));
    dual.needs_every_family = true;
    let services = [dual];
    let decisions = allocate(&services, &v4_only, &BTreeSet::new());
    assert_eq!(decisions[0].problem.as_ref().unwrap().reason(), "LoadBalancerPoolExhausted");
}

#[test]
fn others_services_are_left_alone_and_old_types_are_cleared() {
    let mut other = service("other");
    other.class = Some("example.com/other".into());
    other.held = ips(&["10.0.0.1"]);
    let mut was = service("was");
    (was.wants_addresses, was.held) = (false, ips(&["10.0.0.2"]));
    let mut ours = service("ours");
    ours.class = Some(CLASS.into());
    let services = [other, was, ours];
    let decisions = allocate(&services, &pools(), &BTreeSet::new());
    let names: Vec<&str> = decisions.iter().map(|decision| &*decision.service.key.name).collect();
    assert_eq!(names, ["ours", "was"]);
    assert_eq!((decisions[0].addresses.len(), decisions[1].addresses.len()), (1, 0));
    assert!(allocate(&services, &Pools::default(), &BTreeSet::new()).is_empty());
}

#[test]
fn a_selector_keeps_a_pool_for_some() {
    let pools: Pools =
        "- {name: a, cidrs: [10.0.0.0/30], serviceSelector: {matchLabels: {tier: front}}}".parse().unwrap();
    let mut front = service("front");
    front.labels.insert("tier".into(), "front".into());
    let services = [front, service("back")];
    let decisions = allocate(&services, &pools, &BTreeSet::new());
    assert!(decisions[0].addresses.is_empty() && decisions[0].problem.is_some());
    assert_eq!(decisions[1].addresses.len(), 1);
}

#[test]
fn nodes_keep_their_addresses() {
    let mut asks = service("asks");
    asks.wishes = vec!["10.0.1.1".into()];
    let mut has = service("has");
    has.held = ips(&["10.0.0.1"]);
    let services = [asks, has];
    let nodes: BTreeSet<IpAddr> =
        ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.1.1"].iter().map(|ip| ip.parse().unwrap()).collect();
    let decisions = allocate(&services, &pools(), &nodes);
    assert!(decisions[0].problem.as_ref().unwrap().to_string().contains("it is a node's"));
    assert_eq!(decisions[1].addresses, ips(&["10.0.0.3"]));
}

fn some_service() -> impl Strategy<Value = BalancedService> {
    let address = prop_oneof![
        (0_u8..5).prop_map(|host| format!("10.0.0.{host}")),
        (0_u8..5).prop_map(|host| format!("10.0.1.{host}")),
        (0_u8..5).prop_map(|host| format!("fd00::{host}")),
    ];
    let list = proptest::collection::vec(address, 0..3);
    let families = prop_oneof![Just(vec![false]), Just(vec![true]), Just(vec![false, true])];
    (0_u8..6, 0_i64..3, any::<bool>(), families, list.clone(), list).prop_map(
        |(name, created, wants_addresses, families, wishes, held)| BalancedService {
            created,
            wants_addresses,
            families,
            wishes,
            held: held.iter().map(|text| text.parse().unwrap()).collect(),
            ..service(&format!("s{name}"))
        },
    )
}

proptest! {
    /// Whatever the Services ask for and hold: no address is given twice or from outside the pools, the order of input
    /// does not matter, and what was decided stays decided.
    #[test]
    fn allocation_is_sound_and_stable(services in proptest::collection::vec(some_service(), 0..8)) {
        let services: BTreeMap<_, _> = services.into_iter().map(|service| (service.key.clone(), service)).collect();
        let services: Vec<BalancedService> = services.into_values().collect();
        let pools = pools();
        let decisions = allocate(&services, &pools, &BTreeSet::new());
        let mut seen = HashSet::new();
        for decision in &decisions {
            for address in &decision.addresses {
                prop_assert!(seen.insert(*address), "{address} twice");
                prop_assert!(pools.of(*address).is_some());
                prop_assert!(decision.service.families.contains(&address.is_ipv6()));
            }
        }
        let mut reversed = services.clone();
        reversed.reverse();
        prop_assert_eq!(&allocate(&reversed, &pools, &BTreeSet::new()), &decisions);
        let mut written = services.clone();
        for service in &mut written {
            if let Some(decision) = decisions.iter().find(|decision| decision.service.key == service.key) {
                service.held.clone_from(&decision.addresses);
            }
        }
        let again = allocate(&written, &pools, &BTreeSet::new());
        for decision in &again {
            prop_assert_eq!(&decision.addresses, &decision.service.held);
        }
    }
}
