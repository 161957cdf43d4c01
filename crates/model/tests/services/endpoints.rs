//! Which endpoints a Service port has.

use std::sync::Arc;

use weft_model::{
    Protocol,
    services::{
        AddressType, Endpoint, EndpointSlice, Event, Planner, Protected, Service, ServicePort, SlicePort,
        is_special,
    },
};

use crate::build::*;

#[test]
fn new_connections_go_to_ready_endpoints_and_all_are_known() {
    let plan = plan_with(
        &service("web"),
        &[ready("10.0.0.1"), not_ready("10.0.0.2"), draining("10.0.0.3"), dying("10.0.0.4")],
    );
    assert_eq!(text(&plan.internal), "10.0.0.1:8080");
    let known: Vec<_> = plan.known.iter().map(|one| (one.key.address.to_string(), one.serving)).collect();
    assert_eq!(
        known,
        [
            ("10.0.0.1".to_owned(), true),
            ("10.0.0.2".to_owned(), false),
            ("10.0.0.3".to_owned(), true),
            ("10.0.0.4".to_owned(), false)
        ]
    );
}

#[test]
fn when_none_is_ready_those_that_drain_are_used() {
    let plan = plan_with(&service("web"), &[not_ready("10.0.0.2"), draining("10.0.0.3"), dying("10.0.0.4")]);
    assert_eq!(text(&plan.internal), "10.0.0.3:8080");
}

#[test]
fn not_ready_and_dying_endpoints_are_as_none_at_all() {
    let plan = plan_with(&service("web"), &[not_ready("10.0.0.2"), dying("10.0.0.4")]);
    assert_eq!(text(&plan.internal), "reject");
    assert_eq!(plan.known.len(), 2);
}

#[test]
fn publish_not_ready_addresses_shows_up_as_ready_though_terminating() {
    let published = weft_model::services::Endpoint { ready: true, ..dying("10.0.0.1") };
    let plan = plan_with(&service("web"), &[published]);
    assert_eq!(text(&plan.internal), "10.0.0.1:8080");
}

#[test]
fn a_service_has_many_slices() {
    let slices = [slice("a", "web", &[ready("10.0.0.1")]), slice("b", "web", &[ready("10.0.0.2")])];
    assert_eq!(text(&plan(&service("web"), &slices).internal), "10.0.0.1:8080 10.0.0.2:8080");
}

#[test]
fn an_endpoint_in_two_slices_is_one_and_the_non_terminating_one_counts() {
    for (a, b) in [("a", "b"), ("b", "a")] {
        let slices = [
            slice(a, "web", &[draining("10.0.0.1"), ready("10.0.0.2")]),
            slice(b, "web", &[ready("10.0.0.1")]),
        ];
        let plan = plan(&service("web"), &slices);
        assert_eq!(text(&plan.internal), "10.0.0.1:8080 10.0.0.2:8080");
        assert_eq!(plan.known.len(), 2);
        // Whatever else is said of it.
        let published = Endpoint { ready: true, ..draining("10.0.0.1") };
        let slices = [slice(a, "web", &[published]), slice(b, "web", &[not_ready("10.0.0.1")])];
        assert_eq!(text(&crate::build::plan(&service("web"), &slices).internal), "reject");
    }
}

#[test]
fn slices_may_come_before_their_service_and_go_after_it() {
    let mut planner = planner(&[], &[slice("s", "web", &[ready("10.0.0.1")])]);
    assert!(planner.take_changes().ports.is_empty());
    planner.set_service(service("web"));
    assert_eq!(text(&present(planner.take_changes())[0].1.internal), "10.0.0.1:8080");
    planner.remove_service(&service("web").key);
    assert_eq!(planner.take_changes().ports[0].1, None);
    planner.remove_slice(&slice("s", "web", &[]).key);
    assert!(planner.take_changes().ports.is_empty());
    assert_eq!(planner.counts(), Default::default());
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let (web, mut api) = (service("web"), service("api"));
    api.cluster_ips = [ip("10.96.0.2")].into();
    let mut planner = planner(&[web, api], &[slice("s", "web", &[ready("10.0.0.1")])]);
    planner.take_changes();
    planner.set_slice(slice("s", "api", &[ready("10.0.0.1")]));
    let plans = present(planner.take_changes());
    assert_eq!(
        plans.iter().map(|(_, plan)| text(&plan.internal)).collect::<Vec<_>>(),
        ["10.0.0.1:8080", "reject"]
    );
}

