//! What of the two kinds the network uses. What does not parse is left out and logged; where leaving it out would let more
//! in, nobody is let in.

use std::{fmt::Display, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use weft_model::{
    Protocol,
    services::{
        AddressType, Endpoint, EndpointSlice, Ingress, Service, ServiceKey, ServicePort, ServiceType,
        SliceKey, SlicePort, TrafficPolicy,
    },
};

use super::object::{self, Name, ServiceObject, SliceObject};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where there is none.
const AFFINITY_SECONDS: u32 = 10_800;

/// A Service.
pub(crate) fn service(object: ServiceObject) -> Service {
    let ServiceObject { metadata, spec, status } = object;
    let key = ServiceKey::new(metadata.namespace, metadata.name);
    let of = Of { kind: "Service", key: &key };
    let labels = metadata.labels.unwrap_or_default();
    let cluster_ips = match spec.cluster_ips {
        Some(all) if !all.is_empty() => all,
        // Written by what knew one family only.
        _ => spec.cluster_ip.into_iter().collect(),
    };
    let headless = cluster_ips.iter().any(|text| text == "None");
    let cluster_ips = cluster_ips.iter().filter(|text| !text.is_empty() && *text != "None");
    let ranges = spec.load_balancer_source_ranges.filter(|ranges| !ranges.is_empty());
    let ingress = status.load_balancer.and_then(|status| status.ingress).unwrap_or_default();
    let affinity = spec.session_affinity_config.and_then(|config| config.client_ip);
    let affinity = affinity.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    Service {
        uid: metadata.uid.into(),
        kind: match spec.kind.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        },
        not_ours: labels.proxy_name.is_some() || labels.headless.is_some(),
        cluster_ips: of.addresses("cluster IP", cluster_ips),
        headless,
        external_name: spec.external_name.filter(|name| !name.is_empty()).map(Arc::from),
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter_map(|port| service_port(port, &of))
            .collect(),
        external_ips: of.addresses("external IP", spec.external_ips.unwrap_or_default().iter()),
        ingress: ingress.into_iter().filter_map(|ingress| ingress_address(&ingress, &of)).collect(),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        affinity_seconds: (spec.session_affinity.as_deref() == Some("ClientIP")).then_some(affinity),
        source_ranges: ranges.map(|ranges| of.parsed::<IpNet>("source range", ranges.iter())),
        health_check_port: spec.health_check_node_port.and_then(port_number),
        key,
    }
}

/// An EndpointSlice.
pub(crate) fn slice(object: SliceObject) -> EndpointSlice {
    let SliceObject { metadata, address_type, ports, endpoints } = object;
    let key = ServiceKey::new(metadata.namespace, metadata.name);
    let of = Of { kind: "EndpointSlice", key: &key };
    let address_type = match address_type.as_str() {
        "IPv4" => AddressType::Ipv4,
        "IPv6" => AddressType::Ipv6,
        _ => AddressType::Fqdn,
    };
    let endpoints = match address_type {
        AddressType::Fqdn => Vec::new(),
        AddressType::Ipv4 | AddressType::Ipv6 => endpoints.unwrap_or_default(),
    };
    EndpointSlice {
        service: metadata.labels.and_then(|labels| labels.service_name).unwrap_or_default().into(),
        address_type,
        ports: ports.unwrap_or_default().into_iter().filter_map(|port| slice_port(port, &of)).collect(),
        endpoints: endpoints
            .into_iter()
            .filter_map(|one| endpoint(one, address_type == AddressType::Ipv6, &of))
            .collect(),
        key: SliceKey { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) },
    }
}

fn service_port(port: object::ServicePort, of: &Of) -> Option<ServicePort> {
    let number = of.some("port", port_number(port.port), port.port)?;
    Some(ServicePort {
        protocol: protocol(port.protocol.as_deref(), of)?,
        port: number,
        node_port: port.node_port.and_then(port_number),
        name: port.name.unwrap_or_default().into(),
    })
}

fn ingress_address(ingress: &object::Ingress, of: &Of) -> Option<Ingress> {
    // Those with a name alone are for DNS.
    let address = of.parse("load balancer address", ingress.ip.as_ref()?)?;
    Some(Ingress { address, proxy: ingress.ip_mode.as_deref() == Some("Proxy") })
}

