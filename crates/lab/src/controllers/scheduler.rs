//! Gives each Pod a node: a ready one that its selectors allow and whose host ports are free, the emptiest first.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::{
    api::core::v1::{Node, NodeSelectorTerm, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use serde_json::json;

use super::{Again, Pass, owned::is_finished, replica_set::AT_ONCE, selector::selects, status::now};
use crate::world::World;

/// A port of a node that a Pod takes: address, protocol, number. Colliding means all three.
type HostPort = (String, String, i32);

pub(super) async fn reconcile(world: &World) -> kube::Result<Again> {
    let (nodes, others): (Vec<Arc<Node>>, Vec<Arc<Node>>) =
        world.nodes.list().into_iter().partition(|node| is_usable(node));
    if let Some(wait) = others.iter().filter_map(|node| joining(node)).max() {
        return Ok(Some(wait));
    }
    let pods = world.pods.list();
    let mut load: HashMap<String, usize> = HashMap::new();
    let mut taken: HashMap<String, Vec<HostPort>> = HashMap::new();
    for pod in pods.iter().filter(|pod| !is_finished(pod)) {
        let Some(spec) = &pod.spec else { continue };
        let Some(node) = &spec.node_name else { continue };
        *load.entry(node.clone()).or_default() += 1;
        taken.entry(node.clone()).or_default().extend(host_ports(spec));
    }
    let mut bindings = Vec::new();
    let mut refused = Vec::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let Some(spec) = pod.spec.as_ref().filter(|spec| waits(spec)) else { continue };
        let ports = host_ports(spec);
        let name_of = |node: &Arc<Node>| node.metadata.name.clone().unwrap_or_default();
        let free = |node: &str| {
            let taken = taken.get(node).map(Vec::as_slice).unwrap_or_default();
            !ports.iter().any(|port| taken.iter().any(|other| collide(port, other)))
        };
        let fitting = nodes.iter().filter(|node| allows(node, spec)).map(name_of).filter(|node| free(node));
        let owner = pod.metadata.owner_references.as_ref().and_then(|references| references.first());
        let beside = |node: &str| {
            let same = |other: &&Arc<Pod>| {
                let at = other.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                let other =
                    other.metadata.owner_references.as_ref().and_then(|references| references.first());
                at == Some(node) && owner.is_some() && other == owner
            };
            pods.iter().filter(same).count()
        };
        let best =
            fitting.min_by_key(|node| (load.get(node).copied().unwrap_or(0), beside(node), node.clone()));
        match best {
            Some(node) => {
                *load.entry(node.clone()).or_default() += 1;
                taken.entry(node.clone()).or_default().extend(ports);
                bindings.push((pod.clone(), node));
            }
            None => refused.push(pod.clone()),
        }
    }
    let mut pass = Pass::default();
    let mut bound = stream::iter(bindings)
        .map(|(pod, node)| async move { bind(world, &pod, &node).await })
        .buffer_unordered(AT_ONCE);
    while let Some(result) = bound.next().await {
        pass.take(result.map(|()| None));
    }
    for pod in &refused {
        pass.take(say_unschedulable(world, pod, nodes.len()).await.map(|()| None));
    }
    // A Pod that waits for a node is looked at again whenever a node or a Pod changes; nothing to poll for.
    pass.end()
}

async fn bind(world: &World, pod: &Pod, node: &str) -> kube::Result<()> {
    let (namespace, name) = crate::world::key_of(&pod.metadata);
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": { "name": name, "namespace": namespace, "uid": pod.metadata.uid },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let api: Api<Pod> = Api::namespaced(world.client.clone(), &namespace);
    let answer: kube::Result<serde_json::Value> =
        api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
    match answer {
        Ok(_) => {
            let mut bound = pod.clone();
            bound.spec.get_or_insert_default().node_name = Some(node.to_owned());
            world.pods.assume(bound);
            Ok(())
        }
        // Deleted or bound meanwhile: the watch tells.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

async fn say_unschedulable(world: &World, pod: &Pod, nodes: usize) -> kube::Result<()> {
    let message =
        format!("0/{nodes} ready nodes are available: selectors, host ports or readiness do not fit");
    let held = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let said =
        held.iter().flat_map(|all| all.iter()).any(|c| c.type_ == "PodScheduled" && c.status == "False");
    if said {
        return Ok(());
    }
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastTransitionTime": now(),
    });
    let status = json!({ "phase": "Pending", "conditions": [condition] });
    world.pods.patch_status(&world.client, &pod.metadata, &status).await
}

/// Nobody has placed the Pod, and it asks for no other scheduler or gate.
fn waits(spec: &PodSpec) -> bool {
    let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == "default-scheduler");
    spec.node_name.is_none() && ours && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

fn is_usable(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.iter().flat_map(|all| all.iter()).any(|c| c.type_ == "Ready" && c.status == "True");
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    ready && !cordoned && node.metadata.deletion_timestamp.is_none()
}

/// How long to wait for a node that has just joined and will be ready in a moment: Pods that start with the cluster
/// are to be spread over all of it, not to crowd on the node that was first.
fn joining(node: &Node) -> Option<Duration> {
    const PATIENCE: i64 = 10;
    let joined = node.metadata.creation_timestamp.as_ref()?.0.as_second();
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let left = PATIENCE - (Timestamp::now().as_second() - joined);
    let waits = left > 0 && !cordoned && node.metadata.deletion_timestamp.is_none();
    waits.then(|| Duration::from_secs(left.unsigned_abs()))
}

/// Whether the Pod's `nodeSelector` and required node affinity allow the node.
pub(super) fn allows(node: &Node, spec: &PodSpec) -> bool {
    let labels = node.metadata.labels.as_ref();
    let chosen = spec
        .node_selector
        .iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    chosen
        && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(node, term)))
}

fn matches(node: &Node, term: &NodeSelectorTerm) -> bool {
    let convert =
        |requirements: &Option<Vec<k8s_openapi::api::core::v1::NodeSelectorRequirement>>| LabelSelector {
            match_expressions: Some(
                requirements
                    .iter()
                    .flatten()
                    .map(|wanted| LabelSelectorRequirement {
                        key: wanted.key.clone(),
                        operator: wanted.operator.clone(),
                        values: wanted.values.clone(),
                    })
                    .collect(),
            ),
            match_labels: None,
        };
    let fields = node.metadata.name.iter().map(|name| ("metadata.name".to_owned(), name.clone())).collect();
    selects(&convert(&term.match_expressions), node.metadata.labels.as_ref())
        && selects(&convert(&term.match_fields), Some(&fields))
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let on_host = spec.host_network == Some(true);
    spec.containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|port| *port > 0).or(on_host.then_some(port.container_port))?;
            let address = port.host_ip.clone().unwrap_or_default();
            Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
        })
        .collect()
}

/// The same port of the same protocol on the same address; no address stands for all.
fn collide(one: &HostPort, other: &HostPort) -> bool {
    let any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    one.1 == other.1 && one.2 == other.2 && (any(&one.0) || any(&other.0) || one.0 == other.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_collide_by_address_protocol_and_number() {
        let port = |address: &str, protocol: &str, number| (address.to_owned(), protocol.to_owned(), number);
        assert!(collide(&port("", "TCP", 80), &port("192.168.1.2", "TCP", 80)));
        assert!(!collide(&port("127.0.0.1", "TCP", 80), &port("192.168.1.2", "TCP", 80)));
        assert!(!collide(&port("", "TCP", 53), &port("", "UDP", 53)));
    }
}
