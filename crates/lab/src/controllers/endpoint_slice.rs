//! EndpointSlices: which Pods stand behind a Service now, and which of them are ready.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{
            Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
        },
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use serde_json::json;

use super::{
    Again, Pass,
    owned::{controller_uid, hash_of, is_finished, is_ready, is_terminating, owner_reference},
    selector::selects_labels,
};
use crate::world::World;

const ENDPOINTS_A_SLICE: usize = 100;
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let mut pods: HashMap<String, Vec<Arc<Pod>>> = HashMap::new();
    for pod in world.pods.list() {
        pods.entry(pod.metadata.namespace.clone().unwrap_or_default()).or_default().push(pod);
    }
    let mut slices: HashMap<String, Vec<Arc<EndpointSlice>>> = HashMap::new();
    for slice in world.endpoint_slices.list() {
        if let Some(uid) = controller_uid(&slice.metadata) {
            slices.entry(uid.to_owned()).or_default().push(slice);
        }
    }
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
        let near = pods.get(service.metadata.namespace.as_deref().unwrap_or_default());
        // A Pod that is being deleted stays as a terminating endpoint until it has ended.
        let behind = near
            .into_iter()
            .flatten()
            .filter(|pod| selects_labels(selector, pod.metadata.labels.as_ref()) && !is_finished(pod));
        let held = service.metadata.uid.as_ref().and_then(|uid| slices.remove(uid)).unwrap_or_default();
        let wanted = slices_of(&service, behind, &zones, &held);
        pass.take(write(world, wanted, held).await.map(|()| None));
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
    held: &[Arc<EndpointSlice>],
) -> BTreeMap<String, EndpointSlice> {
    let Some(spec) = &service.spec else { return BTreeMap::new() };
    // Names have no addresses to send anything to.
    if spec.type_.as_deref() == Some("ExternalName") {
        return BTreeMap::new();
    }
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
    // A Service without Pods has a slice all the same, that says so.
    for family in families {
        if !groups.keys().any(|(of, _)| *of == family) {
            let service_name = service.metadata.name.as_deref().unwrap_or_default();
            let name = format!("{service_name}-{}-none-0", family.to_ascii_lowercase());
            slices.insert(name.clone(), slice(service, family, name, Vec::new(), Vec::new()));
        }
    }
    for ((family, hash), (ports, endpoints)) in groups {
        let base = format!(
            "{}-{}-{hash}",
            service.metadata.name.as_deref().unwrap_or_default(),
            family.to_ascii_lowercase()
        );
        for (name, endpoints) in place(&base, endpoints, held) {
            slices.insert(name.clone(), slice(service, family, name, ports.clone(), endpoints));
        }
    }
    slices
}

/// Puts each endpoint into a slice: the one it stands in, else the first with room. An endpoint that moved between
/// slices would for a moment stand in none.
pub(super) fn place(
    base: &str,
    endpoints: Vec<Endpoint>,
    held: &[Arc<EndpointSlice>],
) -> BTreeMap<String, Vec<Endpoint>> {
    let name = |number: usize| format!("{base}-{number}");
    let mut at: HashMap<&str, &str> = HashMap::new();
    for slice in held {
        let Some(name) = slice.metadata.name.as_deref().filter(|name| {
            name.strip_prefix(base)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|n| n.parse::<usize>().is_ok())
        }) else {
            continue;
        };
        at.extend(
            slice.endpoints.iter().filter_map(|endpoint| Some((endpoint.addresses.first()?.as_str(), name))),
        );
    }
    let mut placed: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
    let mut new = Vec::new();
    for endpoint in endpoints {
        match endpoint.addresses.first().and_then(|address| at.get(address.as_str())) {
            Some(name) => placed.entry((*name).to_owned()).or_default().push(endpoint),
            None => new.push(endpoint),
        }
    }
    let mut number = 0;
    for endpoint in new {
        while placed.get(&name(number)).is_some_and(|slice| slice.len() >= ENDPOINTS_A_SLICE) {
            number += 1;
        }
        placed.entry(name(number)).or_default().push(endpoint);
    }
    placed
}

