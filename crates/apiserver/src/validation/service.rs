//! Services.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Errors, address, is_given, list, metadata, named, names, one_of, port_number, port_or_name};
use crate::error::FieldError;

/// The longest that a client may come back to the same backend, in seconds.
const LONGEST_AFFINITY: i64 = 86_400;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// A Service that no cluster IP leads to.
pub(crate) fn is_headless(spec: &Value) -> bool {
    spec["clusterIPs"][0] == "None" || spec["clusterIP"] == "None"
}

pub(super) fn check(service: &Value, errors: &mut Errors) {
    let spec = &service["spec"];
    let (headless, external) = (is_headless(spec), spec["type"] == "ExternalName");
    let ports = list(&spec["ports"], "spec.ports", errors);
    if ports.is_empty() && !headless && !external {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if let Some(kind) = spec["type"].as_str().filter(|kind| matches!(*kind, "LoadBalancer" | "NodePort"))
        && headless
    {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &"None".into(), why));
    }
    if external {
        external_name(spec, errors);
    }
    service_ports(ports, errors);
    metadata::labels(&spec["selector"], "spec.selector", errors);
    affinity(spec, errors);
    errors.extend(addresses(spec));
    for (at, external) in list(&spec["externalIPs"], "spec.externalIPs", errors).iter().enumerate() {
        let field = format!("spec.externalIPs[{at}]");
        if address::ip(external, &field, errors).is_some() {
            address::reachable(external, &field, errors);
        }
    }
    one_of(&spec["type"], "spec.type", &TYPES, errors);
    repeated(spec, ports, errors);
    by_type(spec, errors);
    let near = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    one_of(&spec["trafficDistribution"], "spec.trafficDistribution", &near, errors);
}

fn external_name(spec: &Value, errors: &mut Errors) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let given = !spec[field].is_null() && spec[field].as_array().is_none_or(|list| !list.is_empty());
        if given {
            errors.push(FieldError::forbidden(
                format!("spec.{field}"),
                "may not be set for ExternalName services",
            ));
        }
    }
    let name = spec["externalName"].as_str().unwrap_or_default();
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.push(FieldError::required("spec.externalName", "")),
        name => named(&name.into(), "spec.externalName", names::dns_subdomain, errors),
    }
}

/// Whether the addresses of a Service and what it says of their families fit together.
pub(crate) fn addresses(spec: &Value) -> Errors {
    let mut errors = Errors::new();
    if spec["type"] == "ExternalName" {
        return errors;
    }
    const FIELD: &str = "spec.clusterIPs";
    let one = spec["clusterIP"].as_str().unwrap_or_default();
    let many = spec["clusterIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    match many.first() {
        None if !one.is_empty() => errors.push(FieldError::required(FIELD, "")),
        Some(_) if one.is_empty() => {
            let why = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(FIELD, &spec["clusterIPs"], why));
        }
        Some(first) if first != one => {
            errors.push(FieldError::invalid(
                FIELD,
                &spec["clusterIPs"],
                "first value must match `clusterIP`",
            ));
        }
        _ => {}
    }
    let families = spec["ipFamilies"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{at}]");
        one_of(family, &field, &["IPv4", "IPv6"], &mut errors);
        if families.iter().take(at).any(|other| other == family) {
            errors.push(FieldError::duplicate(field, family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    one_of(&spec["ipFamilyPolicy"], "spec.ipFamilyPolicy", &policies, &mut errors);
    let headless = many.first().is_some_and(|first| first == "None");
    let mut parsed = Vec::new();
    if headless && many.len() > 1 {
        let why = "'None' must be the first and only value";
        errors.push(FieldError::invalid(FIELD, &spec["clusterIPs"], why));
    }
    for (at, value) in many.iter().enumerate().skip(usize::from(headless)) {
        parsed.push(address::ip(value, &format!("{FIELD}[{at}]"), &mut errors));
    }
    if many.len() > 2 {
        errors.push(FieldError::invalid(FIELD, &spec["clusterIPs"], "may only hold up to 2 values"));
    }
    let Some(parsed) = parsed.into_iter().collect::<Option<Vec<_>>>().filter(|_| !headless) else {
        return errors;
    };
    if let [first, second] = parsed.as_slice()
        && first.is_ipv6() == second.is_ipv6()
    {
        let why = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(FIELD, &spec["clusterIPs"], why));
    }
    for (at, (found, family)) in parsed.iter().zip(families).enumerate() {
        if found.is_ipv6() != (family == "IPv6") {
            let family = family.as_str().unwrap_or_default();
            let why = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
            let value = many.get(at).unwrap_or(&Value::Null);
            errors.push(FieldError::invalid(format!("{FIELD}[{at}]"), value, why));
        }
    }
    errors
}

fn affinity(spec: &Value, errors: &mut Errors) {
    one_of(&spec["sessionAffinity"], "spec.sessionAffinity", &["ClientIP", "None"], errors);
    let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if spec["sessionAffinity"] == "ClientIP"
        && timeout.as_i64().is_none_or(|seconds| !(1..=LONGEST_AFFINITY).contains(&seconds))
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let why = format!("must be greater than 0 and less than {LONGEST_AFFINITY}");
        errors.push(FieldError::invalid(field, timeout, why));
    }
}

