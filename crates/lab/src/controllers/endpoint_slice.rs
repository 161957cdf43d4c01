//! EndpointSlices: which Pods stand behind a Service now, and which of them are ready.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use serde_json::json;

use super::{
    Again, Pass,
    owned::{hash_of, is_finished, is_ready, is_terminating, owned, owner_reference},
    selector::selects_labels,
};
use crate::world::World;

const ENDPOINTS_A_SLICE: usize = 100;

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let (pods, slices) = (world.pods.list(), world.endpoint_slices.list());
    let zones: BTreeMap<String, String> = world
        .nodes
        .list()
        .iter()
        .filter_map(|node| {
            let zone = node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone")?;
            Some((node.metadata.name.clone()?, zone.clone()))
        })
        .collect();
    let mut pass = Pass::default();
    for service in world.services.list() {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        // Without a selector the slices are somebody else's.
        if service.metadata.deletion_timestamp.is_some() || selector.is_none_or(BTreeMap::is_empty) {
            continue;
        }
        let behind = pods.iter().filter(|pod| {
            pod.metadata.namespace == service.metadata.namespace
                && selects_labels(selector, pod.metadata.labels.as_ref())
                && !is_finished(pod)
        });
        let wanted = slices_of(&service, behind, &zones);
        pass.take(write(world, wanted, owned(&slices, &*service)).await.map(|()| None));
    }
    pass.end()
}

/// Endpoints that have the same ports.
type Group = (Vec<EndpointPort>, Vec<Endpoint>);

/// What the slices should be, by name.
fn slices_of<'p>(
    service: &Service,
    pods: impl Iterator<Item = &'p Arc<Pod>>,
    zones: &BTreeMap<String, String>,
) -> BTreeMap<String, EndpointSlice> {
    let Some(spec) = &service.spec else { return BTreeMap::new() };
    let families: Vec<&str> = match &spec.ip_families {
        Some(families) if !families.is_empty() => families.iter().map(String::as_str).collect(),
        _ => vec!["IPv4", "IPv6"],
    };
    // Named target ports may be other numbers on other Pods: those are slices of their own.
    let mut groups: BTreeMap<(&str, String), Group> = BTreeMap::new();
    for pod in pods {
        let ports = resolve(spec.ports.as_deref().unwrap_or_default(), pod);
        for family in &families {
            let Some(address) = address_of(pod, family) else { continue };
            let endpoint = endpoint(service, pod, address, zones);
            let group =
                groups.entry((family, hash_of(&ports))).or_insert_with(|| (ports.clone(), Vec::new()));
            group.1.push(endpoint);
        }
    }
    let mut slices = BTreeMap::new();
    for ((family, hash), (ports, endpoints)) in groups {
        for (number, endpoints) in endpoints.chunks(ENDPOINTS_A_SLICE).enumerate() {
            let slice = slice(service, family, &hash, number, ports.clone(), endpoints.to_vec());
            slices.insert(slice.metadata.name.clone().unwrap_or_default(), slice);
        }
    }
    slices
}

fn slice(
    service: &Service,
    family: &str,
    hash: &str,
    number: usize,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert("kubernetes.io/service-name".into(), name.clone());
    labels.insert("endpointslice.kubernetes.io/managed-by".into(), "endpointslice-controller.k8s.io".into());
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    let metadata = ObjectMeta {
        name: Some(format!("{name}-{}-{hash}-{number}", family.to_ascii_lowercase())),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner_reference(service)]),
        ..ObjectMeta::default()
    };
    EndpointSlice { metadata, address_type: family.to_owned(), ports: Some(ports), endpoints }
}

fn endpoint(service: &Service, pod: &Pod, address: IpAddr, zones: &BTreeMap<String, String>) -> Endpoint {
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.clone());
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (is_ready(pod), is_terminating(pod));
    let named = spec.filter(|spec| spec.subdomain == service.metadata.name);
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(publish || serving),
            terminating: Some(terminating),
        }),
        hostname: named.and_then(|spec| spec.hostname.clone()),
        zone: node.as_ref().and_then(|node| zones.get(node).cloned()),
        node_name: node,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The Service's ports as numbers on this Pod. A name that the Pod does not have is left out.
fn resolve(ports: &[ServicePort], pod: &Pod) -> Vec<EndpointPort> {
    ports
        .iter()
        .filter_map(|port| {
            let number = target_port(port, pod)?;
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(number),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let mut declared = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let same = |other: &Option<String>| other.as_deref().unwrap_or("TCP") == protocol;
            declared
                .find(|declared| declared.name.as_ref() == Some(name) && same(&declared.protocol))
                .map(|declared| declared.container_port)
        }
    }
}

fn address_of(pod: &Pod, family: &str) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let several = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    several
        .chain(&status.pod_ip)
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .find(|ip| ip.is_ipv4() == (family == "IPv4"))
}

async fn write(
    world: &World,
    mut wanted: BTreeMap<String, EndpointSlice>,
    held: Vec<Arc<EndpointSlice>>,
) -> kube::Result<()> {
    let store = &world.endpoint_slices;
    let mut surplus = Vec::new();
    for slice in held {
        match wanted.remove(slice.metadata.name.as_deref().unwrap_or_default()) {
            Some(new) => {
                let patch = json!({
                    "metadata": { "labels": new.metadata.labels }, "ports": new.ports, "endpoints": new.endpoints,
                });
                store.patch(&world.client, &slice.metadata, &patch).await?;
            }
            None => surplus.push(slice),
        }
    }
    for slice in wanted.values() {
        store.create(&world.client, slice).await?;
    }
    // What is new stands before what is old goes.
    for slice in surplus {
        store.delete(&world.client, &slice.metadata, None).await?;
    }
    Ok(())
}
