//! EndpointSlices, Endpoints, Ingresses, NetworkPolicies.

use serde_json::Value;

use super::workload::selector;
use super::{
    Errors, address, is_given, list, named, names, one_of, port_number, port_or_name, required, service,
};
use crate::error::FieldError;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// The most endpoints that a slice holds, and addresses that an endpoint has.
const ENDPOINTS: usize = 1000;
const ADDRESSES: usize = 100;

pub(super) fn slice(object: &Value, errors: &mut Errors) {
    let kind = &object["addressType"];
    if is_given(kind) {
        one_of(kind, "addressType", &["FQDN", "IPv4", "IPv6"], errors);
    } else {
        errors.push(FieldError::required("addressType", ""));
    }
    slice_ports(list(&object["ports"], "ports", errors), errors);
    let endpoints = list(&object["endpoints"], "endpoints", errors);
    if endpoints.len() > ENDPOINTS {
        errors.push(FieldError::too_many("endpoints", endpoints.len(), ENDPOINTS));
        return;
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let at = format!("endpoints[{at}]");
        let field = format!("{at}.addresses");
        let addresses = list(&endpoint["addresses"], &field, errors);
        if addresses.is_empty() {
            errors.push(FieldError::required(&field, "must contain at least 1 address"));
        } else if addresses.len() > ADDRESSES {
            errors.push(FieldError::too_many(&field, addresses.len(), ADDRESSES));
        }
        for (place, value) in addresses.iter().enumerate() {
            slice_address(kind.as_str().unwrap_or_default(), value, &field, place, errors);
        }
        if !endpoint["nodeName"].is_null() {
            named(&endpoint["nodeName"], &format!("{at}.nodeName"), names::dns_subdomain, errors);
        }
        if !endpoint["hostname"].is_null() {
            named(&endpoint["hostname"], &format!("{at}.hostname"), names::dns_label, errors);
        }
        for kind in ["forZones", "forNodes"] {
            let field = format!("{at}.hints.{kind}");
            let hints = list(&endpoint["hints"][kind], &field, errors);
            for (place, hint) in hints.iter().enumerate() {
                if hints.iter().take(place).any(|other| other["name"] == hint["name"]) {
                    errors.push(FieldError::duplicate(format!("{field}[{place}].name"), &hint["name"]));
                }
            }
        }
    }
}

fn slice_address(kind: &str, value: &Value, field: &str, place: usize, errors: &mut Errors) {
    let at = format!("{field}[{place}]");
    let before = errors.len();
    let (parsed, six) = match kind {
        "IPv4" => (address::ip(value, &at, errors), false),
        "IPv6" => (address::canonical(value, &at, errors), true),
        "FQDN" => {
            let text = value.as_str().unwrap_or_default();
            if text.is_empty() {
                errors.push(FieldError::required(&at, ""));
            }
            let bare = text.strip_suffix('.').unwrap_or(text);
            let faults = names::dns_subdomain(bare);
            if faults.is_empty() && bare.split('.').count() < 2 {
                let why = "should be a domain with at least two segments separated by dots";
                errors.push(FieldError::invalid(at, value, why));
            } else {
                errors.extend(faults.into_iter().map(|why| FieldError::invalid(&at, value, why)));
            }
            return;
        }
        _ => return,
    };
    let Some(parsed) = parsed.filter(|_| errors.len() == before) else { return };
    if parsed.is_ipv6() != six {
        errors.push(FieldError::invalid(field, value, format!("must be an {kind} address")));
    }
    address::reachable(value, &at, errors);
}

fn slice_ports(ports: &[Value], errors: &mut Errors) {
    for (at, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("ports[{at}].{name}");
        if is_given(&port["name"]) {
            named(&port["name"], &field("name"), names::dns_label, errors);
        }
        if ports.iter().take(at).any(|other| other["name"] == port["name"]) {
            errors.push(FieldError::duplicate(field("name"), &port["name"]));
        }
        one_of(&port["protocol"], &field("protocol"), &PROTOCOLS, errors);
        if !port["appProtocol"].is_null() {
            named(&port["appProtocol"], &field("appProtocol"), names::label_key, errors);
        }
    }
}

