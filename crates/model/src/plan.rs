//! Nodes to what one node needs of the others.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::Serialize;

use crate::{Node, NodeName};

/// What the cluster's administrator has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Ranges that all nodes' Pod ranges are cut from; may be empty.
    pub pod_ranges: Vec<IpNet>,
    /// Ranges of Service addresses.
    pub service_ranges: Vec<IpNet>,
    /// What Pods reach with their own address although it is outside the cluster.
    pub non_masquerade: Vec<IpNet>,
}

/// What one node does so that its Pods reach all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodePlan {
    /// The node whose plan this is.
    pub node: NodeName,
    /// Its own Pod ranges, less those that are refused.
    pub pod_ranges: Vec<IpNet>,
    /// The other nodes, by name.
    pub peers: Vec<Peer>,
    /// Ranges and addresses that are left out because an older claim stands against them.
    pub refused: Vec<RangeConflict>,
    /// What leaves the cluster under the node's address.
    pub masquerade: Masquerade,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// Where it is reached, in the API's order.
    pub node_addresses: Vec<IpAddr>,
    /// Its Pods' ranges, less those that are refused.
    pub pod_ranges: Vec<IpNet>,
}

/// Which packets take the node's address when they leave: from `sources` to anything but `exempt`. Both sorted, none
/// twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Masquerade {
    /// This node's Pod ranges.
    pub sources: Vec<IpNet>,
    /// Pods, Services, nodes, and what the administrator has excepted.
    pub exempt: Vec<IpNet>,
}

/// A claim of a node that is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RangeConflict {
    /// The node whose claim is refused.
    pub node: NodeName,
    /// What it claims: a Pod range, or its own address as a host prefix.
    pub range: IpNet,
    /// What stands against it.
    pub with: Claim,
}

/// What stands against a refused claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Claim {
    /// A Pod range of an older node, or of the same.
    PodRange {
        /// Whose it is.
        node: NodeName,
        /// The range.
        range: IpNet,
    },
    /// The Service range.
    Services(IpNet),
    /// A node's address.
    NodeAddress {
        /// Whose it is.
        node: NodeName,
        /// The address.
        address: IpAddr,
    },
}

/// The plan of node `this`, given all `nodes` in any order and each any number of times.
///
/// Claims are looked at from the oldest node to the youngest (creation time, then name): who comes first keeps what it
/// has, so that a node which joins with a range of another never disturbs that one.
pub fn node_plan(this: &NodeName, nodes: &[Node], settings: &Settings) -> NodePlan {
    let mut nodes: Vec<&Node> = nodes.iter().collect();
    nodes.sort_by(|a, b| (a.created, &a.name, &a.uid).cmp(&(b.created, &b.name, &b.uid)));
    let mut claims = Claims::new(&settings.service_ranges);
    let mut accepted = BTreeMap::<NodeName, Peer>::new();
    for node in nodes {
        if !accepted.contains_key(&node.name) {
            accepted.insert(node.name.clone(), claims.admit(node));
        }
    }
    let own = accepted.get(this).map(|own| own.pod_ranges.clone()).unwrap_or_default();
    let masquerade = Masquerade::new(&own, accepted.values(), settings);
    accepted.remove(this);
    claims.refused.sort();
    claims.refused.dedup();
    NodePlan {
        node: this.clone(),
        pod_ranges: own,
        peers: accepted.into_values().collect(),
        refused: claims.refused,
        masquerade,
    }
}

/// Prefixes that are given away, by first address; none overlaps another. IPv4 sorts before IPv6.
struct Claims {
    held: BTreeMap<IpAddr, (IpAddr, Claim)>,
    refused: Vec<RangeConflict>,
}

// === impl Claims ===

impl Claims {
    fn new(services: &[IpNet]) -> Self {
        let mut claims = Self { held: BTreeMap::new(), refused: Vec::new() };
        // The widest first: one that lies in another adds nothing.
        let mut services: Vec<IpNet> = services.iter().map(IpNet::trunc).collect();
        services.sort_by_key(IpNet::prefix_len);
        for range in services {
            if claims.against(range).is_none() {
                claims.hold(range, Claim::Services(range));
            }
        }
        claims
    }

    /// Takes what `node` claims and nobody else holds.
    fn admit(&mut self, node: &Node) -> Peer {
        let mut peer = Peer { name: node.name.clone(), node_addresses: Vec::new(), pod_ranges: Vec::new() };
        for &address in &node.addresses {
            let claim = Claim::NodeAddress { node: node.name.clone(), address };
            match self.against(address.into()).cloned() {
                None => self.hold(address.into(), claim),
                // Nodes behind one address are for the path to find out, not for the ranges.
                Some(Claim::NodeAddress { .. }) => {}
                Some(with) => {
                    self.refused.push(RangeConflict { node: node.name.clone(), range: address.into(), with });
                    continue;
                }
            }
            if !peer.node_addresses.contains(&address) {
                peer.node_addresses.push(address);
            }
        }
        for (i, range) in node.pod_ranges.iter().map(IpNet::trunc).enumerate() {
            if node.pod_ranges[..i].iter().any(|earlier| earlier.trunc() == range) {
                continue;
            }
            if let Some(with) = self.against(range).cloned() {
                self.refused.push(RangeConflict { node: node.name.clone(), range, with });
                continue;
            }
            self.hold(range, Claim::PodRange { node: node.name.clone(), range });
            peer.pod_ranges.push(range);
        }
        peer
    }

    fn hold(&mut self, range: IpNet, claim: Claim) {
        self.held.insert(range.network(), (range.broadcast(), claim));
    }

    /// What `range` overlaps. Held prefixes are disjoint, so only the nearest on either side can.
    fn against(&self, range: IpNet) -> Option<&Claim> {
        let before =
            self.held.range(..=range.network()).next_back().filter(|(_, held)| held.0 >= range.network());
        let within = || self.held.range(range.network()..=range.broadcast()).next();
        before.or_else(within).map(|(_, (_, claim))| claim)
    }
}

// === impl Masquerade ===

impl Masquerade {
    fn new<'a>(own: &[IpNet], nodes: impl Iterator<Item = &'a Peer>, settings: &Settings) -> Self {
        let mut exempt: Vec<IpNet> =
            [&settings.pod_ranges, &settings.service_ranges, &settings.non_masquerade]
                .into_iter()
                .flatten()
                .copied()
                .collect();
        for node in nodes {
            exempt.extend(&node.pod_ranges);
            exempt.extend(node.node_addresses.iter().map(|&address| IpNet::from(address)));
        }
        Self { sources: IpNet::aggregate(&own.to_vec()), exempt: IpNet::aggregate(&exempt) }
    }
}

// === impl RangeConflict ===

impl RangeConflict {
    /// The node that keeps what both claim; `None` when it is no node's.
    pub fn other(&self) -> Option<&NodeName> {
        match &self.with {
            Claim::PodRange { node, .. } | Claim::NodeAddress { node, .. } => Some(node),
            Claim::Services(_) => None,
        }
    }
}

impl fmt::Display for RangeConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what =
            if self.range.prefix_len() == self.range.max_prefix_len() { "address" } else { "Pod range" };
        write!(f, "{what} {} of node {} overlaps {}: it is not used", self.range, self.node, self.with)
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodRange { node, range } => write!(f, "Pod range {range} of node {node}"),
            Self::Services(range) => write!(f, "the Service range {range}"),
            Self::NodeAddress { node, address } => write!(f, "address {address} of node {node}"),
        }
    }
}
