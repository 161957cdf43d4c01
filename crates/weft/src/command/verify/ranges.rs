//! Addresses are unique, ranges are disjoint.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::command::agents::Agent;

/// What is wrong, a line each.
pub fn check(agents: &[Agent]) -> Vec<String> {
    let mut wrong: Vec<String> =
        agents.iter().flat_map(|agent| agent.status.conflicts.iter().cloned()).collect();
    let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
    for agent in agents {
        let node = &agent.status.node;
        let hosts = agent.status.node_addresses.iter().map(|address| (*address, format!("node {node}")));
        let pods = agent.status.pods.iter().flat_map(|pod| {
            let name = pod.pod.as_ref().map_or_else(|| pod.container_id.clone(), ToString::to_string);
            pod.addresses.iter().map(move |address| (*address, format!("Pod {name} on {node}")))
        });
        for (address, owner) in hosts.chain(pods) {
            if let Some(other) = owners.get(&address) {
                wrong.push(format!("{address} belongs to {other} and to {owner}"));
            }
            owners.insert(address, owner);
        }
        for pod in &agent.status.pods {
            for address in &pod.addresses {
                if !agent.status.pod_ranges.iter().any(|range| range.range.contains(address)) {
                    wrong.push(format!("{address} of a Pod on {node} is not in the node's Pod ranges"));
                }
            }
        }
    }
    let ranges: Vec<(IpNet, &weft_model::NodeName)> = agents
        .iter()
        .flat_map(|agent| agent.status.pod_ranges.iter().map(|range| (range.range, &agent.status.node)))
        .collect();
    for (index, (range, node)) in ranges.iter().enumerate() {
        for (other, other_node) in ranges.iter().skip(index + 1) {
            if range.contains(other) || other.contains(range) {
                wrong.push(format!("Pod range {range} of {node} overlaps {other} of {other_node}"));
            }
        }
        for agent in agents {
            for address in agent.status.node_addresses.iter().filter(|address| range.contains(*address)) {
                wrong.push(format!(
                    "address {address} of {} lies in Pod range {range} of {node}",
                    agent.status.node
                ));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong
}