pub(super) fn slice_warnings(object: &Value) -> Vec<String> {
    if object["addressType"] == "FQDN" {
        vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()]
    } else {
        Vec::new()
    }
}

pub(super) fn endpoints(object: &Value, errors: &mut Errors) {
    for (at, subset) in list(&object["subsets"], "subsets", errors).iter().enumerate() {
        let field = |name: &str| format!("subsets[{at}].{name}");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|name| subset[*name].as_array().is_none_or(Vec::is_empty)) {
            let why = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(format!("subsets[{at}]"), why));
        }
        for name in lists {
            for (place, one) in list(&subset[name], &field(name), errors).iter().enumerate() {
                let at = format!("{}[{place}]", field(name));
                address::ip(&one["ip"], &format!("{at}.ip"), errors);
                for (name, rule) in
                    [("hostname", names::dns_label as fn(&str) -> _), ("nodeName", names::dns_subdomain)]
                {
                    if is_given(&one[name]) {
                        named(&one[name], &format!("{at}.{name}"), rule, errors);
                    }
                }
                address::reachable(&one["ip"], &format!("{at}.ip"), errors);
            }
        }
        let ports = list(&subset["ports"], &field("ports"), errors);
        for (place, port) in ports.iter().enumerate() {
            let at = format!("{}[{place}]", field("ports"));
            if is_given(&port["name"]) {
                named(&port["name"], &format!("{at}.name"), names::dns_label, errors);
            } else if ports.len() > 1 {
                errors.push(FieldError::required(format!("{at}.name"), ""));
            }
            port_number(&port["port"], &format!("{at}.port"), errors);
            one_of(&port["protocol"], &format!("{at}.protocol"), &PROTOCOLS, errors);
            if !port["appProtocol"].is_null() {
                named(&port["appProtocol"], &format!("{at}.appProtocol"), names::label_key, errors);
            }
        }
    }
}

fn host(value: &Value, field: &str, errors: &mut Errors) {
    let text = value.as_str().unwrap_or_default();
    let rule = if text.contains('*') { names::wildcard } else { names::dns_subdomain };
    named(value, field, rule, errors);
}

pub(super) fn ingress(spec: &Value, errors: &mut Errors) {
    let rules = list(&spec["rules"], "spec.rules", errors);
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", &spec["rules"], why));
    }
    if !spec["defaultBackend"].is_null() {
        backend(&spec["defaultBackend"], "spec.defaultBackend", errors);
    }
    for (at, rule) in rules.iter().enumerate() {
        let field = format!("spec.rules[{at}].host");
        if is_given(&rule["host"]) {
            if rule["host"].as_str().and_then(address::sloppy).is_some() {
                let why = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(&field, &rule["host"], why));
            }
            host(&rule["host"], &field, errors);
        }
        let field = format!("spec.rules[{at}].http.paths");
        let paths = list(&rule["http"]["paths"], &field, errors);
        if paths.is_empty() && !rule["http"].is_null() {
            errors.push(FieldError::required(&field, ""));
        }
        for (place, path) in paths.iter().enumerate() {
            ingress_path(path, &format!("{field}[{place}]"), errors);
        }
    }
    for (at, tls) in list(&spec["tls"], "spec.tls", errors).iter().enumerate() {
        let at = format!("spec.tls[{at}]");
        for (place, name) in list(&tls["hosts"], &format!("{at}.hosts"), errors).iter().enumerate() {
            host(name, &format!("{at}.hosts[{place}]"), errors);
        }
        if is_given(&tls["secretName"]) {
            named(&tls["secretName"], &format!("{at}.secretName"), names::dns_subdomain, errors);
        }
    }
    if !spec["ingressClassName"].is_null() {
        named(&spec["ingressClassName"], "spec.ingressClassName", names::dns_subdomain, errors);
    }
}

