//! What the API says and what the probes found, brought into the data plane.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft_datapath::{
    Datapath, Path,
    probe::{self, Prober},
};
use weft_model::{NodeName, NodePlan, plan::node_plan};

use super::{Node, Open, Report, SETTLE};
use crate::store::Store;

/// State file: the nodes as the API last told them.
pub(super) const NODES: &str = "nodes.json";
/// State file: the names of the nodes that are reached natively.
const NATIVE: &str = "native-paths.json";

/// What blocks the node for longer than this is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// The paths as an earlier process left them.
pub(super) fn load_paths(store: &Store) -> BTreeMap<NodeName, Path> {
    let native: Vec<NodeName> = store.load(NATIVE).unwrap_or_default();
    native.into_iter().map(|name| (name, Path::Native)).collect()
}

impl Node {
    /// These are the cluster's nodes now.
    pub fn set_nodes(&mut self, nodes: Vec<weft_model::Node>) {
        let first = !std::mem::replace(&mut self.synced, true);
        if !first && nodes == self.nodes && self.blocked.is_none() {
            return;
        }
        let news = nodes != self.nodes;
        self.nodes = nodes;
        self.nodes_changed();
        if news && let Err(error) = self.store.save(NODES, &self.nodes) {
            tracing::warn!("a restart without the API server will not know the nodes: {error}");
        }
    }

    /// Everything follows the nodes as they are known: Services as well, which may be heard of before nodes are.
    pub(super) fn nodes_changed(&mut self) {
        self.place_services();
        self.converge();
        self.place_dns();
        self.place_silent();
    }

    /// This is what the probes found.
    pub fn set_health(&mut self, health: BTreeMap<NodeName, probe::Health>) {
        self.health = health;
        if self.wanted_paths() != self.paths {
            self.converge();
        }
        self.place_dns();
        self.place_silent();
    }

    /// What somebody else removed is put back; what did not work is tried again, and what follows from an uplink that
    /// has changed is done.
    pub fn repair(&mut self) {
        if let Some(open) = &mut self.datapath {
            match open.plane.repair() {
                Ok(done) => {
                    self.unrepaired = None;
                    for what in &done {
                        tracing::warn!("put back: {what}");
                    }
                    self.repairs += done.len() as u64;
                }
                Err(error) => {
                    let error = format!("what was removed cannot be put back: {error}");
                    if self.unrepaired.as_ref() != Some(&error) {
                        tracing::error!("{error}");
                    }
                    self.unrepaired = Some(error);
                }
            }
        }
        self.reap();
        if !self.nodes.is_empty() {
            self.converge();
        }
    }

    /// Brings the data plane in line with the nodes and paths as they are known.
    pub(super) fn converge(&mut self) {
        self.blocked = self.try_converge().err();
        let Some(why) = &self.blocked else {
            (self.blocked_since, self.complained) = (None, None);
            return;
        };
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        // A node that joins is without this or that for a moment, and readiness is logged as it changes.
        if since.elapsed() >= PATIENCE && self.complained.as_ref() != Some(why) {
            tracing::error!("no Pod can be attached: {why}");
            self.complained = Some(why.clone());
        }
    }

    fn try_converge(&mut self) -> Result<(), String> {
        let mut plan = node_plan(&self.config.name, &self.nodes, &self.config.plan);
        for conflict in plan.refused.iter().filter(|conflict| !self.refused.contains(conflict)) {
            tracing::error!("{conflict}");
        }
        self.refused.clone_from(&plan.refused);
        let usable = self.usable(&plan);
        match (&usable, &self.datapath) {
            (Ok(addresses), _) => self.open_for(&plan.pod_ranges.clone(), &addresses.clone())?,
            // Pods that run go on running, and follow the other nodes.
            (Err(_), Some(open)) => {
                plan.pod_ranges.clone_from(&open.pod_ranges);
                plan.masquerade.sources.clone_from(&open.pod_ranges);
            }
            (Err(_), None) => {}
        }
        self.apply(plan)?;
        usable.map(drop)
    }

    /// This node's addresses, when its ranges are fit to be handed out.
    fn usable(&self, plan: &NodePlan) -> Result<Vec<IpAddr>, String> {
        let name = &self.config.name;
        let this = self.nodes.iter().find(|node| node.name == *name).ok_or_else(|| {
            format!("the API has no Node {name}: is --node-name right, and has the node joined the cluster?")
        })?;
        let own = plan.refused.iter().filter(|conflict| conflict.node == *name);
        let conflicts: Vec<String> = own.map(ToString::to_string).collect();
        if !conflicts.is_empty() {
            return Err(conflicts.join("; "));
        }
        if this.pod_ranges.is_empty() {
            return Err(format!(
                "Node {name} has no Pod range (spec.podCIDRs): is the cluster set to allocate them \
                 (kube-controller-manager --allocate-node-cidrs --cluster-cidr)?"
            ));
        }
        if this.addresses.is_empty() {
            return Err(format!("Node {name} has no address of type InternalIP (status.addresses)"));
        }
        Ok(this.addresses.clone())
    }

