//! Services.

use std::collections::BTreeSet;

use serde_json::Value;

use super::network::{PROTOCOLS, cidr, ip, reachable};
use super::{Errors, list, metadata, names, one_of, pod, port_number};
use crate::error::FieldError;

/// The longest that a client may come back to the same backend, in seconds.
const LONGEST_AFFINITY: i64 = 86_400;

pub(super) fn check(spec: &Value, errors: &mut Errors) {
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(&spec["type"], "spec.type", &kinds, errors);
    one_of(&spec["sessionAffinity"], "spec.sessionAffinity", &["ClientIP", "None"], errors);
    let policies = ["Cluster", "Local"];
    one_of(&spec["externalTrafficPolicy"], "spec.externalTrafficPolicy", &policies, errors);
    one_of(&spec["internalTrafficPolicy"], "spec.internalTrafficPolicy", &policies, errors);
    let families = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(&spec["ipFamilyPolicy"], "spec.ipFamilyPolicy", &families, errors);
    for (at, family) in list(&spec["ipFamilies"], "spec.ipFamilies", errors).iter().enumerate() {
        one_of(family, &format!("spec.ipFamilies[{at}]"), &["IPv4", "IPv6"], errors);
    }
    let near = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    one_of(&spec["trafficDistribution"], "spec.trafficDistribution", &near, errors);
    metadata::labels(&spec["selector"], "spec.selector", errors);
    let headless = spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None";
    if spec["type"] == "ExternalName" {
        let name = spec["externalName"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else if let Err(why) = names::dns_subdomain(name.trim_end_matches('.')) {
            errors.push(FieldError::invalid("spec.externalName", &spec["externalName"], why));
        }
    } else if headless && spec["type"] != "ClusterIP" {
        let why = "may not be set to 'None' for LoadBalancer or NodePort services";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &"None".into(), why));
    }
    let ports = list(&spec["ports"], "spec.ports", errors);
    if ports.is_empty() && !headless && spec["type"] != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    service_ports(ports, errors);
    for (at, address) in list(&spec["externalIPs"], "spec.externalIPs", errors).iter().enumerate() {
        let field = format!("spec.externalIPs[{at}]");
        ip(address, &field, errors);
        reachable(address, &field, errors);
    }
    affinity(spec, errors);
    by_type(spec, errors);
}

fn affinity(spec: &Value, errors: &mut Errors) {
    let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if spec["sessionAffinity"] == "ClientIP"
        && timeout.as_i64().is_none_or(|seconds| !(1..=LONGEST_AFFINITY).contains(&seconds))
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let why = format!("must be greater than 0 and less than {LONGEST_AFFINITY}");
        errors.push(FieldError::invalid(field, timeout, why));
    }
}

/// Fields that only some types of Services have.
fn by_type(spec: &Value, errors: &mut Errors) {
    let balanced = spec["type"] == "LoadBalancer";
    let external = balanced
        || spec["type"] == "NodePort"
        || spec["externalIPs"].as_array().is_some_and(|addresses| !addresses.is_empty());
    if spec["type"] == "ClusterIP" {
        for (at, port) in spec["ports"].as_array().into_iter().flatten().enumerate() {
            if port["nodePort"].as_u64().is_some_and(|number| number != 0) {
                let why = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(format!("spec.ports[{at}].nodePort"), why));
            }
        }
    }
    if !external && !spec["externalTrafficPolicy"].is_null() {
        let why = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", &spec["externalTrafficPolicy"], why));
    }
    let health = &spec["healthCheckNodePort"];
    let checked = balanced && spec["externalTrafficPolicy"] == "Local";
    if !checked && health.as_u64().is_some_and(|number| number != 0) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid("spec.healthCheckNodePort", health, why));
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges"] {
        let given = !spec[field].is_null() && spec[field].as_array().is_none_or(|list| !list.is_empty());
        if !balanced && given {
            let why = "may only be used when `type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden(format!("spec.{field}"), why));
        }
    }
    if let Some(class) = spec["loadBalancerClass"].as_str()
        && let Err(why) = names::label_key(class)
    {
        errors.push(FieldError::invalid("spec.loadBalancerClass", &spec["loadBalancerClass"], why));
    }
    let ranges = list(&spec["loadBalancerSourceRanges"], "spec.loadBalancerSourceRanges", errors);
    for (at, range) in ranges.iter().enumerate() {
        cidr(range, &format!("spec.loadBalancerSourceRanges[{at}]"), errors);
    }
}

/// What may not change while it is a load balancer.
pub(super) fn update(before: &Value, service: &Value, errors: &mut Errors) {
    let both = before["spec"]["type"] == "LoadBalancer" && service["spec"]["type"] == "LoadBalancer";
    for (field, held) in [("healthCheckNodePort", true), ("loadBalancerClass", false)] {
        let (old, new) = (&before["spec"][field], &service["spec"][field]);
        // A health port stays while there is one; a class, or that there is none, for good.
        let given = !held || (!old.is_null() && !new.is_null() && *new != 0);
        if both && given && old != new {
            errors.push(FieldError::invalid(format!("spec.{field}"), new, "may not change once set"));
        }
    }
}

/// Checks the addresses in a Service's status.
pub(super) fn status(service: &Value, errors: &mut Errors) {
    let spec = &service["spec"];
    let ingresses =
        list(&service["status"]["loadBalancer"]["ingress"], "status.loadBalancer.ingress", errors);
    if spec["type"] != "LoadBalancer" && !ingresses.is_empty() {
        let why = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden("status.loadBalancer.ingress", why));
        return;
    }
    for (at, ingress) in ingresses.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{at}]");
        if !ingress["ip"].is_null() {
            ip(&ingress["ip"], &format!("{field}.ip"), errors);
        }
        one_of(&ingress["ipMode"], &format!("{field}.ipMode"), &["Proxy", "VIP"], errors);
        if ingress["ip"].is_null() && !ingress["ipMode"].is_null() {
            let why = "may not be specified when `ip` is not set";
            errors.push(FieldError::forbidden(format!("{field}.ipMode"), why));
        }
    }
}

fn service_ports(ports: &[Value], errors: &mut Errors) {
    let (mut seen, mut used) = (BTreeSet::new(), BTreeSet::new());
    for (at, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{at}]");
        port_number(&port["port"], &format!("{at}.port"), errors);
        one_of(&port["protocol"], &format!("{at}.protocol"), PROTOCOLS, errors);
        match port["name"].as_str().unwrap_or_default() {
            "" if ports.len() > 1 => errors.push(FieldError::required(format!("{at}.name"), "")),
            "" => {}
            name => {
                if let Err(why) = names::dns_label(name) {
                    errors.push(FieldError::invalid(format!("{at}.name"), &port["name"], why));
                }
                if !seen.insert(name.to_owned()) {
                    errors.push(FieldError::duplicate(format!("{at}.name"), &port["name"]));
                }
            }
        }
        if !used.insert((port["protocol"].to_string(), port["port"].to_string())) {
            errors.push(FieldError::duplicate(at.clone(), &port["port"]));
        }
        match &port["targetPort"] {
            Value::Null => {}
            Value::String(name) => {
                if let Err(why) = pod::port_name(name) {
                    errors.push(FieldError::invalid(format!("{at}.targetPort"), &port["targetPort"], why));
                }
            }
            number => port_number(number, &format!("{at}.targetPort"), errors),
        }
    }
}