fn ingress_path(path: &Value, at: &str, errors: &mut Errors) {
    let text = path["path"].as_str().unwrap_or_default();
    let field = format!("{at}.path");
    let mut invalid = |why: String| errors.push(FieldError::invalid(&field, &text.into(), why));
    let absolute = text.starts_with('/');
    match path["pathType"].as_str() {
        None => {
            errors.push(FieldError::required(format!("{at}.pathType"), "pathType must be specified"));
            return;
        }
        Some("Exact" | "Prefix") => {
            if !absolute {
                invalid("must be an absolute path".to_owned());
            }
            for found in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|found| text.contains(**found)) {
                invalid(format!("must not contain '{found}'"));
            }
            for found in ["/..", "/."].iter().filter(|found| text.ends_with(**found)) {
                invalid(format!("cannot end with '{found}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !text.is_empty() && !absolute {
                invalid("must be an absolute path".to_owned());
            }
        }
        Some(_) => {
            let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
            one_of(&path["pathType"], &format!("{at}.pathType"), &kinds, errors);
        }
    }
    backend(&path["backend"], &format!("{at}.backend"), errors);
}

fn backend(backend: &Value, at: &str, errors: &mut Errors) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    let why = match (service.is_null(), resource.is_null()) {
        (false, false) => "cannot set both resource and service backends",
        (true, true) => "resource or service backend is required",
        (true, false) => return required(resource, &format!("{at}.resource"), &["kind", "name"], errors),
        (false, true) => {
            let field = format!("{at}.service.name");
            if is_given(&service["name"]) {
                named(&service["name"], &field, names::dns_label, errors);
            } else {
                errors.push(FieldError::required(field, ""));
            }
            let (name, number) = (&service["port"]["name"], &service["port"]["number"]);
            match (is_given(name), !number.is_null() && *number != 0) {
                (true, true) => "cannot set both port name & port number",
                (true, false) => return port_or_name(name, &format!("{at}.service.port.name"), errors),
                (false, true) => return port_number(number, &format!("{at}.service.port.number"), errors),
                (false, false) => {
                    errors.push(FieldError::required(at, "port name or number is required"));
                    return;
                }
            }
        }
    };
    errors.push(FieldError::invalid(at, &"".into(), why));
}

/// Where an Ingress is reached.
pub(super) fn ingress_status(object: &Value, errors: &mut Errors) {
    const FIELD: &str = "status.loadBalancer.ingress";
    for (at, ingress) in list(&object["status"]["loadBalancer"]["ingress"], FIELD, errors).iter().enumerate()
    {
        service::load_balancer(ingress, &format!("{FIELD}[{at}]"), errors);
    }
}

pub(super) fn ingress_warnings(object: &Value) -> Vec<String> {
    const NAME: &str = "kubernetes.io/ingress.class";
    if object["metadata"]["annotations"].get(NAME).is_some() && object["spec"]["ingressClassName"].is_null() {
        vec![format!("annotation {NAME:?} is deprecated, please use 'spec.ingressClassName' instead")]
    } else {
        Vec::new()
    }
}

pub(super) fn ingress_class(spec: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.controller";
    let controller = spec["controller"].as_str().unwrap_or_default();
    if controller.is_empty() {
        errors.push(FieldError::required(FIELD, ""));
    } else {
        domain_path(&spec["controller"], FIELD, errors);
    }
    let parameters = &spec["parameters"];
    if parameters.is_null() {
        return;
    }
    let at = "spec.parameters";
    required(parameters, at, &["kind", "name"], errors);
    one_of(&parameters["scope"], "spec.parameters.scope", &["Cluster", "Namespace"], errors);
    let (namespace, field) = (&parameters["namespace"], "spec.parameters.namespace");
    match (parameters["scope"].as_str(), namespace.is_null()) {
        (Some("Namespace"), true) => {
            errors.push(FieldError::required(field, "`parameters.scope` is set to 'Namespace'"));
        }
        (Some("Namespace"), false) => named(namespace, field, names::dns_label, errors),
        (Some("Cluster"), false) => {
            errors.push(FieldError::forbidden(field, "`parameters.scope` is set to 'Cluster'"));
        }
        _ => {}
    }
}