/// A port without a number stands for all of them, which no Service port does.
fn slice_port(port: object::SlicePort, of: &Of) -> Option<SlicePort> {
    let number = port.port?;
    Some(SlicePort {
        protocol: protocol(port.protocol.as_deref(), of)?,
        port: of.some("port", port_number(number), number)?,
        name: port.name.unwrap_or_default().into(),
    })
}

fn endpoint(endpoint: object::Endpoint, ipv6: bool, of: &Of) -> Option<Endpoint> {
    let addresses = endpoint.addresses.unwrap_or_default();
    let text = addresses.first()?;
    let address: IpAddr = of.parse("endpoint", text)?;
    of.some("endpoint of another family", (address.is_ipv6() == ipv6).then_some(()), text)?;
    let conditions = endpoint.conditions.unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = endpoint.hints.unwrap_or_default();
    Some(Endpoint {
        address,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.map(Arc::from),
        hostname: endpoint.hostname.filter(|name| !name.is_empty()).map(Arc::from),
        for_nodes: names(hints.for_nodes),
        for_zones: names(hints.for_zones),
    })
}

fn names(names: Option<Vec<Name>>) -> Box<[Arc<str>]> {
    names.unwrap_or_default().into_iter().map(|one| Arc::from(one.name)).collect()
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn protocol(text: Option<&str>, of: &Of) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(other) => of.some("protocol", None, other),
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

/// What is being read.
struct Of<'a> {
    kind: &'static str,
    key: &'a ServiceKey,
}

