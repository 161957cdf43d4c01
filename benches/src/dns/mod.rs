//! Cluster DNS against unbound and knot-resolver with the same names: what a query costs, how long a search takes, and what
//! many Services cost.
//!
//! Every server has a pair of namespaces, one core and one thread; the client has the other core. Where it is measured what a query
//! costs, other work takes most of the server's core, or else the client would be the limit.

mod agent;
mod load;
mod names;
pub mod neighbour;
mod peers;
pub mod scale;
pub mod serve;
mod upstream;
mod walk;

use anyhow::Context as _;

use self::{
    load::{Load, Timed},
    peers::{Candidate, Kind},
    walk::Walks,
};
use crate::report::{Goal, Row, median};

/// Measurements of each server, in turn.
const ROUNDS: usize = 7;
const ATTEMPTS: usize = 3;

/// The benchmark.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let candidates = [Kind::Weft, Kind::Unbound, Kind::Knot].map(Candidate::start);
    let [weft, unbound, knot] = candidates;
    let (weft, unbound, knot) = (weft?, unbound?, knot?);
    let mut rows = cost(&weft, [&unbound, &knot])?;
    rows.extend(half_load(&weft, [&unbound, &knot])?);
    rows.extend(search(&weft, [&unbound, &knot])?);
    drop((weft, unbound, knot));
    rows.extend(scale::run()?);
    rows.extend(agent::run()?);
    Ok(rows)
}

/// What all servers are asked in turn; a list for each of what came out in each round.
fn in_turn<T>(
    of: [&Candidate; 3],
    measure: impl Fn(&Candidate) -> anyhow::Result<T>,
) -> anyhow::Result<[Vec<T>; 3]> {
    let mut all = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        for (candidate, results) in of.iter().zip(&mut all) {
            let result = again(candidate, &measure)?;
            // The first round warms caches.
            if round > 0 {
                results.push(result);
            }
        }
    }
    Ok(all)
}

/// A server that stands still for a moment, because of something else on this machine, is measured again.
fn again<T>(of: &Candidate, measure: impl Fn(&Candidate) -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 0..ATTEMPTS {
        match measure(of) {
            Ok(result) => return Ok(result),
            Err(error) => eprintln!("      {}: {error:#}; once more", of.kind),
        }
    }
    measure(of).with_context(|| of.kind.to_string())
}

fn pairs(ours: &[f64], theirs: &[f64]) -> Vec<(f64, f64)> {
    ours.iter().copied().zip(theirs.iter().copied()).collect()
}

/// Cluster names, as many as the server can: queries for each second of its processor.
fn cost(weft: &Candidate, peers: [&Candidate; 2]) -> anyhow::Result<Vec<Row>> {
    let measured = in_turn([weft, peers[0], peers[1]], |candidate| {
        let load = Load::limit(candidate)?;
        eprintln!(
            "      {}: {:.0} queries a second with {:.2} of a core",
            candidate.kind, load.rate, load.busy
        );
        Ok(load.rate / load.busy)
    })?;
    let [ours, theirs @ ..] = measured;
    Ok(peers
        .iter()
        .zip(&theirs)
        .map(|(peer, theirs)| {
            // Nothing is asked of the comparison with the other one but that it is not lost.
            let goal = if peer.kind == Kind::Unbound { 1.5 } else { 1.0 };
            let name = "10,000 cluster names: queries per CPU second";
            Row::paired(name, &peer.kind.to_string(), "1/s", &pairs(&ours, theirs), Goal::AtLeast(goal))
        })
        .collect())
}

/// At half of what unbound can: how long an answer takes.
fn half_load(weft: &Candidate, peers: [&Candidate; 2]) -> anyhow::Result<Vec<Row>> {
    let most: Vec<f64> =
        (0..3).map(|_| Ok(again(peers[0], Load::most)?.rate)).collect::<anyhow::Result<_>>()?;
    let rate = median(&most) / 2.0;
    eprintln!("    half load: {rate:.0} queries a second");
    let measured = in_turn([weft, peers[0], peers[1]], |candidate| Load::times(candidate, rate))?;
    let [ours, theirs @ ..] = measured;
    let list = |of: &[Timed], value: fn(&Timed) -> f64| of.iter().map(value).collect::<Vec<f64>>();
    let mut rows = Vec::new();
    for (peer, theirs) in peers.iter().zip(&theirs) {
        for (name, value) in [
            ("cluster names at half load: p50", (|one| one.p50) as fn(&Timed) -> f64),
            ("cluster names at half load: p99", |one| one.p99),
        ] {
            let rounds = pairs(&list(&ours, value), &list(theirs, value));
            // No worse; a tenth is by what runs differ, since most of it is how long a sleeping core takes to wake up.
            rows.push(Row::paired(name, &peer.kind.to_string(), "us", &rounds, Goal::AtMost(1.1)));
        }
    }
    Ok(rows)
}

/// An outside name through a Pod's search, by glibc's rules.
fn search(weft: &Candidate, peers: [&Candidate; 2]) -> anyhow::Result<Vec<Row>> {
    let known = in_turn([weft, peers[0], peers[1]], Walks::known)?;
    let new = in_turn([weft, peers[0], peers[1]], Walks::new_names)?;
    let times = |of: &[Walks]| of.iter().map(|one| one.micros).collect::<Vec<f64>>();
    let asked: Vec<f64> = new[0].iter().map(|one| one.asked).collect();
    let mut rows = Vec::new();
    for (place, peer) in peers.iter().enumerate() {
        let against = peer.kind.to_string();
        for (name, all, goal) in [
            ("outside name, ndots:5: time", &known, 1.0 / 3.0),
            ("the same, a name that nobody asked for yet", &new, 1.0),
        ] {
            let rounds = pairs(&times(&all[0]), &times(&all[place + 1]));
            rows.push(Row::paired(name, &against, "us", &rounds, Goal::AtMost(goal)));
        }
        eprintln!(
            "      {against} asks its upstream {:.2} times",
            new[place + 1].iter().map(|one| one.asked).sum::<f64>() / ROUNDS as f64
        );
    }
    let name = "the same: upstream queries for each name and type";
    rows.push(Row::absolute(name, "", &asked, Goal::AtMost(1.0)));
    Ok(rows)
}
