//! What health checks and announcements are told.

use weft_model::services::{AddressType, EndpointSlice, LocalEndpoints, Service, TrafficPolicy};

use crate::build::*;

fn checked() -> Service {
    Service { external_policy: TrafficPolicy::Local, health_check_port: Some(32_000), ..load_balancer("web") }
}

#[test]
fn a_health_check_counts_local_ready_endpoints_and_no_terminating_ones() {
    let endpoints = [
        here(ready("10.0.0.1")),
        here(ready("10.0.0.2")),
        here(draining("10.0.0.3")),
        here(not_ready("10.0.0.4")),
        on("there", ready("10.0.0.5")),
    ];
    let mut planner = planner(&[checked()], &[slice("s", "web", &endpoints)]);
    let changes = planner.take_changes();
    let check = changes.health_checks[0].1.as_ref().unwrap();
    assert_eq!((check.port, check.local), (32_000, LocalEndpoints { ipv4: 2, ipv6: 0 }));
    assert!(check.on_ipv4 && !check.on_ipv6);
    assert!(changes.load_balancers[0].1.as_ref().unwrap().local_only);
}

#[test]
fn an_endpoint_of_several_ports_and_slices_counts_once() {
    let two = EndpointSlice {
        ports: [target("", 8080), target("b", 8081)].into(),
        ..slice("t", "web", &[here(ready("10.0.0.1"))])
    };
    let six =
        EndpointSlice { address_type: AddressType::Ipv6, ..slice("six", "web", &[here(ready("fd00::1"))]) };
    let mut planner = planner(&[checked()], &[slice("s", "web", &[here(ready("10.0.0.1"))]), two, six]);
    let check = planner.take_changes().health_checks.remove(0).1.unwrap();
    assert_eq!(check.local, LocalEndpoints { ipv4: 1, ipv6: 1 });
}

#[test]
fn a_change_that_leaves_the_count_is_not_told() {
    let mut planner = planner(&[checked()], &[slice("s", "web", &[here(ready("10.0.0.1"))])]);
    planner.take_changes();
    planner.set_slice(slice("s", "web", &[here(ready("10.0.0.1")), on("there", ready("10.0.0.2"))]));
    let changes = planner.take_changes();
    assert_eq!(changes.ports.len(), 1);
    assert!(changes.health_checks.is_empty() && changes.load_balancers.is_empty());
    planner.set_slice(slice("s", "web", &[]));
    assert_eq!(planner.take_changes().health_checks[0].1.as_ref().unwrap().local.ipv4, 0);
    planner.remove_service(&checked().key);
    let gone = planner.take_changes();
    assert_eq!((gone.health_checks[0].1.as_ref(), gone.load_balancers[0].1.as_ref()), (None, None));
}

#[test]
fn a_health_check_needs_policy_local() {
    let mut planner = planner(&[Service { external_policy: TrafficPolicy::Cluster, ..checked() }], &[]);
    assert!(planner.take_changes().health_checks.is_empty());
}

#[test]
fn a_whole_plan_does_not_forget_what_others_were_told() {
    let mut planner = planner(&[checked()], &[]);
    planner.take_changes();
    planner.remove_service(&checked().key);
    let all = planner.take_all();
    assert!(all.ports.is_empty());
    assert_eq!(all.health_checks, [(checked().key, None)]);
}