/// Ports that stand twice.
fn repeated(spec: &Value, ports: &[Value], errors: &mut Errors) {
    let number = |port: &Value| port["nodePort"].as_u64().filter(|number| *number != 0);
    for (at, port) in ports.iter().enumerate() {
        if spec["type"] == "ClusterIP" && number(port).is_some() {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(format!("spec.ports[{at}].nodePort"), why));
        }
    }
    for (field, key) in [(".nodePort", "nodePort"), ("", "port")] {
        let mut seen = BTreeSet::new();
        for (at, port) in ports.iter().enumerate() {
            let Some(number) = port[key].as_u64().filter(|number| key == "port" || *number != 0) else {
                continue;
            };
            if seen.insert((port["protocol"].to_string(), number)) {
                continue;
            }
            let value = match key {
                "nodePort" => number.into(),
                _ => json!({"port": number, "protocol": port["protocol"]}),
            };
            errors.push(FieldError::duplicate(format!("spec.ports[{at}]{field}"), &value));
        }
    }
}

/// Fields that only some types of Services have.
fn by_type(spec: &Value, errors: &mut Errors) {
    let balanced = spec["type"] == "LoadBalancer";
    let external = balanced
        || spec["type"] == "NodePort"
        || (spec["type"] == "ClusterIP"
            && spec["externalIPs"].as_array().is_some_and(|addresses| !addresses.is_empty()));
    let only = "may only be used when `type` is 'LoadBalancer'";
    const RANGES: &str = "spec.LoadBalancerSourceRanges";
    let ranges = list(&spec["loadBalancerSourceRanges"], RANGES, errors);
    if !balanced && !ranges.is_empty() {
        errors.push(FieldError::forbidden(RANGES, only));
    }
    for (at, range) in ranges.iter().enumerate() {
        let trimmed = range.as_str().map_or_else(|| range.clone(), |text| text.trim().into());
        address::cidr(&trimmed, &format!("{RANGES}[{at}]"), errors);
    }
    if !balanced && !spec["allocateLoadBalancerNodePorts"].is_null() {
        errors.push(FieldError::forbidden("spec.allocateLoadBalancerNodePorts", only));
    }
    let class = &spec["loadBalancerClass"];
    if !class.is_null() && balanced {
        named(class, "spec.loadBalancerClass", names::label_key, errors);
    } else if !class.is_null() {
        errors.push(FieldError::forbidden("spec.loadBalancerClass", only));
    }
    let policy = &spec["externalTrafficPolicy"];
    if external {
        one_of(policy, "spec.externalTrafficPolicy", &POLICIES, errors);
    } else if !policy.is_null() {
        let why = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", policy, why));
    }
    let health = &spec["healthCheckNodePort"];
    let checked = balanced && spec["externalTrafficPolicy"] == "Local";
    if !checked && health.as_u64().is_some_and(|number| number != 0) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid("spec.healthCheckNodePort", health, why));
    }
    one_of(&spec["internalTrafficPolicy"], "spec.internalTrafficPolicy", &POLICIES, errors);
}

/// What may not change once it is set.
pub(super) fn update(before: &Value, service: &Value, errors: &mut Errors) {
    let (old, new) = (&before["spec"], &service["spec"]);
    if old["type"] != "ExternalName" && new["type"] != "ExternalName" {
        let headless = (is_headless(old), is_headless(new));
        if headless != (true, true) {
            kept(old, new, "clusterIPs", "clusterIP", errors);
        }
        if headless == (false, false) {
            kept(old, new, "ipFamilies", "ipFamily", errors);
        }
    }
    if old["type"] == "LoadBalancer" && new["type"] == "LoadBalancer" {
        if old["loadBalancerClass"] != new["loadBalancerClass"] {
            let why = "may not change once set";
            errors.push(FieldError::invalid("spec.loadBalancerClass", &new["loadBalancerClass"], why));
        }
        let (had, has) = (&old["healthCheckNodePort"], &new["healthCheckNodePort"]);
        let checked = old["externalTrafficPolicy"] == "Local" && new["externalTrafficPolicy"] == "Local";
        if checked && had != has {
            errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
        }
    }
}

