//! A8: what is behind nodes that give no sign of life.

use weft_model::services::{
    BackendState, Changes, Choice, ClusterDns, Endpoint, Planner, Service, ServicePortPlan, TrafficPolicy,
    Unreachable,
};

use crate::build::{ip, load_balancer, ready, service, slice, this_node};

fn beyond(addresses: &[&str]) -> Unreachable {
    Unreachable::new(addresses.iter().map(|range| range.parse().unwrap()).collect())
}

fn plan(changes: Changes) -> ServicePortPlan {
    changes.ports.into_iter().find_map(|(_, plan)| plan).unwrap()
}

fn hosts(choice: &Choice) -> Vec<String> {
    choice.backends.iter().map(|backend| backend.address.to_string()).collect()
}

fn serving(plan: &ServicePortPlan) -> Vec<bool> {
    plan.known.iter().map(|state: &BackendState| state.serving).collect()
}

fn on_node(address: &str, node: &str) -> Endpoint {
    Endpoint { node: Some(node.into()), ..ready(address) }
}

/// A planner with the Service `web` and endpoints of three nodes.
fn planner() -> Planner {
    let mut planner = Planner::new(this_node());
    planner.set_service(load_balancer("web"));
    planner.set_slice(slice(
        "web-1",
        "web",
        &[ready("10.244.1.5"), ready("10.244.2.5"), ready("10.244.3.5")],
    ));
    planner.take_changes();
    planner
}

#[test]
fn new_connections_avoid_it_and_udp_flows_leave_it() {
    let mut planner = planner();
    planner.set_unreachable(beyond(&["10.244.2.0/24"]));
    let plan = plan(planner.take_changes());
    for choice in [&plan.internal, &plan.cluster, &plan.external] {
        assert_eq!(hosts(choice), ["10.244.1.5", "10.244.3.5"]);
    }
    assert_eq!(serving(&plan), [true, false, true], "it is known, so that connections to it may go on");
    assert_eq!(planner.unreachable_endpoints(), 1);
}

#[test]
fn it_is_taken_back() {
    let mut planner = planner();
    planner.set_unreachable(beyond(&["10.244.2.0/24"]));
    planner.take_changes();
    planner.set_unreachable(beyond(&[]));
    let plan = plan(planner.take_changes());
    assert_eq!(hosts(&plan.internal), ["10.244.1.5", "10.244.2.5", "10.244.3.5"]);
    assert_eq!(serving(&plan), [true; 3]);
}

#[test]
fn a_service_is_never_emptied_by_it() {
    let mut planner = planner();
    planner.set_unreachable(beyond(&["10.244.0.0/16"]));
    let plan = plan(planner.take_changes());
    assert_eq!(hosts(&plan.internal), ["10.244.1.5", "10.244.2.5", "10.244.3.5"]);
    assert_eq!(serving(&plan), [true; 3]);
}

#[test]
fn services_that_it_is_nothing_to_are_left_alone() {
    let mut planner = planner();
    planner.set_service(service("other"));
    planner.set_slice(slice("other-1", "other", &[ready("10.244.1.9")]));
    planner.take_changes();
    planner.set_unreachable(beyond(&["10.244.2.0/24", "192.168.1.7/32"]));
    let changed: Vec<String> =
        planner.take_changes().ports.iter().map(|(key, _)| key.service.to_string()).collect();
    assert_eq!(changed, ["shop/web"]);
    planner.set_unreachable(beyond(&["10.244.2.0/24"]));
    assert!(!planner.has_changes());
}

#[test]
fn what_is_on_this_node_is_within_reach() {
    let mut planner = Planner::new(this_node());
    planner.set_service(load_balancer("web"));
    planner.set_slice(slice("web-1", "web", &[on_node("192.168.1.2", "here"), ready("10.244.3.5")]));
    planner.set_unreachable(beyond(&["192.168.1.0/24"]));
    assert_eq!(hosts(&plan(planner.take_changes()).internal), ["10.244.3.5", "192.168.1.2"]);
}

#[test]
fn the_policy_local_is_not_concerned() {
    let mut planner = planner();
    planner.set_service(Service { external_policy: TrafficPolicy::Local, ..load_balancer("web") });
    planner.set_slice(slice("web-1", "web", &[on_node("192.168.1.2", "here"), ready("10.244.2.5")]));
    planner.set_unreachable(beyond(&["10.244.2.0/24"]));
    let plan = plan(planner.take_changes());
    assert_eq!(hosts(&plan.external), ["192.168.1.2"]);
}

/// The cluster's DNS: its own endpoints, then other nodes that answer, then whatever it has.
#[test]
fn other_nodes_stand_in_for_dns_that_is_beyond_reach() {
    let mut planner = planner();
    let dns = |stand_ins: &[&str]| ClusterDns {
        addresses: vec![ip("10.96.0.1")],
        stand_ins: stand_ins.iter().map(|address| ip(address)).collect(),
    };
    planner.set_unreachable(beyond(&["10.244.0.0/16"]));
    planner.set_dns(dns(&["10.245.1.0"]));
    let with = plan(planner.take_changes());
    assert_eq!(hosts(&with.internal), ["10.245.1.0"]);
    assert_eq!(serving(&with), [false, false, false, true]);
    planner.set_dns(dns(&[]));
    assert_eq!(hosts(&plan(planner.take_changes()).internal).len(), 3);
}