/// `example.com/name`.
fn domain_path(value: &Value, field: &str, errors: &mut Errors) {
    let text = value.as_str().unwrap_or_default();
    match text.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty()) {
        None => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(field, value, why));
        }
        Some((domain, _)) => named(&domain.into(), field, names::dns_subdomain, errors),
    }
}

pub(super) fn policy(spec: &Value, errors: &mut Errors) {
    selector(&spec["podSelector"], "spec.podSelector", errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let field = format!("spec.{direction}");
        for (at, rule) in list(&spec[direction], &field, errors).iter().enumerate() {
            policy_ports(&rule["ports"], &format!("{field}[{at}].ports"), errors);
            let at = format!("{field}[{at}].{peers}");
            for (place, peer) in list(&rule[peers], &at, errors).iter().enumerate() {
                policy_peer(peer, &format!("{at}[{place}]"), errors);
            }
        }
    }
    let kinds = list(&spec["policyTypes"], "spec.policyTypes", errors);
    if kinds.len() > 2 {
        let why = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid("spec.policyTypes", &spec["policyTypes"], why));
        return;
    }
    for (at, kind) in kinds.iter().enumerate() {
        one_of(kind, &format!("spec.policyTypes[{at}]"), &["Ingress", "Egress"], errors);
    }
}

fn policy_ports(ports: &Value, field: &str, errors: &mut Errors) {
    for (at, port) in list(ports, field, errors).iter().enumerate() {
        let at = format!("{field}[{at}]");
        one_of(&port["protocol"], &format!("{at}.protocol"), &["TCP", "UDP", "SCTP"], errors);
        let (number, end, end_field) = (&port["port"], &port["endPort"], format!("{at}.endPort"));
        if number.is_number() {
            port_number(number, &format!("{at}.port"), errors);
            if end.as_i64().is_some_and(|end| number.as_i64().is_some_and(|start| end < start)) {
                // It is the first port that a real server shows.
                let why = "must be greater than or equal to `port`";
                errors.push(FieldError::invalid(&end_field, number, why));
            }
            if !end.is_null() {
                port_number(end, &end_field, errors);
            }
            continue;
        }
        if !end.is_null() {
            let why = match number.is_null() {
                true => "may not be specified when `port` is not specified",
                false => "may not be specified when `port` is non-numeric",
            };
            errors.push(FieldError::invalid(end_field, end, why));
        }
        if !number.is_null() {
            port_or_name(number, &format!("{at}.port"), errors);
        }
    }
}

fn policy_peer(peer: &Value, at: &str, errors: &mut Errors) {
    let block = &peer["ipBlock"];
    let selects = !peer["podSelector"].is_null() || !peer["namespaceSelector"].is_null();
    selector(&peer["podSelector"], &format!("{at}.podSelector"), errors);
    selector(&peer["namespaceSelector"], &format!("{at}.namespaceSelector"), errors);
    if !block.is_null() {
        ip_block(block, &format!("{at}.ipBlock"), errors);
    }
    if block.is_null() && !selects {
        errors.push(FieldError::required(at, "must specify a peer"));
    } else if !block.is_null() && selects {
        errors.push(FieldError::forbidden(at, "may not specify both ipBlock and another peer"));
    }
}

fn ip_block(block: &Value, at: &str, errors: &mut Errors) {
    if !is_given(&block["cidr"]) {
        errors.push(FieldError::required(format!("{at}.cidr"), ""));
        return;
    }
    let Some(range) = address::cidr(&block["cidr"], &format!("{at}.cidr"), errors) else { return };
    for (place, except) in list(&block["except"], &format!("{at}.except"), errors).iter().enumerate() {
        let field = format!("{at}.except[{place}]");
        let Some(inner) = address::cidr(except, &field, errors) else { continue };
        if !range.contains(&inner) || range.prefix_len() >= inner.prefix_len() {
            errors.push(FieldError::invalid(field, except, "must be a strict subset of `cidr`"));
        }
    }
}