#[test]
fn a_named_target_port_is_another_number_on_other_pods() {
    let ports = |number| EndpointSlice {
        ports: [target("http", number)].into(),
        ..slice(&format!("s{number}"), "web", &[ready(&format!("10.0.0.{}", number - 8000))])
    };
    let service = Service { ports: [port("http", 80)].into(), ..service("web") };
    let plan = plan(&service, &[ports(8001), ports(8002)]);
    assert_eq!(text(&plan.internal), "10.0.0.1:8001 10.0.0.2:8002");
}

#[test]
fn a_port_takes_the_endpoints_of_its_own_name_and_protocol() {
    let mut web = service("web");
    let udp = |port: ServicePort| ServicePort { protocol: Protocol::Udp, ..port };
    web.ports = [port("dns", 53), udp(port("dns-udp", 53)), port("other", 54)].into();
    let mut one = slice("s", "web", &[ready("10.0.0.1")]);
    one.ports = [
        target("dns", 5353),
        SlicePort { protocol: Protocol::Udp, ..target("dns-udp", 5354) },
        SlicePort { protocol: Protocol::Udp, ..target("other", 5355) },
    ]
    .into();
    let plans = plans(&[web], &[one]);
    let texts: Vec<_> =
        plans.iter().map(|(key, plan)| format!("{} {}", key.port, text(&plan.internal))).collect();
    assert_eq!(texts, ["dns 10.0.0.1:5353", "dns-udp 10.0.0.1:5354", "other reject"]);
}

#[test]
fn the_same_port_on_tcp_udp_and_sctp_is_three() {
    let mut web = service("web");
    web.ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .map(|protocol| ServicePort { protocol, ..port(&protocol.to_string(), 80) })
        .into();
    let plans = plans(&[web], &[]);
    assert_eq!(plans.len(), 3);
    assert!(plans.iter().all(|(_, plan)| plan.frontends.len() == 1), "none takes it from another");
}

#[test]
fn fqdn_slices_are_skipped() {
    let names =
        EndpointSlice { address_type: AddressType::Fqdn, ..slice("s", "web", &[here(ready("10.0.0.1"))]) };
    let plan = plan(&service("web"), &[names]);
    assert_eq!(text(&plan.internal), "reject");
    assert!(plan.known.is_empty());
}

#[test]
fn slices_of_another_namespace_are_not_a_services() {
    let mut other = slice("s", "web", &[ready("10.0.0.1")]);
    other.key.namespace = Arc::from("bank");
    assert_eq!(text(&plan(&service("web"), &[other]).internal), "reject");
}

#[test]
fn families_are_planned_apart() {
    let mut web = service("web");
    web.cluster_ips = [ip("fd00:96::1"), ip("10.96.0.1")].into();
    let six = EndpointSlice { address_type: AddressType::Ipv6, ..slice("six", "web", &[ready("fd00::1")]) };
    let plans = plans(&[web], &[six, slice("four", "web", &[ready("10.0.0.1")])]);
    let texts: Vec<_> =
        plans.iter().map(|(key, plan)| (key.ipv6, text(&plan.internal), plan.frontends[0].address)).collect();
    assert_eq!(
        texts,
        [
            (false, "10.0.0.1:8080".to_owned(), ip("10.96.0.1")),
            (true, "fd00::1:8080".to_owned(), ip("fd00:96::1"))
        ]
    );
}

