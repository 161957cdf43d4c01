//! EndpointSlices, Ingresses, NetworkPolicies.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::workload::selector;
use super::{Errors, list, names, one_of, pod, port_number, required};
use crate::error::FieldError;

pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn ip(value: &Value, field: &str, errors: &mut Errors) {
    if value.as_str().is_none_or(|text| text.parse::<IpAddr>().is_err()) {
        errors.push(FieldError::invalid(
            field,
            value,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
}

/// Addresses that mean the asking host itself, or nobody, lead nowhere.
pub(super) fn reachable(address: &Value, field: &str, errors: &mut Errors) {
    let Some(parsed) = address.as_str().and_then(|text| text.parse::<IpAddr>().ok()) else { return };
    let link_local = match parsed {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let why = match () {
        () if parsed.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
        () if parsed.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        () if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        () if parsed.is_multicast() => "may not be in the multicast range (224.0.0.0/4, ff00::/8)",
        () => return,
    };
    errors.push(FieldError::invalid(field, address, why));
}

pub(super) fn cidr(value: &Value, field: &str, errors: &mut Errors) -> Option<IpNet> {
    let range = value.as_str().and_then(|text| text.trim().parse::<IpNet>().ok());
    if range.is_none() {
        let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(field, value, why));
    }
    range
}

pub(super) fn slice(object: &Value, errors: &mut Errors) {
    let kind = &object["addressType"];
    if kind.is_null() || kind == "" {
        errors.push(FieldError::required("addressType", ""));
    } else {
        one_of(kind, "addressType", &["FQDN", "IPv4", "IPv6"], errors);
    }
    let endpoints = list(&object["endpoints"], "endpoints", errors);
    if endpoints.len() > 1000 {
        errors.push(FieldError {
            reason: "FieldValueTooMany",
            field: "endpoints".to_owned(),
            message: format!("Too many: {}: must have at most 1000 items", endpoints.len()),
        });
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{at}].addresses");
        let addresses = list(&endpoint["addresses"], &field, errors);
        if addresses.is_empty() {
            errors.push(FieldError::required(&field, "must contain at least 1 address"));
        }
        for (place, address) in addresses.iter().enumerate() {
            let family = address.as_str().and_then(|text| text.parse::<IpAddr>().ok());
            let sound = match kind.as_str() {
                Some("IPv4") => family.is_some_and(|address| address.is_ipv4()),
                Some("IPv6") => family.is_some_and(|address| address.is_ipv6()),
                _ => true,
            };
            if !sound {
                let why = format!("must be a valid {} address", kind.as_str().unwrap_or_default());
                errors.push(FieldError::invalid(format!("{field}[{place}]"), address, why));
            } else if kind != "FQDN" {
                reachable(address, &format!("{field}[{place}]"), errors);
            }
        }
    }
    for (at, port) in list(&object["ports"], "ports", errors).iter().enumerate() {
        one_of(&port["protocol"], &format!("ports[{at}].protocol"), PROTOCOLS, errors);
        if !port["port"].is_null() {
            port_number(&port["port"], &format!("ports[{at}].port"), errors);
        }
    }
}

pub(super) fn endpoints(object: &Value, errors: &mut Errors) {
    for (at, subset) in list(&object["subsets"], "subsets", errors).iter().enumerate() {
        let field = |name: &str| format!("subsets[{at}].{name}");
        let mut none = true;
        for name in ["addresses", "notReadyAddresses"] {
            for (place, address) in list(&subset[name], &field(name), errors).iter().enumerate() {
                none = false;
                let at = format!("{}[{place}]", field(name));
                ip(&address["ip"], &format!("{at}.ip"), errors);
                reachable(&address["ip"], &format!("{at}.ip"), errors);
                if let Some(Err(why)) =
                    address["hostname"].as_str().filter(|h| !h.is_empty()).map(names::dns_label)
                {
                    errors.push(FieldError::invalid(format!("{at}.hostname"), &address["hostname"], why));
                }
            }
        }
        if none {
            let why = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(format!("subsets[{at}]"), why));
        }
        let ports = list(&subset["ports"], &field("ports"), errors);
        for (place, port) in ports.iter().enumerate() {
            let at = format!("{}[{place}]", field("ports"));
            port_number(&port["port"], &format!("{at}.port"), errors);
            one_of(&port["protocol"], &format!("{at}.protocol"), PROTOCOLS, errors);
            if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
                errors.push(FieldError::required(format!("{at}.name"), ""));
            }
        }
    }
}

