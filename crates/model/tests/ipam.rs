//! Address allocation against a set-based reference, in random order.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use proptest::prelude::*;
use weft_model::{Ipam, PodRange};

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn first_addresses_leave_the_nodes_own_out() {
    let mut ipam = Ipam::new(&nets(&["10.244.1.0/24", "fd00:10:244:1::/64"])).unwrap();
    assert_eq!(ipam.allocate().unwrap(), [ip("10.244.1.2"), ip("fd00:10:244:1::3")]);
    assert_eq!(ipam.allocate().unwrap(), [ip("10.244.1.3"), ip("fd00:10:244:1::4")]);
}

#[test]
fn exhaustion_names_the_range_and_takes_nothing_of_the_other() {
    let mut ipam = Ipam::new(&nets(&["fd00:10:244:1::/64", "10.244.1.0/30"])).unwrap();
    let first = ipam.allocate().unwrap();
    let free = ipam.free().collect::<Vec<_>>();
    let error = ipam.allocate().unwrap_err();
    assert_eq!(error.range, "10.244.1.0/30".parse().unwrap());
    assert!(error.to_string().contains("10.244.1.0/30"), "{error}");
    assert_eq!(ipam.free().collect::<Vec<_>>(), free);
    ipam.release(&first);
    assert_eq!(ipam.allocate().unwrap()[1], ip("10.244.1.2"));
}

#[test]
fn a_released_address_rests() {
    let mut ipam = Ipam::new(&nets(&["10.244.1.0/24"])).unwrap();
    let first = ipam.allocate().unwrap();
    ipam.release(&first);
    let until = (0..).position(|_| {
        let next = ipam.allocate().unwrap();
        ipam.release(&next);
        next == first
    });
    assert_eq!(until, Some(252), "it comes back only when all others had their turn");
}

