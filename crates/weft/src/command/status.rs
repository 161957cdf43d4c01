//! `weft status`: is the network fine, and what does it look like.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Args;
use weft_agent::admin::{ApiStatus, CounterStatus, DnsStatus, PeerStatus, Status};

use super::agents::{Agent, AgentArgs, Asked};
use crate::output::{Format, OutputArgs, print_json, printable};

/// Show the nodes, their Pods and the paths between them, and whether all is fine
#[derive(Args, Debug)]
pub struct StatusCommand {
    #[command(flatten)]
    agents: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl StatusCommand {
    pub fn run(self) -> Result<ExitCode> {
        let Asked { agents, silent } = self.agents.ask()?;
        let statuses: Vec<&Status> = agents.iter().map(|agent| &agent.status).collect();
        let mut problems: Vec<String> = statuses.iter().flat_map(|status| problems(status)).collect();
        problems.extend(silent.iter().map(ToString::to_string));
        match self.output.output {
            Format::Json => print_json(&serde_json::json!({ "nodes": statuses, "problems": problems }))?,
            Format::Table => {
                print!("{}", printable(&picture(&agents)));
                println!();
                match problems.as_slice() {
                    [] => println!("all is fine"),
                    problems => {
                        problems.iter().for_each(|problem| println!("problem: {}", printable(problem)))
                    }
                }
            }
        }
        Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What is not fine on a node.
fn problems(status: &Status) -> Vec<String> {
    let node = &status.node;
    let mut problems: Vec<String> =
        status.conflicts.iter().map(|conflict| format!("{node}: {conflict}")).collect();
    if let Some(why) = status.why_not.as_ref().filter(|_| !status.ready) {
        problems.push(format!("{node} cannot attach Pods: {why}"));
    }
    if let Some(api) = &status.api {
        problems.extend(api_problems(node.as_str(), api));
    }
    problems.extend(status.problems.iter().map(|problem| format!("{node}: {problem}")));
    for failed in &status.failed_adds {
        let times = if failed.times == 1 { String::new() } else { format!(", {} times", failed.times) };
        problems.push(format!("{node} did not attach Pod {}{times}: {}", failed.pod, failed.why));
    }
    let services = &status.services;
    if let Some(error) = &services.error {
        problems.push(format!("{node} does not serve Services as the API has them: {error}"));
    }
    for refused in services.refused.iter().chain(&services.conflicts) {
        problems.push(format!("{node}: {refused}"));
    }
    problems.extend(status.dns.iter().flat_map(|dns| dns_problems(node.as_str(), dns)));
    for peer in &status.peers {
        if peer.silent {
            problems.push(format!(
                "{node} gets no sign of life from {}: connections to Services go to backends elsewhere while there are any",
                peer.name
            ));
        } else if peer.reachable == Some(false) {
            problems.push(format!("{node} does not reach {} over the {} path", peer.name, peer.path));
        }
        if let Some(bytes) = peer.mtu_mismatch {
            problems.push(format!("packets of {bytes} bytes do not pass from {node} to {}", peer.name));
        }
    }
    problems
}

/// Watches that do not follow, those of one reason together, and objects that cannot be read.
fn api_problems(node: &str, api: &ApiStatus) -> Vec<String> {
    let mut failing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for watch in &api.watches {
        if let Some(error) = &watch.error {
            failing.entry(error).or_default().push(&watch.name);
        }
    }
    let mut problems: Vec<String> = failing
        .into_iter()
        .map(|(error, watches)| {
            format!("{node} does not follow {} of the API server {}: {error}", watches.join(", "), api.server)
        })
        .collect();
    for watch in &api.watches {
        for (name, why) in &watch.unreadable {
            problems.push(format!("{node} cannot read {name} ({}), and leaves it out: {why}", watch.name));
        }
    }
    problems
}

fn dns_problems(node: &str, dns: &DnsStatus) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(error) = &dns.error {
        problems.push(format!("{node} does not answer DNS: {error}"));
    }
    if let Some(age) = dns.snapshot_age {
        problems.push(format!(
            "{node} answers DNS from what it knew {age} s ago, and what it did not know then with SERVFAIL: it has not heard of the \
             API server since it started"
        ));
    }
    if let Some(error) = &dns.settings_error {
        problems.push(format!("{node} answers DNS as it was set before: {error}"));
    }
    if let Some(error) = &dns.no_upstreams {
        problems.push(format!("{node} asks nobody for names outside of the cluster: {error}"));
    }
    for server in &dns.upstreams {
        if let Some(why) = &server.down {
            problems.push(format!("{node} does not ask {} for {}: {why}", server.server, server.domain));
        }
    }
    problems
}

/// `10.96.0.10, for 12 Services; others by 192.0.2.53:53`.
fn dns_line(dns: &DnsStatus) -> String {
    let mut addresses: Vec<String> = dns.addresses.iter().map(|one| one.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    let listening = if addresses.is_empty() { "NOT answered yet".to_owned() } else { addresses.join(", ") };
    let mut others: Vec<&str> = dns.upstreams.iter().map(|one| one.server.as_str()).collect();
    others.sort_unstable();
    others.dedup();
    let others = if others.is_empty() { "nobody".to_owned() } else { others.join(", ") };
    format!("DNS {listening}; outside by {others}")
}

/// How many packets were dropped since the node's programs were first loaded, and why.
fn drops(counters: &[CounterStatus]) -> Vec<String> {
    let dropped: Vec<(String, &str)> = (counters.iter())
        .filter(|counter| counter.drop && counter.packets > 0)
        .map(|counter| (counter.packets.to_string(), counter.name.as_str()))
        .collect();
    let width = dropped.iter().map(|(packets, _)| packets.len()).max().unwrap_or(0);
    dropped.iter().map(|(packets, why)| format!("dropped {packets:>width$}  {why}")).collect()
}

/// Nodes as boxes, Pods inside, the paths to the others below.
fn picture(agents: &[Agent]) -> String {
    let mut text = String::new();
    for agent in agents {
        let (title, lines) = node(&agent.status);
        let width = lines.iter().chain([&title]).map(|line| line.chars().count()).max().unwrap_or(0);
        let _ = writeln!(text, "┌─ {title} {}┐", "─".repeat(width - title.chars().count() + 1));
        for line in &lines {
            let _ = writeln!(text, "│  {line:<width$}  │");
        }
        let _ = writeln!(text, "└{}┘", "─".repeat(width + 4));
        for peer in &agent.status.peers {
            let _ = writeln!(text, "   └─ {}", path(peer));
        }
    }
    text
}

fn node(status: &Status) -> (String, Vec<String>) {
    let list = |items: Vec<String>| items.join(", ");
    let addresses = list(status.node_addresses.iter().map(ToString::to_string).collect());
    let ranges = list(status.pod_ranges.iter().map(|range| range.range.to_string()).collect());
    let mtu = status.mtu.map(|mtu| format!(", MTU {}", mtu.pod)).unwrap_or_default();
    let services = &status.services;
    let served = format!(
        "{} Services, {} endpoints{}",
        services.services,
        services.endpoints,
        if services.synced { "" } else { ", NOT all in the kernel yet" }
    );
    let mut lines = vec![format!("Pods {ranges}{mtu}"), served];
    lines.extend(status.dns.as_ref().map(dns_line));
    lines.extend(drops(&status.counters));
    lines.push(String::new());
    let name = |pod: &weft_agent::admin::PodStatus| {
        pod.pod.as_ref().map_or_else(|| pod.container_id.clone(), ToString::to_string)
    };
    let mut pods: Vec<(String, String)> = (status.pods.iter())
        .map(|pod| (name(pod), list(pod.addresses.iter().map(ToString::to_string).collect())))
        .collect();
    pods.sort();
    let width = pods.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.extend(pods.iter().map(|(name, addresses)| format!("▪ {name:<width$}  {addresses}")));
    if pods.is_empty() {
        lines.push("no Pods".to_owned());
    }
    (format!("{}  {addresses}", status.node), lines)
}

fn path(peer: &PeerStatus) -> String {
    let mtu = match (peer.proved_mtu, peer.mtu_mismatch) {
        (Some(bytes), _) => format!(", {bytes} bytes proved"),
        (None, Some(bytes)) => format!(", {bytes} bytes do NOT pass"),
        (None, None) => String::new(),
    };
    let reachable = if peer.reachable == Some(false) { ", NOT reachable" } else { "" };
    format!("to {}: {} ({}){mtu}{reachable}", peer.name, peer.path, peer.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_told_by_reason_where_there_are_any() {
        let counter = |name: &str, drop, packets| CounterStatus { name: name.to_owned(), drop, packets };
        let counters = [
            counter("same-node", false, 5),
            counter("source-address", true, 7),
            counter("malformed", true, 0),
            counter("service-source", true, 1200),
        ];
        assert_eq!(drops(&counters), ["dropped    7  source-address", "dropped 1200  service-source"]);
    }
}
