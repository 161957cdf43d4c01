//! Endpoints: for Services with a selector written from their slices, as old clients read them; for Services without one read,
//! and mirrored to slices, which are all that the network looks at.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{self as core, EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use super::{
    Again, Pass,
    endpoint_slice::{HEADLESS, MANAGED_BY, SERVICE_NAME, place, write},
    owned::{controller_uid, hash_of, owner_reference},
};
use crate::world::{World, key_of};

const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
/// Says that an Endpoints object was written from slices.
const WRITTEN_BY: &str = "endpoints.kubernetes.io/managed-by";
/// Asks for no mirror.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are a lock, and lead nowhere.
const LOCK: &str = "control-plane.alpha.kubernetes.io/leader";
/// More addresses than these are left out, as a real cluster leaves them out.
const MOST_ADDRESSES: usize = 1000;

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let mut of_service: HashMap<String, Vec<Arc<EndpointSlice>>> = HashMap::new();
    let mut mirrored: HashMap<String, Vec<Arc<EndpointSlice>>> = HashMap::new();
    for slice in world.endpoint_slices.list() {
        let Some(uid) = controller_uid(&slice.metadata) else { continue };
        let managed = slice.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY));
        let by = if managed.is_some_and(|by| by == MIRROR) { &mut mirrored } else { &mut of_service };
        by.entry(uid.to_owned()).or_default().push(slice);
    }
    let mut pass = Pass::default();
    for service in world.services.list() {
        if service.metadata.deletion_timestamp.is_none() && has_selector(&service) {
            let slices =
                service.metadata.uid.as_ref().and_then(|uid| of_service.remove(uid)).unwrap_or_default();
            pass.take(tell(world, &service, &slices).await.map(|()| None));
        }
    }
    for endpoints in world.endpoints.list() {
        let (namespace, name) = key_of(&endpoints.metadata);
        let service = world.services.get(&namespace, &name);
        let held = endpoints.metadata.uid.as_ref().and_then(|uid| mirrored.remove(uid)).unwrap_or_default();
        let label = |key| endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        if label(WRITTEN_BY).is_some() {
            if service.is_none() {
                pass.take(
                    world.endpoints.delete(&world.client, &endpoints.metadata, None).await.map(|()| None),
                );
            }
            continue;
        }
        let lock = endpoints.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(LOCK));
        let skipped = label(SKIP).is_some_and(|value| value == "true") || lock;
        let wanted = match service.filter(|service| !has_selector(service) && !skipped) {
            Some(_) => mirror_of(&endpoints, &held),
            None => BTreeMap::new(),
        };
        pass.take(write(world, wanted, held).await.map(|()| None));
    }
    pass.end()
}

fn has_selector(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

/// Writes the Endpoints of a Service that has a selector.
async fn tell(world: &World, service: &Service, slices: &[Arc<EndpointSlice>]) -> kube::Result<()> {
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        return Ok(());
    }
    let (namespace, name) = key_of(&service.metadata);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(WRITTEN_BY.into(), "endpoint-controller".into());
    if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    let family = spec.and_then(|spec| spec.ip_families.as_ref()?.first().cloned());
    let subsets = subsets_of(slices, family.as_deref().unwrap_or("IPv4"));
    if let Some(held) = world.endpoints.get(&namespace, &name) {
        let patch = json!({ "metadata": { "labels": labels }, "subsets": subsets });
        // An absent list and an empty one are the same.
        if subsets.is_empty() && held.subsets.as_ref().is_none_or(Vec::is_empty) {
            let patch = json!({ "metadata": { "labels": labels } });
            return world.endpoints.patch(&world.client, &held.metadata, &patch).await;
        }
        return world.endpoints.patch(&world.client, &held.metadata, &patch).await;
    }
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: Some(namespace),
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    world.endpoints.create(&world.client, &Endpoints { metadata, subsets: Some(subsets) }).await
}

