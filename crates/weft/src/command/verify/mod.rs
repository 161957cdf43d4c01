//! `weft verify`: the network model, proved pair by pair.
//!
//! The agents open listeners inside Pods' and nodes' namespaces and connect between them, so that what is proved does not
//! depend on what the Pods' own programs listen on. It needs an agent on both sides: all of a lab's, or those named.

mod ended;
mod matrix;
mod names;
mod pairs;
mod print;
mod ranges;
mod services;

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use weft_lab::LabDir;

use super::agents::{Agent, AgentArgs, Asked, Silent};
use crate::output::{Format, OutputArgs, print_json};
use names::NamesReport;
use pairs::{Endpoint, Failure};
use services::ServicesReport;

/// Set in every Pod of a cluster.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Pairs up to which every one is tried; beyond, a sample that covers every pair of nodes.
const MOST_PAIRS: usize = 4000;

/// Prove the network model: every pair reachable, no NAT, full MTU, every Service from everywhere and by its name, addresses
/// unique. For that it connects to every port of every Service, of a lab's with an HTTP request for "/"; what answers there counts it
/// as it does any client
#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    agents: AgentArgs,
    /// How to reach the API server, whose Services' names are looked up in every Pod; not needed for a lab's, nor in a Pod of the
    /// cluster that may list Services
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was proved.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Everything holds.
    holds: bool,
    /// Nodes that took part.
    nodes: Vec<String>,
    /// Nodes that they know, whose agents were not asked: nothing is proved of their Pods.
    not_asked: Vec<String>,
    /// Nodes whose agents were asked and did not answer: nothing is proved of their Pods.
    silent: Vec<Silent>,
    /// Pods that ended meanwhile, and are left out.
    ended: BTreeSet<String>,
    /// Pods and nodes that took part.
    endpoints: Vec<Endpoint>,
    /// Not every pair was tried, but every pair of nodes.
    sampled: bool,
    /// Pairs that were tried, for every address family.
    pairs: usize,
    /// Pairs of which something failed.
    failed: Vec<Failure>,
    /// What was proved of Services.
    services: ServicesReport,
    /// What was proved of names; none where the API server is not known.
    names: Option<NamesReport>,
    /// What is wrong with addresses and ranges.
    ranges: Vec<String>,
    /// Seconds that it took.
    seconds: f64,
}

impl Verify {
    pub fn run(self) -> Result<ExitCode> {
        let start = Instant::now();
        let Asked { agents, silent } = self.agents.ask()?;
        let (endpoints, sampled) = pairs::endpoints(&agents, MOST_PAIRS);
        if self.output.output == Format::Table {
            let plural = if agents.len() == 1 { "" } else { "s" };
            eprintln!("asking {} agent{plural} to prove {} pairs", agents.len(), pairs::count(&endpoints));
        }
        let (proofs, mut ended) = pairs::prove(&agents, &endpoints)?;
        let ranges = ranges::check(&agents);
        let outside = self.agents.outside()?;
        let is_left = |ended: &BTreeSet<String>| {
            endpoints.iter().filter(|one| !ended.contains(&one.name)).cloned().collect()
        };
        let left: Vec<Endpoint> = is_left(&ended);
        let (services, more) = services::prove(&agents, &left, outside.as_ref())?;
        ended.extend(more);
        let left: Vec<Endpoint> = is_left(&ended);
        let names = self.names(&agents, &left)?;
        let failed: Vec<Failure> = proofs.iter().flat_map(|proof| proof.failures(&endpoints)).collect();
        let report = Report {
            holds: failed.is_empty()
                && silent.is_empty()
                && ranges.is_empty()
                && services.holds()
                && names.as_ref().is_none_or(NamesReport::holds),
            nodes: agents.iter().map(|agent| agent.status.node.to_string()).collect(),
            not_asked: not_asked(&agents, &silent),
            silent,
            ended,
            sampled,
            pairs: proofs.len(),
            failed,
            services,
            names,
            ranges,
            seconds: start.elapsed().as_secs_f64(),
            endpoints,
        };
        match self.output.output {
            Format::Json => print_json(&report)?,
            Format::Table => print::print(&report, &proofs),
        }
        Ok(if report.holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn names(&self, agents: &[Agent], endpoints: &[Endpoint]) -> Result<Option<NamesReport>> {
        let lab = self.agents.lab()?;
        let kubeconfig = lab.as_ref().map(LabDir::kubeconfig).or_else(|| self.kubeconfig.clone());
        if kubeconfig.is_none() && std::env::var_os(IN_CLUSTER).is_none() {
            return Ok(None);
        }
        names::prove(agents, endpoints, kubeconfig.as_deref(), lab.as_ref()).map(Some)
    }
}

fn not_asked(agents: &[Agent], silent: &[Silent]) -> Vec<String> {
    let asked = agents.iter().map(|agent| agent.status.node.as_str());
    let asked: BTreeSet<&str> = asked.chain(silent.iter().map(|one| one.node.as_str())).collect();
    let known: BTreeSet<&str> =
        agents.iter().flat_map(|agent| &agent.status.peers).map(|peer| peer.name.as_str()).collect();
    known.difference(&asked).map(|name| (*name).to_owned()).collect()
}
