//! Services, Ingresses, policies, endpoints.

use serde_json::Value;

use super::text::{age_of, items, or_none, plain, selector, some, word};
use super::{AGE, Column};

pub(super) const SERVICE: &[Column] = &[
    ("Type", "string", 0),
    ("Cluster-IP", "string", 0),
    ("External-IP", "string", 0),
    ("Port(s)", "string", 0),
    AGE,
    ("Selector", "string", 1),
];

pub(super) fn service(object: &Value) -> Vec<Value> {
    let spec = &object["spec"];
    let ports: Vec<String> = items(&spec["ports"])
        .iter()
        .map(|port| match port["nodePort"].as_i64() {
            Some(node) if node > 0 => format!("{}:{node}/{}", port["port"], word(&port["protocol"])),
            _ => format!("{}/{}", port["port"], word(&port["protocol"])),
        })
        .collect();
    let cluster = match word(&spec["clusterIP"]) {
        "" if spec["type"] == "ExternalName" => "<none>".into(),
        address => or_none(address),
    };
    vec![
        word(&spec["type"]).into(),
        cluster,
        external(object),
        or_none(ports.join(",")),
        age_of(object),
        selector(&spec["selector"]),
    ]
}

fn external(object: &Value) -> Value {
    let spec = &object["spec"];
    let fixed = items(&spec["externalIPs"]).iter().map(|address| word(address).to_owned());
    match word(&spec["type"]) {
        "ExternalName" => word(&spec["externalName"]).into(),
        "LoadBalancer" => {
            let given = items(&object["status"]["loadBalancer"]["ingress"]).iter().map(address);
            let all: Vec<String> = given.chain(fixed).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",").into() }
        }
        _ => or_none(fixed.collect::<Vec<_>>().join(",")),
    }
}

fn address(ingress: &Value) -> String {
    match word(&ingress["ip"]) {
        "" => word(&ingress["hostname"]).to_owned(),
        ip => ip.to_owned(),
    }
}

pub(super) const ENDPOINTS: &[Column] = &[("Endpoints", "string", 0), AGE];

pub(super) fn endpoints(object: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in items(&object["subsets"]) {
        for address in items(&subset["addresses"]) {
            let ip = word(&address["ip"]);
            match items(&subset["ports"]) {
                [] => all.push(ip.to_owned()),
                ports => all.extend(ports.iter().map(|port| {
                    if ip.contains(':') {
                        format!("[{ip}]:{}", port["port"])
                    } else {
                        format!("{ip}:{}", port["port"])
                    }
                })),
            }
        }
    }
    vec![some(&all), age_of(object)]
}

pub(super) const SLICE: &[Column] =
    &[("AddressType", "string", 0), ("Ports", "string", 0), ("Endpoints", "string", 0), AGE];

pub(super) fn slice(object: &Value) -> Vec<Value> {
    let unset = |words: &[String]| if words.is_empty() { "<unset>".into() } else { some(words) };
    let ports: Vec<String> = items(&object["ports"])
        .iter()
        .map(|port| match &port["port"] {
            Value::Null => "*".to_owned(),
            number => plain(number),
        })
        .collect();
    let addresses: Vec<String> = items(&object["endpoints"])
        .iter()
        .flat_map(|endpoint| items(&endpoint["addresses"]))
        .map(|address| word(address).to_owned())
        .collect();
    vec![word(&object["addressType"]).into(), unset(&ports), unset(&addresses), age_of(object)]
}

pub(super) const INGRESS: &[Column] =
    &[("Class", "string", 0), ("Hosts", "string", 0), ("Address", "string", 0), ("Ports", "string", 0), AGE];

pub(super) fn ingress(object: &Value) -> Vec<Value> {
    let spec = &object["spec"];
    let class = match word(&spec["ingressClassName"]) {
        "" => word(&object["metadata"]["annotations"]["kubernetes.io/ingress.class"]),
        class => class,
    };
    let hosts: Vec<String> = items(&spec["rules"])
        .iter()
        .map(|rule| word(&rule["host"]).to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = if hosts.is_empty() { "*".into() } else { some(&hosts) };
    let addresses: Vec<String> =
        items(&object["status"]["loadBalancer"]["ingress"]).iter().map(address).collect();
    let ports = if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
    vec![or_none(class), hosts, addresses.join(",").into(), ports.into(), age_of(object)]
}

pub(super) const INGRESS_CLASS: &[Column] = &[("Controller", "string", 0), ("Parameters", "string", 0), AGE];

pub(super) fn ingress_class(object: &Value) -> Vec<Value> {
    let parameters = &object["spec"]["parameters"];
    let parameters = if parameters.is_object() {
        let kind = match word(&parameters["apiGroup"]) {
            "" => word(&parameters["kind"]).to_owned(),
            group => format!("{}.{group}", word(&parameters["kind"])),
        };
        format!("{kind}/{}", word(&parameters["name"]))
    } else {
        String::new()
    };
    vec![word(&object["spec"]["controller"]).into(), or_none(parameters), age_of(object)]
}

pub(super) const POLICY: &[Column] = &[("Pod-Selector", "string", 0), AGE];

pub(super) fn policy(object: &Value) -> Vec<Value> {
    vec![selector(&object["spec"]["podSelector"]), age_of(object)]
}

pub(super) const SERVICE_RANGE: &[Column] = &[("CIDRs", "string", 0), AGE];

pub(super) fn service_range(object: &Value) -> Vec<Value> {
    let ranges: Vec<&str> = items(&object["spec"]["cidrs"]).iter().map(word).collect();
    vec![ranges.join(",").into(), age_of(object)]
}
