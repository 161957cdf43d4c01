//! Hints for zones and nodes.

use weft_model::services::{Service, TrafficPolicy};

use crate::build::*;

fn chosen(endpoints: &[weft_model::services::Endpoint]) -> String {
    text(&plan_with(&service("web"), endpoints).internal)
}

#[test]
fn the_own_zone_is_preferred_when_every_ready_endpoint_has_hints() {
    assert_eq!(
        chosen(&[for_zone("zone-a", ready("10.0.0.1")), for_zone("zone-b", ready("10.0.0.2"))]),
        "10.0.0.1:8080"
    );
}

#[test]
fn one_ready_endpoint_without_hints_and_none_counts() {
    assert_eq!(
        chosen(&[for_zone("zone-a", ready("10.0.0.1")), ready("10.0.0.2")]),
        "10.0.0.1:8080 10.0.0.2:8080"
    );
}

#[test]
fn endpoints_that_are_not_ready_need_no_hints() {
    let endpoints = [
        for_zone("zone-a", ready("10.0.0.1")),
        for_zone("zone-b", ready("10.0.0.2")),
        not_ready("10.0.0.3"),
        draining("10.0.0.4"),
    ];
    assert_eq!(chosen(&endpoints), "10.0.0.1:8080");
}

#[test]
fn no_ready_endpoint_for_this_zone_and_all_are_used() {
    assert_eq!(
        chosen(&[for_zone("zone-c", ready("10.0.0.1")), for_zone("zone-b", ready("10.0.0.2"))]),
        "10.0.0.1:8080 10.0.0.2:8080"
    );
}

#[test]
fn a_node_that_does_not_know_its_zone_uses_all() {
    let endpoints = [for_zone("zone-a", ready("10.0.0.1")), for_zone("zone-b", ready("10.0.0.2"))];
    let mut planner = planner(&[service("web")], &[slice("s", "web", &endpoints)]);
    planner.set_node(&this_node().addresses, None);
    assert_eq!(text(&present(planner.take_changes())[0].1.internal), "10.0.0.1:8080 10.0.0.2:8080");
    planner.set_node(&this_node().addresses, Some("zone-b"));
    assert_eq!(text(&present(planner.take_changes())[0].1.internal), "10.0.0.2:8080");
}

#[test]
fn the_own_node_is_preferred_to_the_own_zone() {
    let both = |node, zone, address| for_node(node, for_zone(zone, ready(address)));
    let endpoints = [both("here", "zone-a", "10.0.0.1"), both("there", "zone-a", "10.0.0.2")];
    assert_eq!(chosen(&endpoints), "10.0.0.1:8080");
}

#[test]
fn none_for_this_node_and_the_zone_decides() {
    let both = |node, zone, address| for_node(node, for_zone(zone, ready(address)));
    let endpoints = [
        both("there", "zone-a", "10.0.0.1"),
        both("elsewhere", "zone-b", "10.0.0.2"),
        both("nowhere", "zone-a", "10.0.0.3"),
    ];
    assert_eq!(chosen(&endpoints), "10.0.0.1:8080 10.0.0.3:8080");
}

#[test]
fn node_hints_on_some_only_are_no_node_hints() {
    let endpoints = [for_node("here", ready("10.0.0.1")), ready("10.0.0.2")];
    assert_eq!(chosen(&endpoints), "10.0.0.1:8080 10.0.0.2:8080");
}

#[test]
fn the_fallback_to_draining_endpoints_asks_for_no_hints() {
    let endpoints = [for_zone("zone-b", draining("10.0.0.1")), draining("10.0.0.2")];
    assert_eq!(chosen(&endpoints), "10.0.0.1:8080 10.0.0.2:8080");
}

#[test]
fn policy_local_knows_no_hints() {
    let service = Service { internal_policy: TrafficPolicy::Local, ..service("web") };
    let endpoints =
        [here(for_zone("zone-b", ready("10.0.0.1"))), on("there", for_zone("zone-a", ready("10.0.0.2")))];
    assert_eq!(text(&plan_with(&service, &endpoints).internal), "10.0.0.1:8080");
}
