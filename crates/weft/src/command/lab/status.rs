//! `weft lab status`

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use weft_lab::{LabRecord, Overview, client_of};

use super::{LabArgs, list::age_of};
use crate::{
    command::block_on,
    output::{Format, OutputArgs, print_json, print_table, printable},
};

/// Show a lab's nodes and Pods
#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    lab: LabArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Status {
    pub fn run(self) -> Result<ExitCode> {
        let lab = self.lab.choose()?;
        let record = lab.record()?;
        let path = lab.kubeconfig();
        let kubeconfig = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let overview = block_on(async { Overview::of(&client_of(&kubeconfig).await?).await })?;
        match self.output.output {
            Format::Json => print_json(&serde_json::json!({ "lab": record, "cluster": overview }))?,
            Format::Table => print(&record, &overview),
        }
        let missing = overview.not_ready();
        if missing.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        let some: Vec<&str> = missing.iter().take(5).map(String::as_str).collect();
        let more = if missing.len() > 5 { format!(" and {} more", missing.len() - 5) } else { String::new() };
        let some = printable(&some.join(", "));
        eprintln!("weft: not ready: {some}{more}; kubectl describe tells why");
        Ok(ExitCode::FAILURE)
    }
}

fn print(record: &LabRecord, overview: &Overview) {
    println!("lab {}, up for {}, API server {}\n", record.name, age_of(record), record.api);
    let nodes: Vec<[String; 5]> = overview
        .nodes
        .iter()
        .map(|node| {
            let state = if node.ready { "Ready" } else { "NotReady" };
            let pods = overview.pods.iter().filter(|pod| pod.node == node.name).count();
            [node.name.clone(), state.into(), join(&node.addresses), join(&node.pod_ranges), pods.to_string()]
        })
        .collect();
    print_table(["NODE", "STATE", "ADDRESS", "POD RANGE", "PODS"], &nodes);
    if overview.pods.is_empty() {
        return;
    }
    println!();
    let pods: Vec<[String; 6]> = overview
        .pods
        .iter()
        .map(|pod| {
            [
                pod.namespace.clone(),
                pod.name.clone(),
                pod.state.clone(),
                pod.restarts.to_string(),
                join(&pod.addresses),
                pod.node.clone(),
            ]
        })
        .collect();
    print_table(["NAMESPACE", "POD", "STATE", "RESTARTS", "ADDRESS", "NODE"], &pods);
}

fn join(items: &[String]) -> String {
    if items.is_empty() { "-".into() } else { items.join(", ") }
}
