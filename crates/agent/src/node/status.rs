//! What a node says of itself.

use weft_datapath::{Counter, Path, probe};
use weft_kube::{Condition, ObjectRef, WarningEvent};
use weft_model::{NodeName, Peer};

use super::Node;
use crate::admin::{CounterStatus, MtuStatus, PeerStatus, PodStatus, RangeStatus, Status};

/// So many nodes are named in a condition's message.
const NAMED: usize = 10;

/// Whether this node can attach Pods, and what the API is to be told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Why it cannot; `None` when it can.
    pub blocked: Option<String>,
    /// Conditions of the Node object.
    pub conditions: Vec<Condition>,
    /// Conflicts that this node is a party of, and Services that it does not serve as it should.
    pub events: Vec<WarningEvent>,
}

impl Node {
    /// Whether Pods can be attached.
    ///
    /// # Errors
    /// Why not.
    pub fn readiness(&self) -> Result<(), String> {
        if !self.synced {
            return Err("the API server has not been heard of since the agent started".to_owned());
        }
        if let Some(why) = self.blocked.as_ref().or(self.unrepaired.as_ref()) {
            return Err(why.clone());
        }
        if self.datapath.is_none() || self.plan.is_none() {
            return Err("the data plane is not open yet".to_owned());
        }
        if !self.is_settled() {
            return Err("the paths to the other nodes are being probed".to_owned());
        }
        Ok(())
    }

    /// Nothing failed that could be tried again.
    pub fn is_whole(&self) -> bool {
        self.blocked.is_none() && self.unrepaired.is_none()
    }

    /// Readiness, and what follows from it for the API.
    pub fn report(&self) -> Readiness {
        let blocked = self.readiness().err();
        // While the agent starts or the API is away the condition says what it said before.
        let conditions = if self.synced { self.conditions() } else { Vec::new() };
        Readiness { blocked, conditions, events: self.events() }
    }

    fn conditions(&self) -> Vec<Condition> {
        let network = match &self.blocked {
            None => Condition {
                kind: "NetworkUnavailable",
                status: false,
                reason: "WeftIsUp".to_owned(),
                message: "Weft attaches Pods on this node".to_owned(),
            },
            Some(why) => Condition {
                kind: "NetworkUnavailable",
                status: true,
                reason: if self.refused.iter().any(|c| c.node == self.config.name) {
                    "PodRangeConflict".to_owned()
                } else {
                    "WeftIsNotUp".to_owned()
                },
                message: why.clone(),
            },
        };
        let mut mismatched: Vec<String> = self
            .health
            .iter()
            .filter_map(|(name, health)| match health.mtu {
                probe::MtuProof::Mismatch(bytes) => Some(format!("{name} ({bytes} bytes)")),
                _ => None,
            })
            .collect();
        let more = mismatched.len().saturating_sub(NAMED);
        if more > 0 {
            mismatched.truncate(NAMED);
            mismatched.push(format!("{more} more"));
        }
        let mtu = if mismatched.is_empty() {
            Condition {
                kind: "WeftMTUMismatch",
                status: false,
                reason: "FullSizePacketsPass".to_owned(),
                message: "no path to another node is known to lose packets of full size".to_owned(),
            }
        } else {
            Condition {
                kind: "WeftMTUMismatch",
                status: true,
                reason: "FullSizePacketsAreLost".to_owned(),
                message: format!(
                    "packets of full size do not reach {}: the network between the nodes has a smaller MTU than the \
                     uplink; lower the uplink's MTU or raise the network's",
                    mismatched.join(", ")
                ),
            }
        };
        vec![network, mtu]
    }

    /// Conflicts are told on both Nodes' objects, by both nodes: one of the two may be away.
    fn events(&self) -> Vec<WarningEvent> {
        let about = |name: &NodeName| self.nodes.iter().find(|node| node.name == *name).map(ObjectRef::node);
        let mut events = Vec::new();
        for conflict in &self.refused {
            let parties = [Some(&conflict.node), conflict.other()];
            if !parties.contains(&Some(&self.config.name)) {
                continue;
            }
            for about in parties.into_iter().flatten().filter_map(about) {
                events.push(WarningEvent {
                    about,
                    reporter: self.config.name.clone(),
                    reason: "PodRangeConflict",
                    message: conflict.to_string(),
                    key: format!("{} {}", conflict.node, conflict.range),
                });
            }
        }
        events.dedup();
        events.extend(self.full_tables());
        events.extend(self.services.warnings(&self.config.name));
        events.extend(self.lost_host_ports());
        events.extend(self.failed_adds.warnings(&self.config.name));
        events
    }

