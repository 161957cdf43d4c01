//! A Pod's network namespace, cgroup and names.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::{Value, json};
use weft_netns::{Netns, random_name};

use super::{
    Kubelets,
    cni::{Attachment, Network},
    names::{PodNames, Surrounding},
    node::Node,
};
use crate::{
    place::{Cgroup, Names, PodRecord, start_namespace},
    world::key_of,
};

/// Where the containers of a Pod run.
pub(super) struct Sandbox {
    pub(super) netns: Arc<Netns>,
    pub(super) cgroup: Cgroup,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) hostname: String,
    pub(super) names: Names,
    /// None on the host network.
    attachment: Option<Attachment>,
}

impl Sandbox {
    /// Makes it, or leaves nothing behind.
    pub(super) async fn create(kubelets: &Kubelets, node: &Node, pod: &Pod) -> Result<Sandbox> {
        let spec = pod.spec.clone().unwrap_or_default();
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let cgroup = node.cgroup.below(&format!("pod-{uid}"))?;
        let (netns, addresses, attachment) = if spec.host_network == Some(true) {
            (node.netns.clone(), node.addresses.clone(), None)
        } else {
            attach(kubelets, node, pod, &spec).await?
        };
        let names = kubelets.lab.names(&kubelets.lab.pod(uid));
        let mut sandbox = Sandbox { netns, cgroup, addresses, hostname: String::new(), names, attachment };
        match sandbox.publish(kubelets, node, pod) {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                sandbox.remove(kubelets, node, pod).await.context("after a failed start")?;
                Err(error)
            }
        }
    }

    /// Writes the Pod's names, and where it is.
    fn publish(&mut self, kubelets: &Kubelets, node: &Node, pod: &Pod) -> Result<()> {
        let (resolv_conf, hosts) = (node.names.resolv_conf()?, node.names.hosts()?);
        let around = Surrounding {
            servers: &kubelets.cluster_dns,
            hostname: &node.name,
            resolv_conf: &resolv_conf,
            hosts: &hosts,
        };
        let names = PodNames::of(pod, &self.addresses, &around)?;
        for omitted in &names.omitted {
            kubelets.events.warning(pod, "DNSConfigForming", omitted);
        }
        self.names.write(&names.hostname, &names.resolv_conf, &names.hosts)?;
        self.hostname = names.hostname;
        let record = PodRecord {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: node.name.clone(),
            netns: self.netns.name().to_owned(),
            cgroup: self.cgroup.path().to_owned(),
            addresses: self.addresses.clone(),
        };
        let (namespace, name) = key_of(&pod.metadata);
        kubelets.lab.write_pod_record(&namespace, &name, &record)
    }

    /// Takes everything away. Called again after a failure, it goes on where it was.
    pub(super) async fn remove(&self, kubelets: &Kubelets, node: &Node, pod: &Pod) -> Result<()> {
        let (namespace, name) = key_of(&pod.metadata);
        kubelets.lab.forget_pod_record(&namespace, &name, pod.metadata.uid.as_deref().unwrap_or_default());
        if let Some(attachment) = &self.attachment {
            attachment.delete(&kubelets.spawner, node).await?;
            Netns::delete(self.netns.name())?;
        }
        let cgroup = self.cgroup.clone();
        tokio::task::spawn_blocking(move || cgroup.remove()).await?
    }
}

/// Makes the Pod's network, or leaves nothing behind.
async fn attach(
    kubelets: &Kubelets,
    node: &Node,
    pod: &Pod,
    spec: &PodSpec,
) -> Result<(Arc<Netns>, Vec<IpAddr>, Option<Attachment>)> {
    let Some(network) = Network::load(&node.cni_conf())? else {
        bail!(
            "no CNI configuration in {} yet: the node's agent writes it when it can serve",
            node.cni_conf().display()
        );
    };
    let name = kubelets.lab.netns(&random_name("pod-"));
    let netns = tokio::task::spawn_blocking(move || -> Result<Netns> {
        let netns = Netns::create(&name)?;
        match start_namespace(&netns) {
            Ok(()) => Ok(netns),
            Err(error) => {
                Netns::delete(&name)?;
                Err(error)
            }
        }
    });
    let netns = netns.await??;
    let mut attachment = Attachment::new(network, netns.path(), arguments(pod), capabilities(pod, spec));
    match attachment.add(&kubelets.spawner, node).await {
        Ok(addresses) => Ok((Arc::new(netns), addresses, Some(attachment))),
        Err(error) => {
            Netns::delete(netns.name()).context("after a failed ADD")?;
            Err(error)
        }
    }
}

fn arguments(pod: &Pod) -> String {
    let (namespace, name) = key_of(&pod.metadata);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}")
}

fn capabilities(pod: &Pod, spec: &PodSpec) -> Value {
    let mappings: Vec<Value> = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            Some(json!({
                "hostPort": host_port, "containerPort": port.container_port,
                "protocol": port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
                "hostIP": port.host_ip.clone().unwrap_or_default(),
            }))
        })
        .collect();
    let mut capabilities = json!({});
    if !mappings.is_empty() {
        capabilities["portMappings"] = json!(mappings);
    }
    let rate = |direction: &str| {
        let annotations = pod.metadata.annotations.as_ref()?;
        bits(annotations.get(&format!("kubernetes.io/{direction}-bandwidth"))?)
    };
    for (direction, rate) in [("ingress", rate("ingress")), ("egress", rate("egress"))] {
        if let Some(rate) = rate {
            capabilities["bandwidth"][format!("{direction}Rate")] = json!(rate);
            // What the reference plugin's callers give: as much as a second's worth, at most 2^31-1 bits.
            capabilities["bandwidth"][format!("{direction}Burst")] =
                json!(rate.min(i32::MAX.unsigned_abs().into()));
        }
    }
    capabilities
}

/// A rate in bits per second: `10M`, `1Gi`, `500k`.
fn bits(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        assert_eq!(bits("10M"), Some(10_000_000));
        assert_eq!(bits("1Gi"), Some(1 << 30));
        assert_eq!(bits("fast"), None);
    }
}
