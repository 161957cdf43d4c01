//! The proofs as a table: who (down) reaches whom (across).

use std::collections::{BTreeMap, BTreeSet};

use super::pairs::{Endpoint, Proof};
use crate::output::printable;

/// Endpoints up to which each gets a row; beyond, the nodes do.
const MOST_ROWS: usize = 40;

/// Prints the matrix.
pub fn print(endpoints: &[Endpoint], proofs: &[Proof]) {
    let failed: BTreeSet<(usize, usize)> =
        proofs.iter().filter(|proof| !proof.holds(endpoints)).map(|proof| (proof.from, proof.to)).collect();
    let tried: BTreeSet<(usize, usize)> = proofs.iter().map(|proof| (proof.from, proof.to)).collect();
    if endpoints.len() <= MOST_ROWS {
        by_endpoint(endpoints, &tried, &failed);
    } else {
        by_node(endpoints, &tried, &failed);
    }
}

fn by_endpoint(endpoints: &[Endpoint], tried: &BTreeSet<(usize, usize)>, failed: &BTreeSet<(usize, usize)>) {
    let label = |endpoint: &Endpoint| {
        let name = printable(&endpoint.name);
        if endpoint.host { format!("{name} (node, host network)") } else { name }
    };
    let width = endpoints.iter().map(|endpoint| label(endpoint).chars().count()).max().unwrap_or(0);
    let address =
        |endpoint: &Endpoint| endpoint.addresses.first().map(ToString::to_string).unwrap_or_default();
    let address_width = endpoints.iter().map(|endpoint| address(endpoint).len()).max().unwrap_or(0);
    let numbers: String = (1..=endpoints.len()).map(|number| format!("{number:>3}")).collect();
    println!("{:>3}  {:<width$}  {:<address_width$}  {numbers}", "", "from \\ to", "");
    for (from, endpoint) in endpoints.iter().enumerate() {
        let cells: String = (0..endpoints.len())
            .map(|to| match () {
                () if failed.contains(&(from, to)) => "  ✗",
                () if tried.contains(&(from, to)) => "  ✓",
                () => "  ·",
            })
            .collect();
        println!(
            "{:>3}  {:<width$}  {:<address_width$}  {cells}",
            from + 1,
            label(endpoint),
            address(endpoint)
        );
    }
}

fn by_node(endpoints: &[Endpoint], tried: &BTreeSet<(usize, usize)>, failed: &BTreeSet<(usize, usize)>) {
    let node = |index: usize| endpoints.get(index).map(|endpoint| endpoint.node.as_str()).unwrap_or_default();
    let mut counts: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for (from, to) in tried {
        let (good, all) = counts.entry((node(*from), node(*to))).or_default();
        *all += 1;
        *good += usize::from(!failed.contains(&(*from, *to)));
    }
    let nodes: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.node.as_str()).collect();
    let width = nodes.iter().map(|name| name.len()).max().unwrap_or(0).max(12);
    let header: String = nodes.iter().map(|name| format!("  {name:>width$}")).collect();
    println!("{:<width$}{header}", "from \\ to");
    for from in &nodes {
        let cells: String = nodes
            .iter()
            .map(|to| {
                let (good, all) = counts.get(&(from, to)).copied().unwrap_or_default();
                format!("  {:>width$}", format!("{good}/{all}"))
            })
            .collect();
        println!("{from:<width$}{cells}");
    }
}
