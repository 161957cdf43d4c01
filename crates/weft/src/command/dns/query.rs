//! `weft dns query`

use std::{net::IpAddr, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use weft_agent::admin::{Client, Explained, Explanation, PodStatus, Request, Response, record_type};
use weft_lab::is_of_workload;
use weft_model::{
    PodKey,
    dns::{Name, NameError},
};

use crate::{
    command::{
        Usage,
        agents::{Agent, AgentArgs},
    },
    output::{Format, OutputArgs, print_json, printable},
};

/// Show what a name leads to, and why: which Service, which step of a search, memory, or a server outside
#[derive(Args, Debug)]
pub struct Query {
    #[command(flatten)]
    agents: AgentArgs,
    /// The name; without a final dot it is looked for as the Pod of --from does, by its search list. Of an address, its names
    #[arg(id = "NAME", value_parser = question)]
    question: String,
    /// The type of record, by its name or as TYPE and its number [default: A, or PTR of an address]
    #[arg(value_name = "TYPE", value_parser = kind)]
    kind: Option<String>,
    /// POD, NAMESPACE/POD, pod/NAME, or deploy/NAME (or another workload's): as this Pod is answered, by its own node
    #[arg(long, value_name = "POD")]
    from: Option<String>,
    /// Namespace of a POD or workload
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// As this node answers [default: the first one, or the Pod's]
    #[arg(long, value_name = "NODE", conflicts_with = "from")]
    node: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// An answer, and who gives it to whom.
#[derive(Debug, Serialize)]
struct Report {
    node: String,
    /// `namespace/name` of the Pod that asks.
    from: Option<String>,
    address: Option<IpAddr>,
    #[serde(flatten)]
    explanation: Explanation,
}

impl Query {
    pub fn run(self) -> Result<ExitCode> {
        let asked = self.agents.ask()?;
        asked.warn();
        let (agent, pod) = self.choose(&asked.agents)?;
        let from = pod.and_then(|pod| pod.pod.clone());
        let request = Request::Dns { name: self.question.clone(), kind: self.kind(), from: from.clone() };
        let explanation = match Client::connect(&agent.socket)?.ask(&request)? {
            Response::Dns { explanation } => explanation,
            other => bail!("ask for {}: the agent answered {other:?}", self.question),
        };
        let found = explanation.questions.iter().any(|question| !question.answers.is_empty());
        let from = from.as_ref().map(ToString::to_string);
        let address = pod.and_then(|pod| pod.addresses.first().copied());
        let report = Report { node: agent.status.node.to_string(), from, address, explanation };
        match self.output.output {
            Format::Json => print_json(&report)?,
            Format::Table => self.print(&report),
        }
        Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn kind(&self) -> String {
        let usual = if self.question.parse::<IpAddr>().is_ok() { "PTR" } else { "A" };
        self.kind.clone().unwrap_or_else(|| usual.to_owned())
    }

    /// Who is asked, and for which Pod.
    fn choose<'a>(&self, agents: &'a [Agent]) -> Result<(&'a Agent, Option<&'a PodStatus>)> {
        if let Some(from) = &self.from {
            let whole = if from.contains('/') { from.clone() } else { format!("{}/{from}", self.namespace) };
            let named = |pod: &&PodStatus| pod.pod.as_ref().is_some_and(|key| key.to_string() == whole);
            let first = |is_it: &dyn Fn(&&PodStatus) -> bool| {
                agents.iter().find_map(|agent| Some((agent, Some(agent.status.pods.iter().find(is_it)?))))
            };
            let of_workload = |(kind, workload): (&str, &str)| {
                let is_it = |key: &PodKey| {
                    key.namespace == self.namespace && is_of_workload(&key.name, kind, workload)
                };
                first(&|pod| pod.pod.as_ref().is_some_and(is_it))
            };
            return first(&named).or_else(|| from.split_once('/').and_then(of_workload)).ok_or_else(|| {
                let own = agents.iter().flat_map(|agent| &agent.status.pods).filter_map(|pod| pod.pod.as_ref());
                let namespace = whole.split_once('/').map_or("", |(namespace, _)| namespace);
                let near: Vec<String> = own
                    .filter(|key| key.namespace == namespace || key.namespace == self.namespace)
                    .map(ToString::to_string)
                    .take(5)
                    .collect();
                let near = if near.is_empty() { String::new() } else { format!("; there is {}", near.join(", ")) };
                Usage(format!(
                    "no Pod {whole} is attached to the network on the nodes that were asked{near}; Pods on a host's network are \
                     asked for with --node"
                ))
                .into()
            });
        }
        let is_it =
            |agent: &&Agent| self.node.as_ref().is_none_or(|node| agent.status.node.to_string() == *node);
        agents.iter().find(is_it).map(|agent| (agent, None)).ok_or_else(|| {
            let names: Vec<String> = agents.iter().map(|agent| agent.status.node.to_string()).collect();
            Usage(format!("no agent of such a node was asked; there are: {}", names.join(", "))).into()
        })
    }

    fn print(&self, report: &Report) {
        let whom = match (&report.from, report.address) {
            (Some(pod), Some(address)) => format!("Pod {pod} ({address})"),
            _ => "a client that is no Pod of it".to_owned(),
        };
        let question = printable(&self.question);
        println!("{question} {}, as {} answers {}", self.kind(), report.node, printable(&whom));
        for question in &report.explanation.questions {
            println!();
            print_question(question);
        }
    }
}

/// A name or an address.
fn question(text: &str) -> Result<String, NameError> {
    if text.parse::<IpAddr>().is_err() {
        text.parse::<Name>()?;
    }
    Ok(text.to_owned())
}

/// A type of records, in capitals.
fn kind(text: &str) -> Result<String, String> {
    let kind = record_type(text);
    kind.map(|_| text.to_ascii_uppercase()).ok_or_else(|| {
        "no such type of records: write A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT or another by its name, or TYPE and its number"
            .to_owned()
    })
}

fn print_question(question: &Explained) {
    println!("{} {}: {}", printable(&question.name), question.kind, question.code);
    if question.answers.is_empty() && question.code == "NOERROR" {
        println!("    no records of this type");
    }
    for record in question.answers.iter().chain(&question.additionals) {
        println!("    {}", printable(record));
    }
    for reason in &question.why {
        println!("  {}", printable(&format!("{}: {}", reason.name, reason.source)));
    }
}