impl Of<'_> {
    /// Tells when there is nothing to go on with.
    fn some<T>(&self, what: &str, value: Option<T>, text: impl Display) -> Option<T> {
        if value.is_none() {
            tracing::warn!("{} {}: {what} left out: {text:?}", self.kind, self.key, text = text.to_string());
        }
        value
    }

    fn parse<T: FromStr>(&self, what: &str, text: &str) -> Option<T> {
        self.some(what, text.trim().parse().ok(), text)
    }

    fn parsed<'a, T: FromStr>(&self, what: &str, texts: impl Iterator<Item = &'a String>) -> Box<[T]> {
        texts.filter_map(|text| self.parse(what, text)).collect()
    }

    fn addresses<'a>(&self, what: &str, texts: impl Iterator<Item = &'a String>) -> Box<[IpAddr]> {
        self.parsed(what, texts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn a_service(spec: Value) -> Service {
        let metadata = json!({ "name": "web", "namespace": "shop", "uid": "u1" });
        service(serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap())
    }

    fn a_slice(keys: Value) -> EndpointSlice {
        let labels = json!({ "kubernetes.io/service-name": "web", "app": "web" });
        let mut object = json!({
            "metadata": { "name": "web-1", "namespace": "shop", "labels": labels },
            "addressType": "IPv4", "ports": [{ "name": "", "protocol": "TCP", "port": 8080 }],
        });
        object.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        slice(serde_json::from_value(object).unwrap())
    }

    fn an_endpoint(keys: Value) -> Endpoint {
        let mut endpoint = json!({ "addresses": ["10.0.0.1"] });
        endpoint.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        a_slice(json!({ "endpoints": [endpoint] })).endpoints[0].clone()
    }

    #[test]
    fn everything_of_a_service() {
        let service = service(
            serde_json::from_value(json!({
                "metadata": { "name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7" },
                "spec": {
                    "type": "LoadBalancer",
                    "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
                    "ports": [
                        { "name": "http", "port": 80, "targetPort": "web", "nodePort": 30080 },
                        { "name": "dns", "protocol": "UDP", "port": 53 },
                        { "name": "sig", "protocol": "SCTP", "port": 54, "nodePort": 0 },
                    ],
                    "externalIPs": ["198.51.100.1"],
                    "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
                    "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
                    "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "fd00::/8\t"],
                    "healthCheckNodePort": 32000,
                },
                "status": { "loadBalancer": { "ingress": [
                    { "ip": "203.0.113.1", "ipMode": "VIP" },
                    { "ip": "203.0.113.2", "ipMode": "Proxy" },
                    { "hostname": "lb.example.com" },
                ] } },
            }))
            .unwrap(),
        );
        assert_eq!(service.key.to_string(), "shop/web");
        assert_eq!(service.kind, ServiceType::LoadBalancer);
        assert_eq!(service.cluster_ips.len(), 2);
        let ports: Vec<_> =
            service.ports.iter().map(|port| (port.protocol, port.port, port.node_port)).collect();
        assert_eq!(
            ports,
            [(Protocol::Tcp, 80, Some(30080)), (Protocol::Udp, 53, None), (Protocol::Sctp, 54, None)]
        );
        assert_eq!(
            (service.internal_policy, service.external_policy),
            (TrafficPolicy::Local, TrafficPolicy::Local)
        );
        assert_eq!(service.affinity_seconds, Some(60));
        assert_eq!(service.source_ranges.unwrap().len(), 2);
        assert_eq!(service.health_check_port, Some(32000));
        assert_eq!(service.ingress.iter().map(|ingress| ingress.proxy).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn the_defaults_of_a_service() {
        let service = a_service(json!({ "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] }));
        assert_eq!(*service.cluster_ips, ["10.96.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(service.kind, ServiceType::ClusterIp);
        assert_eq!((service.internal_policy, service.affinity_seconds), (TrafficPolicy::Cluster, None));
        assert!(service.source_ranges.is_none() && !service.not_ours);
        let sticky = a_service(json!({ "sessionAffinity": "ClientIP" }));
        assert_eq!(sticky.affinity_seconds, Some(10_800));
    }

    #[test]
    fn a_headless_service_has_no_cluster_ips() {
        for spec in [json!({ "clusterIP": "None", "clusterIPs": ["None"] }), json!({ "clusterIP": "" })] {
            assert!(a_service(spec).cluster_ips.is_empty());
        }
    }

    #[test]
    fn labels_that_say_that_it_is_not_ours() {
        for label in ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"] {
            let object = json!({ "metadata": { "name": "web", "labels": { label: "" } } });
            assert!(service(serde_json::from_value(object).unwrap()).not_ours);
        }
    }

    #[test]
    fn what_does_not_parse_is_left_out_and_opens_nothing() {
        let service = a_service(json!({
            "clusterIPs": ["10.96.0.1", "nonsense"],
            "ports": [{ "port": 70000 }, { "port": 80, "protocol": "DCCP" }, { "port": 81 }],
            "loadBalancerSourceRanges": ["everybody"],
        }));
        assert_eq!((service.cluster_ips.len(), service.ports.len()), (1, 1));
        assert_eq!(service.source_ranges.as_deref(), Some(&[][..]));
    }

    #[test]
    fn conditions_and_their_defaults() {
        let of = |conditions| {
            let one = an_endpoint(json!({ "conditions": conditions }));
            (one.ready, one.serving, one.terminating)
        };
        assert_eq!(of(json!(null)), (true, true, false));
        assert_eq!(of(json!({})), (true, true, false));
        assert_eq!(of(json!({ "ready": false })), (false, false, false));
        assert_eq!(of(json!({ "ready": false, "serving": true, "terminating": true })), (false, true, true));
    }

    #[test]
    fn node_and_hints() {
        let hints = json!({ "forZones": [{ "name": "a" }, { "name": "b" }], "forNodes": [{ "name": "n" }] });
        let one = an_endpoint(json!({ "nodeName": "n", "zone": "a", "hints": hints }));
        assert_eq!(one.node.as_deref(), Some("n"));
        assert_eq!((one.for_zones.len(), one.for_nodes.len()), (2, 1));
    }

    #[test]
    fn only_the_first_address_counts() {
        let one = an_endpoint(json!({ "addresses": ["10.0.0.7", "10.0.0.8"] }));
        assert_eq!(one.address, "10.0.0.7".parse::<IpAddr>().unwrap());
        let none = json!([{ "addresses": [] }, { "addresses": ["x"] }, { "addresses": ["fd00::1"] }]);
        assert!(a_slice(json!({ "endpoints": none })).endpoints.is_empty());
    }

    #[test]
    fn null_lists_ports_without_a_number_and_names() {
        let slice = a_slice(json!({ "endpoints": null, "ports": null }));
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
        assert!(a_slice(json!({ "ports": [{ "name": "all" }] })).ports.is_empty());
        let names =
            a_slice(json!({ "addressType": "FQDN", "endpoints": [{ "addresses": ["a.example.com"] }] }));
        assert_eq!((names.address_type, names.endpoints.len()), (AddressType::Fqdn, 0));
    }
}
