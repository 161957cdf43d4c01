//! From which addresses of the fabric LoadBalancer Services get theirs.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use serde_json::json;

/// Makes the network's configuration with one pool. A manifest may say otherwise afterwards.
pub(super) async fn make(client: &Client, ranges: &[IpNet]) -> Result<()> {
    let mut pools = "- name: fabric\n  cidrs:\n".to_owned();
    for range in ranges {
        let _ = writeln!(pools, "  - {range}");
    }
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "weft", "namespace": "kube-system" },
        "data": { "loadBalancerPools": pools },
    });
    let config: ConfigMap = serde_json::from_value(config)?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    match api.create(&PostParams::default(), &config).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(error).context("make the ConfigMap kube-system/weft"),
    }
}