/// One subset for each set of ports. What is ending is left out.
fn subsets_of(slices: &[Arc<EndpointSlice>], family: &str) -> Vec<EndpointSubset> {
    let mut subsets: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut left = MOST_ADDRESSES;
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let ports = slice.ports.as_deref().unwrap_or_default();
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let (Some(ip), true) =
                (endpoint.addresses.first(), ready || conditions.terminating != Some(true))
            else {
                continue;
            };
            if left == 0 {
                break;
            }
            left -= 1;
            let subset = subsets.entry(hash_of(&ports)).or_insert_with(|| EndpointSubset {
                ports: Some(ports.iter().filter_map(port_of).collect()),
                ..EndpointSubset::default()
            });
            let address = EndpointAddress {
                ip: ip.clone(),
                hostname: endpoint.hostname.clone(),
                node_name: endpoint.node_name.clone(),
                target_ref: endpoint.target_ref.clone(),
            };
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            list.get_or_insert_default().push(address);
        }
    }
    let mut subsets: Vec<EndpointSubset> = subsets.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by_key(|address| address.ip.parse::<IpAddr>().ok());
        }
    }
    subsets
}

fn port_of(port: &EndpointPort) -> Option<core::EndpointPort> {
    Some(core::EndpointPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port?,
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    })
}

/// The slices that say what an Endpoints object says.
fn mirror_of(endpoints: &Endpoints, held: &[Arc<EndpointSlice>]) -> BTreeMap<String, EndpointSlice> {
    let mut slices = BTreeMap::new();
    let name = endpoints.metadata.name.as_deref().unwrap_or_default();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(slice_port).collect();
        for family in ["IPv4", "IPv6"] {
            let ready = subset.addresses.iter().flatten().map(|address| (address, true));
            let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
            let of_family = |address: &EndpointAddress| {
                address.ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"))
            };
            let wanted: Vec<Endpoint> = ready
                .chain(others)
                .filter(|(address, _)| of_family(address))
                .map(|(address, ready)| endpoint_of(address, ready))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let base = format!("{name}-{}-{}", family.to_ascii_lowercase(), hash_of(&ports));
            for (slice, wanted) in place(&base, wanted, held) {
                slices.insert(slice.clone(), slice_of(endpoints, family, slice, ports.clone(), wanted));
            }
        }
    }
    slices
}

fn slice_of(
    endpoints: &Endpoints,
    family: &str,
    name: String,
    ports: Vec<EndpointPort>,
    wanted: Vec<Endpoint>,
) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MIRROR.into());
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: endpoints.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner_reference(endpoints)]),
        ..ObjectMeta::default()
    };
    EndpointSlice { metadata, address_type: family.to_owned(), ports: Some(ports), endpoints: wanted }
}

fn slice_port(port: &core::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint_of(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D5: both families and both states are mirrored, and the way back gives the same addresses.
    #[test]
    fn endpoints_and_slices_say_the_same() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": { "name": "db", "namespace": "shop", "uid": "u" },
            "subsets": [{
                "addresses": [{ "ip": "192.168.1.254" }, { "ip": "fd00::1" }],
                "notReadyAddresses": [{ "ip": "192.168.1.253" }],
                "ports": [{ "name": "sql", "port": 5432 }],
            }],
        }))
        .unwrap();
        let slices: Vec<Arc<EndpointSlice>> =
            mirror_of(&endpoints, &[]).into_values().map(Arc::new).collect();
        assert_eq!(
            slices.iter().map(|slice| slice.address_type.as_str()).collect::<Vec<_>>(),
            ["IPv4", "IPv6"]
        );
        let labels = slices[0].metadata.labels.as_ref().unwrap();
        assert_eq!((labels[SERVICE_NAME].as_str(), labels[MANAGED_BY].as_str()), ("db", MIRROR));
        let subsets = subsets_of(&slices, "IPv4");
        let ips = |list: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            list.iter().flatten().map(|address| address.ip.clone()).collect()
        };
        assert_eq!(ips(&subsets[0].addresses), ["192.168.1.254"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["192.168.1.253"]);
        assert_eq!(subsets[0].ports.as_ref().unwrap()[0].port, 5432);
    }
}