#[test]
fn an_address_just_before_the_cursor_rests_too() {
    let mut ipam = Ipam::new(&nets(&["10.244.1.0/28"])).unwrap();
    let all: Vec<_> = (0..13).map(|_| ipam.allocate().unwrap()).collect();
    ipam.release(&all[5]);
    ipam.release(&all[0]);
    assert_eq!(ipam.allocate().unwrap(), all[5], "the one that has rested longest");
    assert_eq!(ipam.allocate().unwrap(), all[0]);
    assert!(ipam.allocate().is_err());
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let ranges = nets(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
    let mut ipam = Ipam::new(&ranges).unwrap();
    let kept = ipam.allocate().unwrap();
    let gone = ipam.allocate().unwrap();
    let cursor = ipam.cursor();
    let mut again = Ipam::new(&ranges).unwrap();
    again.reserve(&kept).unwrap();
    again.resume(&cursor);
    assert_ne!(again.allocate().unwrap(), gone);
}

#[test]
fn a_huge_range_costs_nothing() {
    let mut ipam = Ipam::new(&nets(&["fd00::/8"])).unwrap();
    for _ in 0..100 {
        ipam.allocate().unwrap();
    }
    ipam.reserve(&[ip("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]).unwrap();
}

#[test]
fn two_ranges_of_a_family_are_refused() {
    let error = Ipam::new(&nets(&["10.244.1.0/24", "10.244.2.0/24"])).unwrap_err().to_string();
    assert!(error.contains("10.244.1.0/24") && error.contains("10.244.2.0/24"), "{error}");
}

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    Release(usize),
    ReleaseFree(u8),
    Reserve(u8),
    ReserveHeldAndFree(u8),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Allocate),
        4 => any::<usize>().prop_map(Step::Release),
        1 => any::<u8>().prop_map(Step::ReleaseFree),
        2 => any::<u8>().prop_map(Step::Reserve),
        1 => any::<u8>().prop_map(Step::ReserveHeldAndFree),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..400)
}

fn range_sets() -> impl Strategy<Value = Vec<IpNet>> {
    prop_oneof![
        Just(nets(&["10.244.1.0/28"])),
        Just(nets(&["10.244.1.0/24"])),
        Just(nets(&["fd00::/124"])),
        Just(nets(&["10.244.1.0/29", "fd00::/64"])),
        Just(nets(&["fd00::/125", "10.244.1.0/26"])),
    ]
}

/// The naive one: the set of all Pod addresses that are in use, by range.
#[derive(Default)]
struct Reference {
    used: BTreeMap<IpNet, BTreeSet<IpAddr>>,
}

impl Reference {
    fn take(&mut self, range: &PodRange, address: IpAddr) {
        assert!(range.has_pod_address(address), "{address} is no Pod's in {}", range.net());
        assert!(self.used.entry(range.net()).or_default().insert(address), "{address} given twice");
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.used.values().any(|used| used.contains(&address))
    }

    fn full(&self, range: &PodRange) -> bool {
        self.used.get(&range.net()).map_or(0, BTreeSet::len) as u128 == range.capacity()
    }
}

proptest! {
    #[test]
    fn agrees_with_the_reference(ranges in range_sets(), steps in steps()) {
        let layout: Vec<PodRange> = ranges.iter().map(|&r| PodRange::new(r).unwrap()).collect();
        let mut ipam = Ipam::new(&ranges).unwrap();
        let mut reference = Reference::default();
        let mut held: Vec<Vec<IpAddr>> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate => match ipam.allocate() {
                    Ok(addresses) => {
                        prop_assert_eq!(addresses.len(), layout.len());
                        layout.iter().zip(&addresses).for_each(|(range, &a)| reference.take(range, a));
                        held.push(addresses);
                    }
                    Err(error) => {
                        let full = layout.iter().find(|range| reference.full(range)).map(PodRange::net);
                        prop_assert_eq!(Some(error.range), full);
                    }
                },
                Step::Release(i) if !held.is_empty() => {
                    let addresses = held.swap_remove(i % held.len());
                    ipam.release(&addresses);
                    reference.used.values_mut().for_each(|used| used.retain(|a| !addresses.contains(a)));
                }
                Step::Release(_) => {}
                Step::ReleaseFree(n) => {
                    let address = nth(&layout[0], n);
                    if !reference.holds(address) {
                        ipam.release(&[address]);
                    }
                }
                Step::Reserve(n) => {
                    let addresses: Vec<_> = layout.iter().map(|range| nth(range, n)).collect();
                    let possible = addresses.iter().zip(&layout)
                        .all(|(&a, range)| range.has_pod_address(a) && !reference.holds(a));
                    prop_assert_eq!(ipam.reserve(&addresses).is_ok(), possible);
                    if possible {
                        layout.iter().zip(&addresses).for_each(|(range, &a)| reference.take(range, a));
                        held.push(addresses);
                    }
                }
                Step::ReserveHeldAndFree(n) => if let Some(taken) = held.first() {
                    let mixed = [nth(&layout[0], n), taken[0]];
                    prop_assert!(ipam.reserve(&mixed).is_err());
                },
                Step::Restart => {
                    let cursor = ipam.cursor();
                    ipam = Ipam::new(&ranges).unwrap();
                    for addresses in &held {
                        ipam.reserve(addresses).unwrap();
                    }
                    ipam.resume(&cursor);
                }
            }
            for (range, (net, free)) in layout.iter().zip(ipam.free()) {
                prop_assert_eq!(net, range.net());
                prop_assert_eq!(free, range.capacity() - reference.used.get(&net).map_or(0, BTreeSet::len) as u128);
            }
            for address in held.iter().flatten() {
                prop_assert!(ipam.is_used(*address));
            }
        }
    }
}

/// The `n`th address from the range's base, the node's own and the broadcast address included.
fn nth(range: &PodRange, n: u8) -> IpAddr {
    match range.net().network() {
        IpAddr::V4(base) => std::net::Ipv4Addr::from_bits(base.to_bits() + u32::from(n % 32)).into(),
        IpAddr::V6(base) => std::net::Ipv6Addr::from_bits(base.to_bits() + u128::from(n % 32)).into(),
    }
}
