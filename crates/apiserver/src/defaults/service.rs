//! Services and NetworkPolicies.

use serde_json::{Map, Value, json};

use super::ports;
use crate::meta::{default, map};

pub(super) fn service(service: &mut Map<String, Value>, before: Option<&Value>) {
    let spec = map(service, "spec");
    default(spec, "type", "ClusterIP");
    if let Some(before) = before {
        drop_of_other_types(spec, &before["spec"]);
    }
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
    let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    ports(spec, "ports", false);
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(port) = port
            && let Some(number) = port.get("port").cloned()
        {
            if port.get("targetPort").is_some_and(|target| *target == 0 || target == "") {
                port.remove("targetPort");
            }
            default(port, "targetPort", number);
        }
    }
    conditions(service);
    if kind == "LoadBalancer" {
        ingress_modes(service);
    } else if before.is_some_and(|before| before["spec"]["type"] == "LoadBalancer") {
        let status = map(service, "status");
        status.insert("loadBalancer".to_owned(), json!({}));
    }
}

/// Texts that every condition has.
fn conditions(service: &mut Map<String, Value>) {
    let conditions = service.get_mut("status").and_then(|status| status.get_mut("conditions"));
    for condition in conditions.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(condition) = condition {
            default(condition, "reason", "");
            default(condition, "message", "");
        }
    }
}

/// Addresses of a load balancer are taken by the nodes, if nothing else is said.
fn ingress_modes(service: &mut Map<String, Value>) {
    let ingresses = service.get_mut("status").and_then(|status| status.pointer_mut("/loadBalancer/ingress"));
    for ingress in ingresses.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(ingress) = ingress
            && ingress.get("ip").is_some_and(|ip| ip != "")
        {
            default(ingress, "ipMode", "VIP");
        }
    }
}

/// Who changes a Service's type need not take away what only the old type had; what they set anew is theirs.
fn drop_of_other_types(spec: &mut Map<String, Value>, before: &Value) {
    let external = |spec: &Value| {
        let listed = spec["externalIPs"].as_array().is_some_and(|addresses| !addresses.is_empty());
        listed || matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"))
    };
    let now = Value::Object(spec.clone());
    let balanced = |spec: &Value| spec["type"] == "LoadBalancer";
    let checked = |spec: &Value| balanced(spec) && spec["externalTrafficPolicy"] == "Local";
    let mut unchanged = |name: &str, over: bool| {
        if over && now[name] == before[name] {
            spec.remove(name);
        }
    };
    unchanged("externalTrafficPolicy", external(before) && !external(&now));
    unchanged("healthCheckNodePort", checked(before) && !checked(&now));
    if now["type"] == "ExternalName" && before["type"] != "ExternalName" {
        for name in ["clusterIP", "clusterIPs"] {
            unchanged(name, now["clusterIPs"] == before["clusterIPs"]);
        }
        unchanged("internalTrafficPolicy", true);
        unchanged("ipFamilies", true);
        unchanged("ipFamilyPolicy", true);
    }
    let over = balanced(before) && !balanced(&now);
    for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        unchanged(name, over);
    }
    let ported = |spec: &Value| matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    if ported(before) && !ported(&now) {
        let held = |port: &Value| {
            let ports = before["ports"].as_array().into_iter().flatten();
            ports.into_iter().any(|old| old["nodePort"] == port["nodePort"])
        };
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if held(port)
                && let Value::Object(port) = port
            {
                port.remove("nodePort");
            }
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
