//! What a lab's cluster looks like, read once from its API.

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams};
use serde::Serialize;

use crate::{controllers::is_ready, world::key_of};

/// Nodes and Pods of a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// Every node, by name.
    pub nodes: Vec<NodeOverview>,
    /// Every Pod, by namespace and name.
    pub pods: Vec<PodOverview>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeOverview {
    /// Its name.
    pub name: String,
    /// It has the condition Ready.
    pub ready: bool,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its Pod ranges.
    pub pod_ranges: Vec<String>,
}

/// A Pod.
#[derive(Clone, Debug, Serialize)]
pub struct PodOverview {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node; empty before it has one.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// It uses its node's network.
    pub host_network: bool,
    /// `Ready`, or why not in the one word that kubectl shows: its phase, `CrashLoopBackOff`, `Init:0/1` and their like.
    pub state: String,
    /// How often its containers were started again.
    pub restarts: i32,
}

impl Overview {
    /// Asks the API server.
    pub async fn of(client: &Client) -> Result<Overview> {
        let everything = ListParams::default();
        let (nodes, pods): (Api<Node>, Api<Pod>) = (Api::all(client.clone()), Api::all(client.clone()));
        let nodes = nodes.list(&everything).await?.into_iter().map(node).collect();
        let pods = pods.list(&everything).await?.into_iter().map(pod).collect::<Result<_>>()?;
        Ok(Overview { nodes, pods })
    }

    /// Nodes that are not Ready, and Pods that neither are, nor have succeeded, nor are to end, with their states.
    pub fn not_ready(&self) -> Vec<String> {
        let nodes = self.nodes.iter().filter(|node| !node.ready).map(|node| format!("node {}", node.name));
        let fine = |pod: &&PodOverview| matches!(pod.state.as_str(), "Ready" | "Completed" | "Terminating");
        let pods = self.pods.iter().filter(|pod| !fine(pod));
        nodes.chain(pods.map(|pod| format!("Pod {}/{} ({})", pod.namespace, pod.name, pod.state))).collect()
    }
}

fn node(node: Node) -> NodeOverview {
    let status = node.status.unwrap_or_default();
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let internal = status.addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    let spec = node.spec.unwrap_or_default();
    NodeOverview {
        name: node.metadata.name.unwrap_or_default(),
        ready,
        addresses: internal.map(|address| address.address).collect(),
        pod_ranges: spec.pod_cidrs.unwrap_or_default(),
    }
}

fn pod(pod: Pod) -> Result<PodOverview> {
    let (namespace, name) = key_of(&pod.metadata);
    // A Pod that is going is no more ready than one that has ended.
    let ready = is_ready(&pod) && pod.metadata.deletion_timestamp.is_none();
    let state =
        if ready { "Ready".into() } else { weft_apiserver::pod_summary(&serde_json::to_value(&pod)?) };
    let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
    Ok(PodOverview {
        namespace,
        name,
        node: spec.node_name.unwrap_or_default(),
        addresses: status.pod_ips.into_iter().flatten().map(|ip| ip.ip).collect(),
        host_network: spec.host_network == Some(true),
        restarts: status.container_statuses.into_iter().flatten().map(|status| status.restart_count).sum(),
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_to_end_is_no_fault_of_the_lab() {
        let pod = |name: &str, state: &str| PodOverview {
            namespace: "default".into(),
            name: name.into(),
            node: "node-1".into(),
            addresses: Vec::new(),
            host_network: false,
            restarts: 0,
            state: state.into(),
        };
        let states = ["Ready", "Completed", "Terminating", "Pending", "Error"];
        let pods = states.iter().map(|state| pod(&state.to_lowercase(), state)).collect();
        let overview = Overview { nodes: Vec::new(), pods };
        assert_eq!(overview.not_ready(), ["Pod default/pending (Pending)", "Pod default/error (Error)"]);
    }
}
