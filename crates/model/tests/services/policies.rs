//! Traffic policies, each after its own filter; refused or dropped.

use weft_model::services::{Service, TrafficPolicy};

use crate::build::*;

fn local_internal() -> Service {
    Service { internal_policy: TrafficPolicy::Local, ..load_balancer("web") }
}

fn local_external() -> Service {
    Service { external_policy: TrafficPolicy::Local, ..load_balancer("web") }
}

#[test]
fn internal_policy_rules_the_cluster_ip_alone() {
    let plan = plan_with(&local_internal(), &[here(ready("10.0.0.1")), on("there", ready("10.0.0.2"))]);
    assert_eq!(text(&plan.internal), "10.0.0.1:8080");
    assert_eq!(text(&plan.external), "10.0.0.1:8080 10.0.0.2:8080");
    assert_eq!(text(&plan.cluster), "10.0.0.1:8080 10.0.0.2:8080");
}

#[test]
fn external_policy_rules_what_comes_from_outside_and_pods_and_the_node_are_served_as_cluster() {
    let plan = plan_with(&local_external(), &[here(ready("10.0.0.1")), on("there", ready("10.0.0.2"))]);
    assert_eq!(text(&plan.external), "10.0.0.1:8080");
    assert_eq!(text(&plan.internal), "10.0.0.1:8080 10.0.0.2:8080");
    assert_eq!(text(&plan.cluster), "10.0.0.1:8080 10.0.0.2:8080");
}

#[test]
fn the_fallback_to_draining_endpoints_comes_after_each_policys_own_filter() {
    let endpoints = [here(draining("10.0.0.1")), on("there", ready("10.0.0.2"))];
    let plan = plan_with(&local_external(), &endpoints);
    assert_eq!(text(&plan.external), "10.0.0.1:8080", "none is ready here");
    assert_eq!(text(&plan.cluster), "10.0.0.2:8080", "one is ready elsewhere");
    let plan = plan_with(&local_internal(), &endpoints);
    assert_eq!(text(&plan.internal), "10.0.0.1:8080");
    assert_eq!(text(&plan.external), "10.0.0.2:8080");
}

#[test]
fn local_and_none_here_is_dropped_for_that_policy_alone() {
    let elsewhere = [on("there", ready("10.0.0.2"))];
    let plan = plan_with(&local_external(), &elsewhere);
    assert_eq!((text(&plan.external), text(&plan.internal)), ("drop".to_owned(), "10.0.0.2:8080".to_owned()));
    let plan = plan_with(&local_internal(), &elsewhere);
    assert_eq!((text(&plan.internal), text(&plan.external)), ("drop".to_owned(), "10.0.0.2:8080".to_owned()));
}

#[test]
fn local_and_only_draining_ones_elsewhere_is_dropped() {
    assert_eq!(text(&plan_with(&local_external(), &[on("there", draining("10.0.0.2"))]).external), "drop");
}

#[test]
fn none_anywhere_is_refused_whatever_the_policy() {
    for service in [local_external(), local_internal(), load_balancer("web")] {
        for endpoints in [&[][..], &[here(not_ready("10.0.0.1"))]] {
            let plan = plan_with(&service, endpoints);
            assert_eq!([text(&plan.internal), text(&plan.cluster), text(&plan.external)], ["reject"; 3]);
        }
    }
}

#[test]
fn an_endpoint_without_a_node_is_not_local() {
    assert_eq!(text(&plan_with(&local_external(), &[ready("10.0.0.1")]).external), "drop");
}

#[test]
fn affinity_is_as_long_as_the_service_says() {
    let service = Service { affinity_seconds: Some(10_800), ..service("web") };
    assert_eq!(plan_with(&service, &[]).affinity_seconds, Some(10_800));
}
