//! Services and NetworkPolicies.

use serde_json::{Map, Value, json};

use super::ports;
use crate::meta::{default, map};

pub(super) fn service(service: &mut Map<String, Value>) {
    let spec = map(service, "spec");
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if spec.get("sessionAffinity").is_some_and(|affinity| affinity == "ClientIP") {
        default(map(map(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10_800);
    } else {
        spec.remove("sessionAffinityConfig");
    }
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", "Cluster");
    } else if spec.get("externalIPs").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.remove("externalTrafficPolicy");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    } else {
        spec.remove("allocateLoadBalancerNodePorts");
    }
    ports(spec, "ports", false);
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(port) = port
            && let Some(number) = port.get("port").cloned()
        {
            default(port, "targetPort", number);
        }
    }
}

pub(super) fn network_policy(policy: &mut Map<String, Value>) {
    let spec = map(policy, "spec");
    default(spec, "podSelector", json!({}));
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    let kinds = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    default(spec, "policyTypes", kinds);
    for direction in ["ingress", "egress"] {
        for rule in spec.get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(rule) = rule {
                ports(rule, "ports", false);
            }
        }
    }
}
