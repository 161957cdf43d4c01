//! Gives each Pod a node: a ready one that its selectors allow and whose host ports are free, the emptiest first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

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
        let fitting = nodes.iter().filter(|node| missing(node, spec).is_none());
        let fitting = fitting.map(name_of).filter(|node| free(node));
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
            None => {
                let why = |node: &Arc<Node>| match state_of(node).or_else(|| missing(node, spec)) {
                    Some(why) => why,
                    None => "didn't have free ports for the requested pod ports".to_owned(),
                };
                refused.push((pod.clone(), message(nodes.iter().chain(&others).map(why))));
            }
        }
    }
    let mut pass = Pass::default();
    let mut bound = stream::iter(bindings)
        .map(|(pod, node)| async move { bind(world, &pod, &node).await })
        .buffer_unordered(AT_ONCE);
    while let Some(result) = bound.next().await {
        pass.take(result.map(|()| None));
    }
    for (pod, message) in &refused {
        pass.take(say_unschedulable(world, pod, message).await.map(|()| None));
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

async fn say_unschedulable(world: &World, pod: &Pod, message: &str) -> kube::Result<()> {
    let held = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let said = held
        .iter()
        .flat_map(|all| all.iter())
        .any(|condition| condition.type_ == "PodScheduled" && condition.message.as_deref() == Some(message));
    if said {
        return Ok(());
    }
    world.events.unschedulable(pod, message);
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
        "lastTransitionTime": now(),
    });
    let status = json!({ "phase": "Pending", "conditions": [condition] });
    world.pods.patch_status(&world.client, &pod.metadata, &status).await
}

/// Why no node takes a Pod, as the scheduler says it: how many nodes have which reason.
fn message(reasons: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut nodes = 0;
    for reason in reasons {
        nodes += 1;
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} node(s) {reason}")).collect();
    if parts.is_empty() {
        parts.push("no nodes available to schedule pods".to_owned());
    }
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// Nobody has placed the Pod, and it asks for no other scheduler or gate.
fn waits(spec: &PodSpec) -> bool {
    let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == "default-scheduler");
    spec.node_name.is_none() && ours && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

fn is_usable(node: &Node) -> bool {
    state_of(node).is_none()
}

/// Why a node takes no Pods now, whatever they ask for.
fn state_of(node: &Node) -> Option<String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.iter().flat_map(|all| all.iter()).any(|c| c.type_ == "Ready" && c.status == "True");
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    match () {
        () if node.metadata.deletion_timestamp.is_some() => Some("were being deleted".to_owned()),
        () if cordoned => Some("were unschedulable".to_owned()),
        () if !ready => Some("weren't ready".to_owned()),
        () => None,
    }
}

/// How long to wait for a node that has just joined and will be ready in a moment: Pods that start with the cluster
/// are to be spread over all of it, not to crowd on the node that was first.
fn joining(node: &Node) -> Option<Duration> {
    // As long as a busy machine takes to load the programs of a few nodes.
    const PATIENCE: i64 = 30;
    let joined = node.metadata.creation_timestamp.as_ref()?.0.as_second();
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let left = PATIENCE - (Timestamp::now().as_second() - joined);
    let waits = left > 0 && !cordoned && node.metadata.deletion_timestamp.is_none();
    waits.then(|| Duration::from_secs(left.unsigned_abs()))
}

/// Whether the Pod's `nodeSelector` and required node affinity allow the node.
pub(super) fn allows(node: &Node, spec: &PodSpec) -> bool {
    missing(node, spec).is_none()
}

/// The term of the Pod's `nodeSelector` or required node affinity that the node does not meet, if there is one.
fn missing(node: &Node, spec: &PodSpec) -> Option<String> {
    const WHAT: &str = "didn't match Pod's node affinity/selector";
    let labels = node.metadata.labels.as_ref();
    let unmet = spec
        .node_selector
        .iter()
        .flatten()
        .find(|(key, value)| labels.and_then(|labels| labels.get(*key)) != Some(*value));
    if let Some((key, value)) = unmet {
        return Some(format!("{WHAT} (nodeSelector {key}={value})"));
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity?.required_during_scheduling_ignored_during_execution.as_ref()?;
    if required.node_selector_terms.iter().any(|term| matches(node, term)) {
        return None;
    }
    let terms: Vec<String> = required.node_selector_terms.iter().map(shown).collect();
    Some(format!("{WHAT} (nodeAffinity {})", terms.join(" or ")))
}

/// A term as people write selectors.
fn shown(term: &NodeSelectorTerm) -> String {
    let wanted = term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten());
    let parts: Vec<String> = wanted
        .map(|one| {
            let values = one.values.as_deref().unwrap_or_default();
            format!("{} {} {}", one.key, one.operator, values.join(",")).trim_end().to_owned()
        })
        .collect();
    if parts.is_empty() { "an empty term, which matches nothing".to_owned() } else { parts.join(" and ") }
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
    if term.match_expressions.iter().flatten().chain(term.match_fields.iter().flatten()).next().is_none() {
        return false;
    }
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

    /// D1: the term that no node meets is named, with how many nodes do not meet it.
    #[test]
    fn an_unmet_term_is_named() {
        let node: Node = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n", "labels": { "kubernetes.io/os": "linux" } },
        }))
        .unwrap();
        let spec = |spec: serde_json::Value| -> PodSpec { serde_json::from_value(spec).unwrap() };
        let why = |value| missing(&node, &spec(value));
        assert_eq!(why(json!({ "containers": [], "nodeSelector": { "kubernetes.io/os": "linux" } })), None);
        let selector = why(json!({ "containers": [], "nodeSelector": { "disk": "ssd" } })).unwrap();
        assert!(selector.ends_with("(nodeSelector disk=ssd)"), "{selector}");
        let term = json!({ "matchExpressions": [{ "key": "gpu", "operator": "Exists" }] });
        let affinity = json!({ "containers": [], "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } } } });
        let affinity = why(affinity).unwrap();
        assert!(affinity.ends_with("(nodeAffinity gpu Exists)"), "{affinity}");
        let all = message([selector.clone(), selector, "were unschedulable".to_owned()].into_iter());
        assert!(all.starts_with("0/3 nodes are available: 2 node(s) didn't match"), "{all}");
        assert!(all.ends_with("1 node(s) were unschedulable."), "{all}");
    }

    #[test]
    fn host_ports_collide_by_address_protocol_and_number() {
        let port = |address: &str, protocol: &str, number| (address.to_owned(), protocol.to_owned(), number);
        assert!(collide(&port("", "TCP", 80), &port("192.168.1.2", "TCP", 80)));
        assert!(!collide(&port("127.0.0.1", "TCP", 80), &port("192.168.1.2", "TCP", 80)));
        assert!(!collide(&port("", "TCP", 53), &port("", "UDP", 53)));
    }
}
