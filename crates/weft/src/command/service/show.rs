//! `weft service show`

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;
use weft_agent::admin::{BackendStatus, EndpointStatus, ServiceStatus};

use super::{Answers, Held, NodeArgs, address, kind, port_name};
use crate::{
    command::Usage,
    output::{Format, OutputArgs, print_json, print_table, printable},
};

/// Show what the nodes' kernels hold of one Service: frontends, backends, states and counters
#[derive(Args, Debug)]
pub struct Show {
    #[command(flatten)]
    nodes: NodeArgs,
    /// NAME, or NAMESPACE/NAME
    service: String,
    /// Namespace of a NAME
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    output: OutputArgs,
}

impl Show {
    pub fn run(self) -> Result<ExitCode> {
        let (namespace, name) = self.service.split_once('/').unwrap_or((&self.namespace, &self.service));
        let Answers { mut held, silent } = self.nodes.ask()?;
        let near = near(&held, name);
        for node in &mut held {
            node.services.retain(|service| service.namespace == namespace && service.name == name);
        }
        if held.iter().all(|node| node.services.is_empty()) {
            let near = if near.is_empty() {
                String::new()
            } else {
                format!(" (did you mean {}?)", near.join(" or "))
            };
            let holder =
                if silent.is_empty() { "no node holds" } else { "of the nodes that answered none holds" };
            bail!(Usage(format!(
                "{holder} anything of a Service {namespace}/{name}{near}. Headless and ExternalName Services are DNS \
                 alone: kubectl get services -A lists what there is"
            )));
        }
        match self.output.output {
            Format::Json => print_json(&held)?,
            Format::Table => held.iter().for_each(print),
        }
        Ok(if silent.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Services of this name in other namespaces, or else of names that are nearly this one.
fn near(held: &[Held], name: &str) -> Vec<String> {
    let all: BTreeSet<(&str, &str)> = held
        .iter()
        .flat_map(|node| &node.services)
        .map(|service| (service.namespace.as_str(), service.name.as_str()))
        .collect();
    let close = |least: f64| {
        let found = all.iter().filter(move |(_, other)| strsim::jaro_winkler(other, name) >= least);
        found.take(3).map(|(namespace, name)| format!("{namespace}/{name}")).collect::<Vec<_>>()
    };
    let same = close(1.0);
    if same.is_empty() { close(0.85) } else { same }
}

fn print(node: &Held) {
    println!("{}", node.node);
    for service in &node.services {
        let affinity = service
            .affinity_seconds
            .map_or(String::new(), |seconds| format!(", clients come back for {seconds} s"));
        println!("  {}{affinity}", printable(&port_name(service)));
        for frontend in &service.frontends {
            println!("    {:<12} {}", kind(frontend.kind), address(frontend));
        }
        if let Some(ranges) = &service.source_ranges {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let all = if ranges.is_empty() { "nobody".to_owned() } else { ranges.join(", ") };
            println!("    its LoadBalancer addresses let in {all}");
        }
        println!("    {} connections, {} without a backend", service.connections, service.without_backend);
        if let Some(why) = &service.refused {
            println!("    problem: {}", printable(why));
        }
        backends(service);
    }
    println!();
}

fn backends(service: &ServiceStatus) {
    if service.backends.is_empty() {
        println!("    no backends: connections are refused");
        return;
    }
    let rows: Vec<[String; 4]> = service
        .backends
        .iter()
        .map(|backend| {
            [
                format!("    {}", std::net::SocketAddr::new(backend.key.address, backend.key.port)),
                state(backend).to_owned(),
                chosen(backend),
                backend.connections.to_string(),
            ]
        })
        .collect();
    print_table(["    BACKEND", "STATE", "CHOSEN FOR", "CONNECTIONS BY ALL SERVICES"], &rows);
}

fn state(backend: &BackendStatus) -> &'static str {
    if backend.unreachable {
        return "its node gives no sign of life";
    }
    match backend.state {
        EndpointStatus::Ready => "ready",
        EndpointStatus::Terminating => "terminating",
        EndpointStatus::Serving => "serving, not ready",
        EndpointStatus::NotReady => "not ready",
        EndpointStatus::Unknown if backend.serving => "serving",
        EndpointStatus::Unknown => "going",
    }
}

fn chosen(backend: &BackendStatus) -> String {
    let choices =
        [(backend.internal, "cluster IP"), (backend.cluster, "inside"), (backend.external, "outside")];
    let chosen: Vec<&str> = choices.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    if chosen.is_empty() { "nothing new".to_owned() } else { chosen.join(", ") }
}