#[test]
fn one_endpoints_change_plans_one_port_family_again() {
    let mut web = service("web");
    web.cluster_ips = [ip("fd00:96::1"), ip("10.96.0.1")].into();
    let mut other = service("other");
    other.cluster_ips = [ip("10.96.0.2")].into();
    let mut planner = planner(&[web, other], &[slice("s", "web", &[ready("10.0.0.1")])]);
    planner.take_changes();
    planner.set_slice(slice("s", "web", &[not_ready("10.0.0.1")]));
    let changed = present(planner.take_changes());
    assert_eq!(changed.len(), 1);
    assert_eq!((changed[0].0.service.name.as_ref(), changed[0].0.ipv6), ("web", false));
}

#[test]
fn what_changes_nothing_is_no_change() {
    let mut planner = planner(&[service("web")], &[slice("s", "web", &[ready("10.0.0.1")])]);
    planner.take_changes();
    planner.set_service(service("web"));
    planner.set_slice(slice("s", "web", &[ready("10.0.0.1")]));
    planner.set_node(&this_node().addresses, this_node().zone.as_deref());
    assert!(!planner.has_changes());
}

#[test]
fn equal_choices_share_one_list() {
    let plan = plan_with(&load_balancer("web"), &[here(ready("10.0.0.1"))]);
    assert!(Arc::ptr_eq(&plan.internal.backends, &plan.external.backends));
    let local =
        Service { external_policy: weft_model::services::TrafficPolicy::Local, ..load_balancer("web") };
    let plan = plan_with(&local, &[here(ready("10.0.0.1"))]);
    assert!(Arc::ptr_eq(&plan.internal.backends, &plan.external.backends));
}

/// E3: an endpoint that is a Service's address would lead to that Service, and perhaps back.
#[test]
fn e3_addresses_of_the_service_range_are_not_taken() {
    let service_ranges = ["10.96.0.0/16".parse().unwrap()].into();
    let mut node = this_node();
    node.protected = Protected { service_ranges, ..Protected::default() };
    let mut planner = Planner::new(node);
    planner.hear(Event::Service(service("web")));
    planner.hear(Event::Slice(slice("s", "web", &[ready("10.96.0.7"), ready("10.0.0.1")])));
    let plan = present(planner.take_changes()).remove(0).1;
    assert_eq!(text(&plan.cluster), "10.0.0.1:8080");
    let said = planner.refusals().remove(0).to_string();
    assert!(said.contains("10.96.0.7") && said.contains("Service range 10.96.0.0/16"), "{said}");
    planner.hear(Event::ServiceGone(service("web").key));
    assert_eq!(planner.refusals(), [], "of a Service that is gone nothing is told, though its slice stays");
}

/// E17: what every node has for itself is nobody's endpoint.
#[test]
fn loopback_link_local_and_multicast_endpoints_are_not_taken() {
    let named =
        ["127.0.0.1", "127.1.2.3", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1"];
    let endpoints = named.map(ready);
    let mut planner = planner(&[service("web")], &[slice("s", "web", &endpoints)]);
    let plan = present(planner.take_changes()).remove(0).1;
    assert_eq!(text(&plan.cluster), "10.0.0.1:8080");
    assert_eq!(plan.known.len(), 1);
    let refused = planner.refusals();
    assert_eq!(refused.len(), 6);
    assert_eq!(refused[0].slice.as_ref().unwrap().to_string(), "shop/s");
    planner.hear(Event::Slice(slice("s", "web", &[ready("10.0.0.1")])));
    assert!(planner.refusals().is_empty());
    for address in ["::1", "fe80::1", "::", "ff02::1", "::ffff:127.0.0.1"] {
        assert!(is_special(ip(address)), "{address}");
    }
    for address in ["fd00::1", "2001:db8::1", "10.0.0.1", "100.64.0.1"] {
        assert!(!is_special(ip(address)), "{address}");
    }
}
