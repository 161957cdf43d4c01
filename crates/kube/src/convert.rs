//! Kubernetes objects to model types.

use std::{fmt::Display, str::FromStr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use weft_model::{DnsPolicy, Node, NodeName, Phase, Pod, PodDns, PodKey};

/// The zone that a node is in.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Of a node that is to receive nothing from outside by itself: that the label is there counts, not what it says.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The taint of a node that the cluster autoscaler is about to remove (KEP-3836).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What of a Node the network uses. A field that does not parse is left out and logged.
pub fn node(node: &core::Node) -> Node {
    let name = node.name_any();
    let spec = node.spec.as_ref();
    let status = node.status.as_ref();
    let ranges: &[String] = match spec.map(|spec| (&spec.pod_cidrs, &spec.pod_cidr)) {
        Some((Some(ranges), _)) if !ranges.is_empty() => ranges,
        // Written by what knew one family only.
        Some((_, Some(range))) => std::slice::from_ref(range),
        _ => &[],
    };
    let ranges = ranges.iter().filter(|range| !range.is_empty());
    let addresses = status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP").map(|address| &address.address);
    let conditions = status.and_then(|status| status.conditions.as_ref());
    Node {
        uid: node.uid().unwrap_or_default(),
        created: node.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
        addresses: parsed(internal, "address of Node", &name),
        pod_ranges: parsed::<IpNet>(ranges, "Pod range of Node", &name).iter().map(IpNet::trunc).collect(),
        ready: conditions.is_some_and(|list| list.iter().any(|c| c.type_ == "Ready" && c.status == "True")),
        zone: node.labels().get(ZONE).filter(|zone| !zone.is_empty()).cloned(),
        leaving: node.metadata.deletion_timestamp.is_some()
            || spec
                .iter()
                .flat_map(|spec| spec.taints.iter().flatten())
                .any(|taint| taint.key == TO_BE_DELETED),
        excluded: node.labels().contains_key(EXCLUDED),
        name: NodeName::new(name),
    }
}

/// What of a Pod the network uses. A field that does not parse is left out and logged.
pub fn pod(pod: &core::Pod) -> Pod {
    let name = pod.name_any();
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let ips = status.iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|ip| &ip.ip);
    Pod {
        uid: pod.uid().unwrap_or_default(),
        node: spec
            .and_then(|spec| spec.node_name.as_deref())
            .filter(|node| !node.is_empty())
            .map(NodeName::from),
        ips: parsed(ips, "address of Pod", &name),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        phase: match status.and_then(|status| status.phase.as_deref()) {
            Some("Pending") => Phase::Pending,
            Some("Running") => Phase::Running,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            _ => Phase::Unknown,
        },
        dns: spec.map(pod_dns).unwrap_or_default(),
        key: PodKey::new(pod.namespace().unwrap_or_default(), name),
    }
}

fn pod_dns(spec: &core::PodSpec) -> PodDns {
    let config = spec.dns_config.as_ref();
    let options = config.iter().flat_map(|config| config.options.iter().flatten());
    PodDns {
        policy: match spec.dns_policy.as_deref() {
            Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirstWithHostNet,
            Some("Default") => DnsPolicy::Default,
            Some("None") => DnsPolicy::None,
            _ => DnsPolicy::ClusterFirst,
        },
        searches: config.and_then(|config| config.searches.clone()).unwrap_or_default(),
        // Of several the last counts, as in a resolv.conf.
        ndots: options
            .filter(|option| option.name.as_deref() == Some("ndots"))
            .filter_map(|option| option.value.as_deref()?.parse().ok())
            .next_back(),
    }
}