    /// Tables that connections need and that have next to no room left, told of while new ones are turned away or about to be.
    fn full_tables(&self) -> Vec<WarningEvent> {
        let Some(own) = self.nodes.iter().find(|node| node.name == self.config.name) else {
            return Vec::new();
        };
        let tables = [("flows", self.swept.flows), ("affinities", self.swept.affinities)];
        let full = tables.into_iter().filter(|(_, table)| table.used * 20 > table.room * 19);
        full.map(|(name, table)| WarningEvent {
            about: ObjectRef::node(own),
            reporter: self.config.name.clone(),
            reason: "TableFull",
            // Without the figure, which would make another Event each time.
            message: format!("the table of {name} is full or nearly so: it has room for {}", table.room),
            key: format!("{} {name}", self.config.name),
        })
        .collect()
    }

    /// Everything, for `weft status` and the metrics.
    pub fn status(&self) -> Status {
        let open = self.datapath.as_ref();
        let counters = open.map(|open| open.plane.counters());
        let counters = counters.and_then(|read| {
            read.inspect_err(|error| tracing::error!("counters cannot be read: {error}")).ok()
        });
        let readiness = self.readiness();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.name.clone(),
            ready: readiness.is_ok(),
            why_not: readiness.err(),
            api: None,
            node_addresses: open.map(|open| open.node_addresses.clone()).unwrap_or_default(),
            uplink: open.map(|open| open.plane.uplink().name.clone()),
            mtu: open.map(|open| open.plane.mtu()).map(|mtu| MtuStatus {
                uplink: mtu.uplink,
                overlay: mtu.overlay,
                pod: mtu.pod,
            }),
            pod_ranges: self.ranges(),
            peers: self.plan.iter().flat_map(|plan| &plan.peers).map(|peer| self.peer(peer)).collect(),
            conflicts: self.refused.iter().map(ToString::to_string).collect(),
            pods: self.pods(),
            failed_adds: self.failed_adds.status(),
            counters: counters.into_iter().flatten().map(counter).collect(),
            repairs: self.repairs,
            services: self.services_status(),
            dns: None,
            problems: Vec::new(),
        }
    }

    fn ranges(&self) -> Vec<RangeStatus> {
        let Some(ipam) = &self.ipam else { return Vec::new() };
        ipam.ranges()
            .zip(ipam.free())
            .map(|(range, (net, free))| RangeStatus {
                range: net,
                // A figure for people: nobody counts beyond.
                capacity: u64::try_from(range.capacity()).unwrap_or(u64::MAX),
                free: u64::try_from(free).unwrap_or(u64::MAX),
            })
            .collect()
    }

    fn peer(&self, peer: &Peer) -> PeerStatus {
        let health = self.health.get(&peer.name);
        let path = self.paths.get(&peer.name).copied().unwrap_or(Path::Overlay);
        let (proved_mtu, mismatch) = match health.map(|health| health.mtu) {
            Some(probe::MtuProof::Proved(bytes)) => (Some(bytes), None),
            Some(probe::MtuProof::Mismatch(bytes)) => (None, Some(bytes)),
            Some(probe::MtuProof::Unknown) | None => (None, None),
        };
        PeerStatus {
            name: peer.name.clone(),
            addresses: peer.node_addresses.clone(),
            pod_ranges: peer.pod_ranges.clone(),
            path: match path {
                Path::Overlay => "overlay".to_owned(),
                Path::Native => "native".to_owned(),
            },
            why: health.map_or("not probed yet", |health| health.why).to_owned(),
            reachable: health.and_then(|health| health.reachable),
            silent: health.is_some_and(|health| health.silent != probe::Families::default()),
            proved_mtu,
            mtu_mismatch: mismatch,
        }
    }

    fn pods(&self) -> Vec<PodStatus> {
        let finished = self.attachments.values().filter(|record| record.made.is_some());
        finished
            .map(|record| PodStatus {
                pod: record.pod.clone(),
                container_id: record.container_id.clone(),
                interface: record.ifname.clone(),
                host_interface: record.host_interface.clone(),
                netns: record.netns.clone(),
                addresses: record.addresses.clone(),
                mtu: record.mtu,
            })
            .collect()
    }
}

fn counter((counter, packets): (Counter, u64)) -> CounterStatus {
    CounterStatus { name: counter.name().to_owned(), drop: counter.is_drop(), packets }
}
