//! `weft service`: what the kernel of each node holds of Services.

mod list;
mod show;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use weft_agent::admin::{Client, ServiceStatus};
use weft_model::services::{Frontend, FrontendKind};

use super::{
    Usage,
    agents::{AgentArgs, Asked, Silent},
};
use crate::output::printable;

/// Show what the kernel holds of Services now
#[derive(Subcommand, Debug)]
pub enum Service {
    List(list::List),
    Show(show::Show),
}

impl Service {
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Service::List(command) => command.run(),
            Service::Show(command) => command.run(),
        }
    }
}

/// Whose kernel.
#[derive(Args, Debug)]
struct NodeArgs {
    #[command(flatten)]
    agents: AgentArgs,
    /// One node's kernel alone
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

/// What a node holds.
#[derive(Debug, serde::Serialize)]
struct Held {
    node: String,
    services: Vec<ServiceStatus>,
}

/// What the nodes hold whose agents answer, and who does not.
struct Answers {
    held: Vec<Held>,
    silent: Vec<Silent>,
}

impl NodeArgs {
    fn ask(&self) -> Result<Answers> {
        let Asked { agents, mut silent } = self.agents.ask()?;
        if let Some(node) = &self.node {
            silent.retain(|one| one.node == *node);
            if let Some(one) = silent.first() {
                bail!("{one}");
            }
        }
        let known: Vec<String> = agents.iter().map(|agent| agent.status.node.to_string()).collect();
        if let Some(node) = self.node.as_ref().filter(|node| !known.contains(node)) {
            bail!(Usage(format!("no agent of a node {node} was asked; there are: {}", known.join(", "))));
        }
        let asked =
            agents.iter().zip(known).filter(|(_, node)| self.node.as_ref().is_none_or(|one| one == node));
        let mut held = Vec::new();
        for (agent, node) in asked {
            match Client::connect(&agent.socket).and_then(|mut client| client.services()) {
                Ok(mut services) => {
                    services.sort_by_key(key);
                    held.push(Held { node, services });
                }
                Err(why) => silent.push(Silent { node, why: why.to_string() }),
            }
        }
        for one in &silent {
            eprintln!("weft: {}", printable(&one.to_string()));
        }
        Ok(Answers { held, silent })
    }
}

/// What makes a port of a Service the same on every node; of a port of a node, also where it is.
type Key = (String, String, String, String, bool, Option<Vec<String>>);

fn key(service: &ServiceStatus) -> Key {
    let ServiceStatus { namespace, name, port, protocol, ipv6, .. } = service;
    let at = service.host_port.then(|| service.frontends.iter().map(address).collect());
    (namespace.clone(), name.clone(), port.clone(), protocol.to_string(), *ipv6, at)
}

/// A frontend as it is written: node ports without their node, which has one row.
fn address(frontend: &Frontend) -> String {
    std::net::SocketAddr::new(frontend.address, frontend.port).to_string()
}

fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::ExternalIp => "ExternalIP",
        FrontendKind::HostPort => "HostPort",
    }
}

/// `http TCP`, `TCP` for the only, unnamed port.
fn port_name(service: &ServiceStatus) -> String {
    let protocol = service.protocol.to_string();
    if service.port.is_empty() { protocol } else { format!("{} {protocol}", service.port) }
}
