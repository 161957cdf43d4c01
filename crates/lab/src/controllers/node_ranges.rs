//! Gives each node its Pod ranges, the lowest free ones, a range a family.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde_json::json;

use super::Again;
use crate::{ranges::Ranges, world::World};

pub(super) async fn reconcile(world: &World, ranges: &Ranges) -> kube::Result<Again> {
    let nodes = world.nodes.list();
    let given = |node: &k8s_openapi::api::core::v1::Node| -> Vec<IpNet> {
        let spec = node.spec.as_ref();
        let several = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
        let single = spec.and_then(|spec| spec.pod_cidr.clone());
        several.iter().chain(&single).filter_map(|range| range.parse().ok()).collect()
    };
    let mut taken: BTreeSet<IpNet> = nodes.iter().flat_map(|node| given(node)).collect();
    for node in nodes.iter().filter(|node| given(node).is_empty()) {
        let free: Option<Vec<IpNet>> = ranges
            .pods
            .iter()
            .map(|cluster| subnets(*cluster).find(|range| !taken.iter().any(|other| overlap(other, range))))
            .collect();
        let Some(free) = free else {
            tracing::error!(node = node.metadata.name, ranges = ?ranges.pods, "no Pod range is left for this node");
            continue;
        };
        taken.extend(&free);
        let patch = json!({ "spec": { "podCIDR": free.first(), "podCIDRs": free } });
        world.nodes.patch(&world.client, &node.metadata, &patch).await?;
    }
    Ok(None)
}

/// A /24 of an IPv4 range, a /64 of an IPv6 one.
fn subnets(cluster: IpNet) -> impl Iterator<Item = IpNet> {
    let length = if matches!(cluster.addr(), IpAddr::V4(_)) { 24 } else { 64 };
    cluster.subnets(length.max(cluster.prefix_len())).into_iter().flatten()
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}
