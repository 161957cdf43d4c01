//! The objects of `objects.yaml`, as much of them as the zone hears of.

use serde::Deserialize;
use serde_json::Value;
use weft_model::{
    Protocol,
    dns::{NamespaceEvent, Zone},
    services::{
        AddressType, Endpoint, EndpointSlice, Event, Service, ServiceKey, ServicePort, ServiceType, SliceKey,
        SlicePort,
    },
};

use crate::support::{endpoint, ip, service};

#[derive(Default)]
pub struct Objects {
    namespaces: Vec<String>,
    pub services: Vec<Service>,
    pub slices: Vec<EndpointSlice>,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Document(Value);

impl Objects {
    pub fn read(text: &str) -> Objects {
        let mut objects = Objects::default();
        for document in text.split("\n---\n") {
            let Document(object) = serde_saphyr::from_str(document).unwrap();
            match object["kind"].as_str() {
                Some("Namespace") => objects.namespaces.push(text_of(&object["metadata"]["name"])),
                Some("Service") => objects.services.push(read_service(&object)),
                Some("EndpointSlice") => objects.slices.push(read_slice(&object)),
                other => panic!("{other:?}"),
            }
        }
        objects
    }

    pub fn fill(&self, zone: &mut Zone) {
        for name in &self.namespaces {
            zone.hear_namespace(&NamespaceEvent::Namespace(name.as_str().into()));
        }
        self.services.iter().for_each(|service| zone.hear(&Event::Service(service.clone())));
        self.slices.iter().for_each(|slice| zone.hear(&Event::Slice(slice.clone())));
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn key(object: &Value) -> (String, String) {
    (text_of(&object["metadata"]["namespace"]), text_of(&object["metadata"]["name"]))
}

fn protocol(port: &Value) -> Protocol {
    match port["protocol"].as_str() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn number(value: &Value) -> u16 {
    value.as_u64().and_then(|number| number.try_into().ok()).unwrap()
}

fn read_service(object: &Value) -> Service {
    let (namespace, name) = key(object);
    let spec = &object["spec"];
    let one = text_of(&spec["clusterIP"]);
    let addresses: Vec<String> = match list(&spec["clusterIPs"]) {
        [] if one.is_empty() || one == "None" => Vec::new(),
        [] => vec![one.clone()],
        many => many.iter().map(text_of).collect(),
    };
    let port = |port: &Value| ServicePort {
        name: text_of(&port["name"]).into(),
        protocol: protocol(port),
        port: number(&port["port"]),
        node_port: None,
    };
    Service {
        key: ServiceKey::new(namespace.as_str(), name.as_str()),
        kind: match spec["type"].as_str() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        },
        cluster_ips: addresses.iter().map(|address| ip(address)).collect(),
        headless: one == "None",
        external_name: spec["externalName"].as_str().map(Into::into),
        ports: list(&spec["ports"]).iter().map(port).collect(),
        ..service("x")
    }
}

fn read_slice(object: &Value) -> EndpointSlice {
    let (namespace, name) = key(object);
    let port = |port: &Value| SlicePort {
        name: text_of(&port["name"]).into(),
        protocol: protocol(port),
        port: number(&port["port"]),
    };
    let address_type = match object["addressType"].as_str() {
        Some("IPv4") => AddressType::Ipv4,
        Some("IPv6") => AddressType::Ipv6,
        _ => AddressType::Fqdn,
    };
    let read = |one: &Value| {
        let conditions = &one["conditions"];
        let ready = conditions["ready"] != false;
        Endpoint {
            ready,
            serving: conditions["serving"].as_bool().unwrap_or(ready),
            terminating: conditions["terminating"] == true,
            ..endpoint(one["addresses"][0].as_str().unwrap(), one["hostname"].as_str())
        }
    };
    let endpoints = if address_type == AddressType::Fqdn { &[] } else { list(&object["endpoints"]) };
    EndpointSlice {
        key: SliceKey::new(namespace.as_str(), name.as_str()),
        service: text_of(&object["metadata"]["labels"]["kubernetes.io/service-name"]).into(),
        address_type,
        ports: list(&object["ports"]).iter().map(port).collect(),
        endpoints: endpoints.iter().map(read).collect(),
    }
}
