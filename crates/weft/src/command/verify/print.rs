//! The report, for people: each verdict with its evidence below it.

use super::{
    Report, matrix,
    names::NamesReport,
    pairs::{Failure, Proof},
    services::{Count, ServicesReport},
};
use crate::output::{print_table, printable};

fn verdict(holds: bool) -> &'static str {
    if holds { "yes" } else { "NO" }
}

/// The evidence of a verdict, below it.
fn print_failed(lines: impl Iterator<Item = String>, what: &str) {
    const MOST: usize = 20;
    let lines: Vec<String> = lines.collect();
    for line in lines.iter().take(MOST) {
        println!("  {}", printable(line));
    }
    if lines.len() > MOST {
        println!("  … and {} more {what}: -o json lists them all", lines.len() - MOST);
    }
}

/// Prints all of it.
pub fn print(report: &Report, proofs: &[Proof]) {
    matrix::print(&report.endpoints, proofs);
    println!();
    let what = if report.sampled { "a sample that covers every pair of nodes" } else { "every pair" };
    println!(
        "{:<58} {}",
        format!("reachable without NAT, TCP, UDP and full MTU ({what})"),
        verdict(report.failed.is_empty())
    );
    let line = |failure: &Failure| {
        format!("{} -> {} ({}): {}", failure.from, failure.to, failure.address, failure.problems.join("; "))
    };
    print_failed(report.failed.iter().map(line), "pairs");
    services(&report.services);
    names(report.names.as_ref());
    println!("{:<58} {}", "addresses unique, ranges disjoint", verdict(report.ranges.is_empty()));
    for wrong in &report.ranges {
        println!("  {}", printable(wrong));
    }
    for pod in &report.ended {
        println!("left out, as it ended meanwhile: {}", printable(pod));
    }
    for silent in &report.silent {
        println!("nothing is proved of {}: {}", silent.node, printable(&silent.why));
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

fn names(report: Option<&NamesReport>) {
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
    let line = |failure: &super::names::Failure| {
        format!("{}: {} {}: {}", failure.from, failure.name, failure.kind, failure.problem)
    };
    print_failed(report.failed.iter().map(line), "look-ups");
    for pod in report.left_out.iter().take(5) {
        println!("  not looked at: {}", printable(pod));
    }
    if report.left_out.len() > 5 {
        println!("  … and {} more Pods: -o json lists them all", report.left_out.len() - 5);
    }
}

/// Services up to which each gets a row; beyond, only those that fail.
const MOST_ROWS: usize = 30;

fn services(report: &ServicesReport) {
    if report.ports + report.host_ports == 0 {
        return;
    }
    let whole = |count: &Count| count.good == count.all;
    let cell = |count: &Count| {
        if count.all == 0 { "·".to_owned() } else { format!("{}/{}", count.good, count.all) }
    };
    let rows: Vec<[String; 4]> = report
        .matrix
        .iter()
        .filter(|row| {
            report.matrix.len() <= MOST_ROWS || ![&row.nodes, &row.pods, &row.outside].into_iter().all(whole)
        })
        .map(|row| {
            let refuses = report.without_backends.contains(&row.service);
            let service = if refuses { format!("{} (refuses)", row.service) } else { row.service.clone() };
            [service, cell(&row.nodes), cell(&row.pods), cell(&row.outside)]
        })
        .collect();
    if !rows.is_empty() {
        print_table(["SERVICE", "FROM NODES", "FROM PODS", "FROM OUTSIDE"], &rows);
        println!();
    }
    let failed = |host_port: bool| -> Vec<String> {
        let line = |failure: &super::services::Failure| {
            format!("{} -> {} ({}): {}", failure.from, failure.service, failure.address, failure.problem)
        };
        report.failed.iter().filter(|failure| failure.host_port == host_port).map(line).collect()
    };
    let what = if report.sampled { "a sample" } else { "all" };
    let kinds = [
        (
            false,
            report.ports,
            format!("Services reached, clients' addresses kept ({what} of {} ports)", report.ports),
        ),
        (
            true,
            report.host_ports,
            format!("host ports reached, clients' addresses kept ({what} of {})", report.host_ports),
        ),
    ];
    for (host_port, _, claim) in kinds.into_iter().filter(|(host_port, count, _)| !host_port || *count > 0) {
        let failed = failed(host_port);
        println!("{claim:<58} {}", verdict(failed.is_empty()));
        print_failed(failed.into_iter(), "visits");
    }
    for port in &report.without_backends {
        println!("  refuses, as it has no backend that is ready: {}", printable(port));
    }
    println!("{:<58} {}", "connections spread evenly over backends", verdict(report.uneven.is_empty()));
    for uneven in &report.uneven {
        println!("  {}", printable(uneven));
    }
    for port in &report.unproved {
        println!("  not proved: {} answers no datagrams", printable(port));
    }
    for why in &report.sctp {
        println!("  SCTP: {}", printable(why));
    }
}
