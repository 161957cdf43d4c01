//! The Service by whose address Pods reach the cluster's DNS.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::PostParams};
use serde_json::json;

/// Makes the Service, before any other can be given its address. Every node answers on it by itself; Pods that carry its
/// label, a cluster's own CoreDNS, are asked when a node's agent is away.
pub(super) async fn make(client: &Client, addresses: &[IpAddr]) -> Result<()> {
    let label = json!({ "k8s-app": "kube-dns" });
    let families: Vec<&str> =
        addresses.iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kube-dns", "namespace": "kube-system", "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
        }},
        "spec": {
            "clusterIP": addresses.first(), "clusterIPs": addresses, "ipFamilies": families,
            "ipFamilyPolicy": if addresses.len() == 1 { "SingleStack" } else { "RequireDualStack" },
            "selector": label,
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
            ],
        },
    });
    let service: Service = serde_json::from_value(service)?;
    let api: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    api.create(&PostParams::default(), &service).await.context("make the Service kube-system/kube-dns")?;
    Ok(())
}