fn parsed<'a, T: FromStr<Err: Display>>(
    texts: impl Iterator<Item = &'a String>,
    what: &str,
    of: &str,
) -> Vec<T> {
    let mut values = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(value) => values.push(value),
            Err(error) => tracing::warn!(name = of, %error, "{what} left out: {text:?}"),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::json;

    use super::*;

    fn a_node(value: serde_json::Value) -> Node {
        node(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_dual_stack_node() {
        let node = a_node(json!({
            "metadata": { "name": "node-1", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:10Z" },
            "spec": { "podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"] },
            "status": {
                "addresses": [
                    { "type": "Hostname", "address": "node-1" },
                    { "type": "InternalIP", "address": "192.168.1.2" },
                    { "type": "ExternalIP", "address": "203.0.113.7" },
                    { "type": "InternalIP", "address": "fd00::2" },
                ],
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        }));
        assert_eq!(node.name.as_str(), "node-1");
        assert_eq!(node.created, 1_767_225_610);
        assert_eq!(
            node.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            ["192.168.1.2", "fd00::2"]
        );
        assert_eq!(node.pod_ranges.len(), 2);
        assert!(node.ready);
    }

    #[test]
    fn a_node_that_load_balancers_are_to_leave_out() {
        assert!(!a_node(json!({ "metadata": { "name": "n" } })).excluded);
        for value in ["", "true", "false"] {
            let labels = json!({ "node.kubernetes.io/exclude-from-external-load-balancers": value });
            assert!(a_node(json!({ "metadata": { "name": "n", "labels": labels } })).excluded, "{value:?}");
        }
    }

    #[test]
    fn a_node_in_a_zone_that_is_leaving() {
        let node =
            a_node(json!({ "metadata": { "name": "n", "labels": { "topology.kubernetes.io/zone": "z" } } }));
        assert_eq!((node.zone.as_deref(), node.leaving), (Some("z"), false));
        let node =
            a_node(json!({ "metadata": { "name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
        assert_eq!((node.zone.as_deref(), node.leaving), (None, true));
        let taint =
            json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1" }]);
        assert!(a_node(json!({ "metadata": { "name": "n" }, "spec": { "taints": taint } })).leaving);
    }

    #[test]
    fn one_range_in_the_old_field() {
        let node = a_node(json!({ "metadata": { "name": "n" }, "spec": { "podCIDR": "10.244.7.9/24" } }));
        assert_eq!(node.pod_ranges, ["10.244.7.0/24".parse().unwrap()]);
        assert!(!node.ready);
    }

    #[test]
    fn a_node_without_anything_is_no_error() {
        let node = a_node(json!({ "metadata": { "name": "n" } }));
        assert!(node.pod_ranges.is_empty() && node.addresses.is_empty());
        let node = a_node(
            json!({ "metadata": { "name": "n" }, "spec": { "podCIDR": "", "podCIDRs": ["x", "fd00::/64"] } }),
        );
        assert_eq!(node.pod_ranges, ["fd00::/64".parse().unwrap()], "what parses is kept");
    }

    #[test]
    fn a_pod() {
        let pod = pod(&serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "u" },
            "spec": { "nodeName": "node-1", "hostNetwork": true, "containers": [] },
            "status": { "phase": "Running", "podIPs": [{ "ip": "192.168.1.2" }, { "ip": "fd00::2" }] },
        }))
        .unwrap());
        assert_eq!(pod.key.to_string(), "shop/web");
        assert_eq!(pod.node, Some("node-1".into()));
        assert_eq!(pod.ips.len(), 2);
        assert!(pod.host_network);
        assert_eq!(pod.phase, Phase::Running);
    }

    #[test]
    fn a_pod_that_is_bound_to_no_node() {
        let pod =
            pod(&serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "shop" } }))
                .unwrap());
        assert_eq!((pod.node, pod.phase), (None, Phase::Unknown));
    }

    #[test]
    fn how_a_pod_looks_for_names() {
        let dns = |spec| pod(&serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap()).dns;
        assert_eq!(dns(json!({ "containers": [] })), PodDns::default());
        let own = dns(json!({
            "containers": [], "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": ["10.96.0.10"], "searches": ["a.example", "b.example"],
                "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }],
            },
        }));
        assert_eq!((own.policy, own.ndots), (DnsPolicy::None, Some(2)));
        assert_eq!(own.searches, ["a.example", "b.example"]);
    }
}