pub(super) fn ingress(spec: &Value, errors: &mut Errors) {
    let rules = list(&spec["rules"], "spec.rules", errors);
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        errors.push(FieldError::invalid(
            "spec",
            spec,
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if !spec["defaultBackend"].is_null() {
        backend(&spec["defaultBackend"], "spec.defaultBackend", errors);
    }
    for (at, rule) in rules.iter().enumerate() {
        if let Some(host) = rule["host"].as_str().filter(|host| !host.is_empty()) {
            let rest = host.strip_prefix("*.").unwrap_or(host);
            if let Err(why) = names::dns_subdomain(rest) {
                errors.push(FieldError::invalid(format!("spec.rules[{at}].host"), &rule["host"], why));
            } else if rest.parse::<IpAddr>().is_ok() {
                let why = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(format!("spec.rules[{at}].host"), &rule["host"], why));
            }
        }
        let field = format!("spec.rules[{at}].http.paths");
        for (place, path) in list(&rule["http"]["paths"], &field, errors).iter().enumerate() {
            let field = format!("{field}[{place}]");
            let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
            if path["pathType"].is_null() {
                errors.push(FieldError::required(format!("{field}.pathType"), "pathType must be specified"));
            }
            one_of(&path["pathType"], &format!("{field}.pathType"), &kinds, errors);
            let text = path["path"].as_str().unwrap_or_default();
            if path["pathType"] != "ImplementationSpecific" && !text.starts_with('/') {
                let why = "must be an absolute path";
                errors.push(FieldError::invalid(format!("{field}.path"), &path["path"], why));
            }
            backend(&path["backend"], &format!("{field}.backend"), errors);
        }
    }
}

fn backend(backend: &Value, at: &str, errors: &mut Errors) {
    let service = &backend["service"];
    if service.is_null() && backend["resource"].is_null() {
        errors.push(FieldError::required(at, "either `service` or `resource` must be specified"));
    } else if !service.is_null() {
        required(service, &format!("{at}.service"), &["name"], errors);
        let port = &service["port"];
        if port["number"].is_null() && port["name"].is_null() {
            errors
                .push(FieldError::required(format!("{at}.service.port"), "port name or number is required"));
        }
        if !port["number"].is_null() {
            port_number(&port["number"], &format!("{at}.service.port.number"), errors);
        }
    }
}

pub(super) fn policy(spec: &Value, errors: &mut Errors) {
    selector(&spec["podSelector"], "spec.podSelector", errors);
    for (at, kind) in list(&spec["policyTypes"], "spec.policyTypes", errors).iter().enumerate() {
        one_of(kind, &format!("spec.policyTypes[{at}]"), &["Egress", "Ingress"], errors);
    }
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
}

fn policy_ports(ports: &Value, field: &str, errors: &mut Errors) {
    for (at, port) in list(ports, field, errors).iter().enumerate() {
        let at = format!("{field}[{at}]");
        one_of(&port["protocol"], &format!("{at}.protocol"), PROTOCOLS, errors);
        match &port["port"] {
            Value::Null if !port["endPort"].is_null() => {
                let why = "may not be specified when `port` is not specified";
                errors.push(FieldError::invalid(format!("{at}.endPort"), &port["endPort"], why));
            }
            Value::Null => {}
            Value::String(name) => {
                if let Err(why) = pod::port_name(name) {
                    errors.push(FieldError::invalid(format!("{at}.port"), &port["port"], why));
                }
                if !port["endPort"].is_null() {
                    let why = "may not be specified when `port` is non-numeric";
                    errors.push(FieldError::invalid(format!("{at}.endPort"), &port["endPort"], why));
                }
            }
            number => {
                port_number(number, &format!("{at}.port"), errors);
                let end = port["endPort"].as_u64();
                if end.is_some_and(|end| number.as_u64().is_some_and(|start| end < start)) {
                    let why = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(format!("{at}.endPort"), &port["endPort"], why));
                }
            }
        }
    }
}

fn policy_peer(peer: &Value, at: &str, errors: &mut Errors) {
    let block = &peer["ipBlock"];
    let selects = !peer["podSelector"].is_null() || !peer["namespaceSelector"].is_null();
    if block.is_null() && !selects {
        errors.push(FieldError::required(at, "must specify a peer"));
    } else if !block.is_null() && selects {
        errors.push(FieldError::forbidden(at, "may not specify both ipBlock and another peer"));
    }
    selector(&peer["podSelector"], &format!("{at}.podSelector"), errors);
    selector(&peer["namespaceSelector"], &format!("{at}.namespaceSelector"), errors);
    if block.is_null() {
        return;
    }
    let range = cidr(&block["cidr"], &format!("{at}.ipBlock.cidr"), errors);
    for (place, except) in list(&block["except"], &format!("{at}.ipBlock.except"), errors).iter().enumerate()
    {
        let field = format!("{at}.ipBlock.except[{place}]");
        let inner = cidr(except, &field, errors);
        if let (Some(range), Some(inner)) = (range, inner)
            && (!range.contains(&inner) || range == inner)
        {
            errors.push(FieldError::invalid(field, except, "must be a strict subset of `cidr`"));
        }
    }
}