fn slice(
    service: &Service,
    family: &str,
    name: String,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), "endpointslice-controller.k8s.io".into());
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    let metadata = ObjectMeta {
        name: Some(name),
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
    let ready = publish || (serving && !terminating);
    let zone = node.as_ref().and_then(|node| zones.get(node).cloned());
    let named = spec.filter(|spec| spec.subdomain == service.metadata.name);
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            // Not what is published, but what the Pod says of itself.
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: named.and_then(|spec| spec.hostname.clone()),
        hints: hints(service, ready, zone.as_deref(), node.as_deref()),
        zone,
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

/// Which clients an endpoint is for, as `trafficDistribution` asks: only ready endpoints carry hints.
fn hints(service: &Service, ready: bool, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !ready || !matches!(wish, "PreferClose" | "PreferSameZone" | "PreferSameNode") {
        return None;
    }
    let node = node.filter(|_| wish == "PreferSameNode");
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let for_nodes = node.map(|node| vec![ForNode { name: node.to_owned() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_zones, for_nodes })
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
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
            let containers = spec.containers.iter().chain(sidecars);
            let mut declared = containers.flat_map(|container| container.ports.iter().flatten());
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

pub(super) async fn write(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: usize) -> Endpoint {
        Endpoint { addresses: vec![format!("10.0.{}.{}", number / 250, number % 250)], ..Endpoint::default() }
    }

    fn held(placed: &BTreeMap<String, Vec<Endpoint>>) -> Vec<Arc<EndpointSlice>> {
        let slice = |(name, endpoints): (&String, &Vec<Endpoint>)| EndpointSlice {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            endpoints: endpoints.clone(),
            ..EndpointSlice::default()
        };
        placed.iter().map(slice).map(Arc::new).collect()
    }

    /// D5: a Service without Pods has a slice for each family.
    #[test]
    fn a_service_without_pods_has_placeholders() {
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": "web", "uid": "u" },
            "spec": { "selector": { "a": "b" }, "ipFamilies": ["IPv4", "IPv6"], "ports": [{ "port": 80 }] },
        }))
        .unwrap();
        let slices = slices_of(&service, std::iter::empty(), &BTreeMap::new(), &[]);
        let families: Vec<&str> = slices.values().map(|slice| slice.address_type.as_str()).collect();
        assert_eq!(families, ["IPv4", "IPv6"]);
        assert!(slices.values().all(|slice| slice.endpoints.is_empty()));
    }

    /// D6: a named port may be a native sidecar's.
    #[test]
    fn named_ports_of_sidecars_are_found() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": {
            "initContainers": [
                { "name": "once", "ports": [{ "name": "metrics", "containerPort": 1 }] },
                { "name": "proxy", "restartPolicy": "Always", "ports": [{ "name": "metrics", "containerPort": 9000 }] },
            ],
            "containers": [{ "name": "app" }],
        }}))
        .unwrap();
        let port: ServicePort =
            serde_json::from_value(json!({ "port": 80, "targetPort": "metrics" })).unwrap();
        assert_eq!(target_port(&port, &pod), Some(9000));
    }

    #[test]
    fn an_endpoint_stays_in_its_slice_when_others_come_and_go() {
        let first = place("web-ipv4-x", (0..250).map(endpoint).collect(), &[]);
        assert_eq!(first.values().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        let fewer: Vec<Endpoint> =
            (0..250).filter(|number| *number != 5).chain([300]).map(endpoint).collect();
        let second = place("web-ipv4-x", fewer, &held(&first));
        for (name, endpoints) in &second {
            let stay = endpoints.iter().filter(|one| first[name].contains(one)).count();
            assert!(stay + 1 >= endpoints.len(), "{name}");
        }
        assert_eq!(second.values().map(Vec::len).sum::<usize>(), 250);
    }

    #[test]
    fn hints_name_the_zone_and_for_the_same_node_the_node() {
        let service = |wish: &str| Service {
            spec: Some(k8s_openapi::api::core::v1::ServiceSpec {
                traffic_distribution: Some(wish.to_owned()),
                ..Default::default()
            }),
            ..Service::default()
        };
        let close = hints(&service("PreferClose"), true, Some("a"), Some("n")).unwrap();
        assert_eq!((close.for_zones.unwrap()[0].name.as_str(), close.for_nodes), ("a", None));
        let node = hints(&service("PreferSameNode"), true, Some("a"), Some("n")).unwrap();
        assert_eq!((node.for_zones.unwrap().len(), node.for_nodes.unwrap()[0].name.as_str()), (1, "n"));
        assert_eq!(hints(&service("PreferSameZone"), false, Some("a"), Some("n")), None);
        assert_eq!(hints(&service("PreferSameZone"), true, None, Some("n")), None);
    }
}
