//! `weft verify`: the network model, proved pair by pair.
//!
//! The agents open listeners inside Pods' and nodes' namespaces and connect between them, so that what is proved does not
//! depend on what the Pods' own programs listen on. It needs an agent on both sides: all of a lab's, or those named.

mod matrix;
mod names;
mod pairs;
mod ranges;
mod services;

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use weft_lab::LabDir;

use super::agents::{Agent, AgentArgs};
use crate::output::{Format, OutputArgs, print_json, print_table};
use names::NamesReport;
use pairs::{Endpoint, Failure, Proof};
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
        let agents = self.agents.ask()?;
        let (endpoints, sampled) = pairs::endpoints(&agents, MOST_PAIRS);
        if self.output.output == Format::Table {
            eprintln!(
                "asking {} agents to prove {} pairs",
                agents.len(),
                endpoints.len() * (endpoints.len() - 1)
            );
        }
        let proofs = pairs::prove(&agents, &endpoints)?;
        let ranges = ranges::check(&agents);
        let outside = self.agents.outside()?;
        let services = services::prove(&agents, &endpoints, outside.as_ref())?;
        let names = self.names(&agents, &endpoints)?;
        let failed: Vec<Failure> = proofs.iter().flat_map(|proof| proof.failures(&endpoints)).collect();
        let report = Report {
            holds: failed.is_empty()
                && ranges.is_empty()
                && services.holds()
                && names.as_ref().is_none_or(NamesReport::holds),
            nodes: agents.iter().map(|agent| agent.status.node.to_string()).collect(),
            not_asked: not_asked(&agents),
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
            Format::Table => print(&report, &proofs),
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

fn not_asked(agents: &[Agent]) -> Vec<String> {
    let asked: BTreeSet<&str> = agents.iter().map(|agent| agent.status.node.as_str()).collect();
    let known: BTreeSet<&str> =
        agents.iter().flat_map(|agent| &agent.status.peers).map(|peer| peer.name.as_str()).collect();
    known.difference(&asked).map(|name| (*name).to_owned()).collect()
}

fn print(report: &Report, proofs: &[Proof]) {
    matrix::print(&report.endpoints, proofs);
    println!();
    let verdict = |holds: bool| if holds { "yes" } else { "NO" };
    let what = if report.sampled { "a sample that covers every pair of nodes" } else { "every pair" };
    println!(
        "{:<58} {}",
        format!("reachable without NAT, TCP, UDP and full MTU ({what})"),
        verdict(report.failed.is_empty())
    );
    print_services(&report.services, verdict);
    print_names(report.names.as_ref(), verdict);
    println!("{:<58} {}", "addresses unique, ranges disjoint", verdict(report.ranges.is_empty()));
    for wrong in &report.ranges {
        println!("  {wrong}");
    }
    for failure in report.failed.iter().take(20) {
        println!(
            "  {} -> {} ({}): {}",
            failure.from,
            failure.to,
            failure.address,
            failure.problems.join("; ")
        );
    }
    if report.failed.len() > 20 {
        println!("  … and {} more pairs: -o json lists them all", report.failed.len() - 20);
    }
    if !report.not_asked.is_empty() {
        let some: Vec<&str> = report.not_asked.iter().take(5).map(String::as_str).collect();
        let more = if report.not_asked.len() > 5 { ", …" } else { "" };
        println!(
            "\nproved of {} alone: an agent answers on its own node only. Run this on each of the {} others too ({}{more}): kubectl \
             exec -n kube-system POD -- /weft verify, for every Pod of the DaemonSet",
            report.nodes.join(", "),
            report.not_asked.len(),
            some.join(", ")
        );
    }
    let outcome = if report.holds { "the network model holds" } else { "the network model does NOT hold" };
    println!(
        "\n{outcome}: {} pairs, {} visits to Services and {} look-ups in {:.1} s",
        report.pairs,
        report.services.visits,
        report.names.as_ref().map_or(0, |names| names.look_ups),
        report.seconds
    );
}

fn print_names(report: Option<&NamesReport>, verdict: impl Fn(bool) -> &'static str) {
    let Some(report) = report else {
        println!(
            "names of Services: not looked at, since no API server is named (--kubeconfig) and this is no Pod of a cluster"
        );
        return;
    };
    if report.pods > 0 {
        let what = if report.sampled { "a sample" } else { "all" };
        let claim =
            format!("Services found by name in {} Pods ({what} of {} names)", report.pods, report.names);
        println!("{claim:<58} {}", verdict(report.holds()));
    }
    for failure in report.failed.iter().take(20) {
        println!("  {}: {} {}: {}", failure.from, failure.name, failure.kind, failure.problem);
    }
    if report.failed.len() > 20 {
        println!("  … and {} more look-ups: -o json lists them all", report.failed.len() - 20);
    }
    for pod in report.left_out.iter().take(5) {
        println!("  not looked at: {pod}");
    }
    if report.left_out.len() > 5 {
        println!("  … and {} more Pods: -o json lists them all", report.left_out.len() - 5);
    }
}

/// Services up to which each gets a row; beyond, only those that fail.
const MOST_ROWS: usize = 30;

fn print_services(report: &ServicesReport, verdict: impl Fn(bool) -> &'static str) {
    if report.ports + report.host_ports == 0 {
        return;
    }
    let whole = |count: &services::Count| count.good == count.all;
    let cell = |count: &services::Count| {
        if count.all == 0 { "·".to_owned() } else { format!("{}/{}", count.good, count.all) }
    };
    let rows: Vec<[String; 4]> = report
        .matrix
        .iter()
        .filter(|row| {
            report.matrix.len() <= MOST_ROWS || ![&row.nodes, &row.pods, &row.outside].into_iter().all(whole)
        })
        .map(|row| [row.service.clone(), cell(&row.nodes), cell(&row.pods), cell(&row.outside)])
        .collect();
    if !rows.is_empty() {
        print_table(["SERVICE", "FROM NODES", "FROM PODS", "FROM OUTSIDE"], &rows);
        println!();
    }
    let what = if report.sampled { "a sample" } else { "all" };
    println!(
        "{:<58} {}",
        format!("Services reached, clients' addresses kept ({what} of {} ports)", report.ports),
        verdict(report.failed.iter().all(|failure| failure.host_port))
    );
    if report.host_ports > 0 {
        println!(
            "{:<58} {}",
            format!("host ports reached, clients' addresses kept ({what} of {})", report.host_ports),
            verdict(!report.failed.iter().any(|failure| failure.host_port))
        );
    }
    println!("{:<58} {}", "connections spread evenly over backends", verdict(report.uneven.is_empty()));
    for failure in report.failed.iter().take(20) {
        println!("  {} -> {} ({}): {}", failure.from, failure.service, failure.address, failure.problem);
    }
    if report.failed.len() > 20 {
        println!("  … and {} more visits: -o json lists them all", report.failed.len() - 20);
    }
    for uneven in &report.uneven {
        println!("  {uneven}");
    }
    for port in &report.without_backends {
        println!("  refuses, as it has no backends: {port}");
    }
    for port in &report.unproved {
        println!("  not proved: {port} answers no datagrams");
    }
    for why in &report.sctp {
        println!("  SCTP: {why}");
    }
}
