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
    /// `Ready`, or its phase.
    pub state: String,
}

impl Overview {
    /// Asks the API server.
    pub async fn of(client: &Client) -> Result<Overview> {
        let everything = ListParams::default();
        let (nodes, pods): (Api<Node>, Api<Pod>) = (Api::all(client.clone()), Api::all(client.clone()));
        let nodes = nodes.list(&everything).await?.into_iter().map(node).collect();
        let pods = pods.list(&everything).await?.into_iter().map(pod).collect();
        Ok(Overview { nodes, pods })
    }

    /// Every node is Ready, every Pod is or has succeeded.
    pub fn is_ready(&self) -> bool {
        let fine = |pod: &PodOverview| matches!(pod.state.as_str(), "Ready" | "Succeeded");
        self.nodes.iter().all(|node| node.ready) && self.pods.iter().all(fine)
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

fn pod(pod: Pod) -> PodOverview {
    let (namespace, name) = key_of(&pod.metadata);
    let ready = is_ready(&pod);
    let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
    PodOverview {
        namespace,
        name,
        node: spec.node_name.unwrap_or_default(),
        addresses: status.pod_ips.into_iter().flatten().map(|ip| ip.ip).collect(),
        host_network: spec.host_network == Some(true),
        state: if ready { "Ready".into() } else { status.phase.unwrap_or_else(|| "Pending".into()) },
    }
}