/// A list whose first value stays, and whose second is let go only by name.
fn kept(old: &Value, new: &Value, name: &str, one: &str, errors: &mut Errors) {
    let items = |spec: &Value| spec[name].as_array().cloned().unwrap_or_default();
    let (old, now) = (items(old), items(new));
    let changed = "may not change once set";
    if now.len() == old.len() {
        for (at, (old, value)) in old.iter().zip(&now).enumerate() {
            if old != value {
                errors.push(FieldError::invalid(format!("spec.{name}[{at}]"), &new[name], changed));
            }
        }
        return;
    }
    match (old.first(), now.first()) {
        (Some(_), None) => {
            let why = format!("primary {one} can not be unset");
            errors.push(FieldError::invalid(format!("spec.{name}[0]"), &new[name], why));
        }
        (Some(old), Some(value)) if old != value => {
            errors.push(FieldError::invalid(format!("spec.{name}[0]"), &new[name], changed));
        }
        _ => {}
    }
    if old.len() > now.len() && now.len() == 1 && new["ipFamilyPolicy"] != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", &new["ipFamilyPolicy"], why));
    }
}

/// Checks the addresses in a Service's status.
pub(super) fn status(service: &Value, errors: &mut Errors) {
    let ingresses =
        list(&service["status"]["loadBalancer"]["ingress"], "status.loadBalancer.ingress", errors);
    if service["spec"]["type"] != "LoadBalancer" && !ingresses.is_empty() {
        let why = "may only be used when `spec.type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden("status.loadBalancer.ingress", why));
        return;
    }
    for (at, ingress) in ingresses.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{at}]");
        load_balancer(ingress, &field, errors);
        let (given, mode) = (is_given(&ingress["ip"]), format!("{field}.ipMode"));
        if given {
            one_of(&ingress["ipMode"], &mode, &["Proxy", "VIP"], errors);
        } else if !ingress["ipMode"].is_null() {
            errors.push(FieldError::forbidden(mode, "may not be specified when `ip` is not set"));
        }
    }
}

/// Where a load balancer is reached, as Services and Ingresses say it.
pub(super) fn load_balancer(ingress: &Value, field: &str, errors: &mut Errors) {
    if is_given(&ingress["ip"]) {
        address::ip(&ingress["ip"], &format!("{field}.ip"), errors);
    }
    if is_given(&ingress["hostname"]) {
        let (name, field) = (&ingress["hostname"], format!("{field}.hostname"));
        named(name, &field, names::dns_subdomain, errors);
        if name.as_str().and_then(address::sloppy).is_some() {
            errors.push(FieldError::invalid(field, name, "must be a DNS name, not an IP address"));
        }
    }
}

fn service_ports(ports: &[Value], errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{at}]");
        let name = port["name"].as_str().unwrap_or_default();
        if !name.is_empty() {
            named(&port["name"], &format!("{at}.name"), names::dns_label, errors);
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &port["name"]));
            }
        } else if ports.len() > 1 {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
        port_number(&port["port"], &format!("{at}.port"), errors);
        one_of(&port["protocol"], &format!("{at}.protocol"), &PROTOCOLS, errors);
        if !port["targetPort"].is_null() {
            port_or_name(&port["targetPort"], &format!("{at}.targetPort"), errors);
        }
        if !port["appProtocol"].is_null() {
            named(&port["appProtocol"], &format!("{at}.appProtocol"), names::label_key, errors);
        }
    }
}

/// What is taken, and should not be relied on.
pub(crate) fn warnings(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let mut told = Vec::new();
    let external = spec["externalIPs"].as_array().is_some_and(|list| !list.is_empty());
    let headless = spec["type"] == "ClusterIP" && is_headless(spec);
    for list in ["clusterIPs", "externalIPs"] {
        for (at, value) in spec[list].as_array().into_iter().flatten().enumerate() {
            let text = value.as_str().unwrap_or_default();
            told.extend(address::warning(text, &format!("spec.{list}[{at}]")));
        }
    }
    if headless {
        if is_given(&spec["loadBalancerIP"]) {
            told.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if external {
            told.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec["sessionAffinity"] != "None" {
            told.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    } else if external && spec["type"] != "ExternalName" {
        told.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if spec["type"] == "ExternalName" && external {
        told.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if spec["type"] != "ExternalName" && is_given(&spec["externalName"]) {
        told.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec["trafficDistribution"] == "PreferClose" {
        told.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    told
}