    /// Opens the data plane for these ranges and addresses, unless it is.
    fn open_for(&mut self, pod_ranges: &[IpNet], node_addresses: &[IpAddr]) -> Result<(), String> {
        let fits = |open: &&mut Open| open.pod_ranges == pod_ranges && open.node_addresses == node_addresses;
        if let Some(open) = self.datapath.as_mut().filter(fits) {
            if open.prober.is_none() {
                open.prober = start_prober(pod_ranges, self.config.routing, &self.report).ok();
            }
            return Ok(());
        }
        // Prober and programs of the old ranges first: the new ones take the same names.
        self.datapath = None;
        let settings = self.settings(pod_ranges, node_addresses);
        let mut plane =
            Datapath::open(&settings).map_err(|error| format!("the data plane does not open: {error}"))?;
        self.adopt(&mut plane, pod_ranges)?;
        let prober = start_prober(pod_ranges, self.config.routing, &self.report)
            // Without proof everything takes the overlay, which works.
            .inspect_err(|error| {
                tracing::error!("paths between nodes cannot be probed: {error}; trying again")
            });
        let (pod_ranges, node_addresses) = (pod_ranges.to_vec(), node_addresses.to_vec());
        self.datapath = Some(Open { plane, pod_ranges, node_addresses, prober: prober.ok() });
        self.services.begin_anew();
        Ok(())
    }

    fn apply(&mut self, plan: NodePlan) -> Result<(), String> {
        self.plan = Some(plan);
        let paths = self.wanted_paths();
        let (Some(open), Some(plan)) = (&mut self.datapath, &self.plan) else { return Ok(()) };
        let applied =
            open.plane.apply(plan, &paths).map_err(|error| format!("the plan is not in force: {error}"))?;
        if !applied.is_nothing() {
            tracing::info!(peers = plan.peers.len(), ?applied, "plan in force");
        }
        if let Some(prober) = &open.prober {
            let away = self.nodes.iter().filter(|node| !node.ready).map(|node| node.name.clone());
            prober.set_peers(plan, away.collect(), open.plane.mtu());
        }
        self.settled_by.get_or_insert_with(|| Instant::now() + SETTLE);
        if paths != self.paths {
            let native: Vec<&NodeName> =
                paths.iter().filter(|(_, path)| **path == Path::Native).map(|(name, _)| name).collect();
            for (name, path) in paths.iter().filter(|(name, path)| self.paths.get(*name) != Some(*path)) {
                let why = self.health.get(name).map_or("not probed yet", |health| health.why);
                tracing::info!("Pods' packets to node {name} go by the {path:?} path: {why}");
            }
            if let Err(error) = self.store.save(NATIVE, &native) {
                tracing::warn!("a restart will have to find the paths anew: {error}");
            }
            self.paths = paths;
        }
        Ok(())
    }

    /// The path to each peer: as it is proved, else as it was before, else the one that needs no proof.
    fn wanted_paths(&self) -> BTreeMap<NodeName, Path> {
        let peers = self.plan.iter().flat_map(|plan| &plan.peers);
        peers
            .map(|peer| {
                let proved =
                    self.health.get(&peer.name).filter(|health| health.proved).map(|health| health.path);
                let path = match self.config.routing {
                    probe::Routing::Overlay => Path::Overlay,
                    probe::Routing::Native => Path::Native,
                    probe::Routing::Auto => {
                        proved.or(self.paths.get(&peer.name).copied()).unwrap_or(Path::Overlay)
                    }
                };
                (peer.name.clone(), path)
            })
            .collect()
    }

    /// The path to every peer is proved, or was given its time.
    pub(super) fn is_settled(&self) -> bool {
        let proved = |peer: &weft_model::Peer| {
            // A node without a Pod range has no address to probe.
            peer.pod_ranges.is_empty() || self.health.get(&peer.name).is_some_and(|health| health.proved)
        };
        self.config.routing != probe::Routing::Auto
            || self.settled_by.is_some_and(|deadline| deadline <= Instant::now())
            || self.plan.as_ref().is_some_and(|plan| plan.peers.iter().all(proved))
    }
}

fn start_prober(pod_ranges: &[IpNet], routing: probe::Routing, report: &Report) -> io::Result<Prober> {
    let report = Arc::clone(report);
    Prober::start(pod_ranges, routing, move |health| report(health))
}
