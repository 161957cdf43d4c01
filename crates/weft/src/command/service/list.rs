//! `weft service list`

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use weft_agent::admin::{EndpointStatus, ServiceStatus};
use weft_model::services::FrontendKind;

use super::{Answers, Held, Key, NodeArgs, address, key, port_name};
use crate::output::{print_json, print_table, printable};

/// List the ports of Services as the nodes' kernels have them
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    nodes: NodeArgs,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Every namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Form,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    #[default]
    Table,
    /// With the backends
    Wide,
    /// For machines
    Json,
}

impl List {
    pub fn run(self) -> Result<ExitCode> {
        let Answers { mut held, silent } = self.nodes.ask()?;
        for node in &mut held {
            node.services.retain(|service| self.all_namespaces || service.namespace == self.namespace);
        }
        if self.output == Form::Json {
            print_json(&held)?;
        } else {
            print(&held, held.len() + silent.len(), self.output == Form::Wide);
        }
        let fine = held.iter().flat_map(|node| &node.services).all(|service| service.refused.is_none());
        Ok(if fine && silent.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn print(held: &[Held], nodes: usize, wide: bool) {
    let mut ports: BTreeMap<Key, Vec<(&str, &ServiceStatus)>> = BTreeMap::new();
    for node in held {
        for service in &node.services {
            ports.entry(key(service)).or_default().push((&node.node, service));
        }
    }
    if ports.is_empty() {
        println!("no Services");
        return;
    }
    let rows: Vec<[String; 7]> = ports.values().map(|copies| row(copies, nodes, wide)).collect();
    print_table(["NAMESPACE", "NAME", "PORT", "REACHED BY", "BACKENDS", "CONNECTIONS", "NODES"], &rows);
    for (node, service) in ports.values().flatten() {
        if let Some(why) = &service.refused {
            let port = format!("{}/{} {}", service.namespace, service.name, port_name(service));
            println!("problem: {}", printable(&format!("{node}: {port}: {why}")));
        }
    }
}

fn row(copies: &[(&str, &ServiceStatus)], nodes: usize, wide: bool) -> [String; 7] {
    let services = || copies.iter().map(|(_, service)| *service);
    let mut reached: Vec<String> = Vec::new();
    let mut note = |text: String| {
        if !reached.contains(&text) {
            reached.push(text);
        }
    };
    for frontend in services().flat_map(|service| &service.frontends) {
        match frontend.kind {
            // Each node has its own address.
            FrontendKind::NodePort => note(format!("node:{}", frontend.port)),
            _ => note(address(frontend)),
        }
    }
    let backends: BTreeMap<_, EndpointStatus> = services()
        .flat_map(|service| &service.backends)
        .map(|backend| (backend.key, backend.state))
        .collect();
    let ready = backends.values().filter(|state| **state == EndpointStatus::Ready).count();
    let mut shown = if services().any(|service| service.host_port) {
        // No EndpointSlice tells of it: it is the Pod's as long as there is the Pod.
        "its Pod".to_owned()
    } else if services().any(|service| service.node_answers) {
        // Backends only stand in while a node's agent is away.
        match backends.len() {
            0 => "every node".to_owned(),
            others => format!("every node, {others} stand in"),
        }
    } else {
        format!("{ready}/{} ready", backends.len())
    };
    if wide {
        let names: BTreeSet<String> =
            backends.keys().map(|key| std::net::SocketAddr::new(key.address, key.port).to_string()).collect();
        shown = format!("{shown}: {}", names.into_iter().collect::<Vec<_>>().join(", "));
    }
    let connections: u64 = services().map(|service| service.connections).sum();
    let without: u64 = services().map(|service| service.without_backend).sum();
    let counted = if without == 0 {
        connections.to_string()
    } else {
        format!("{connections}, {without} without backend")
    };
    let first = services().next();
    [
        first.map(|service| service.namespace.clone()).unwrap_or_default(),
        first.map(|service| service.name.clone()).unwrap_or_default(),
        first.map(port_name).unwrap_or_default(),
        reached.join(", "),
        shown,
        counted,
        format!("{}/{nodes}", copies.len()),
    ]
}
