//! What a Pod gets: throughput, round trip, connection rate, each against its floor or peer.

use std::net::IpAddr;

use weft_datapath::Path;

use crate::{
    report::{Goal, Row},
    topology::{Node, Scratch, join, kernel_vxlan},
    traffic::Way,
};

/// Odd, so that the median is a round; many and short rather than few and long, because a round is disturbed as a whole.
const ROUNDS: usize = 151;

/// The benchmark.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let mut rows = same_node()?;
    rows.extend(across_nodes(Path::Overlay)?);
    rows.extend(across_nodes(Path::Native)?);
    Ok(rows)
}

fn same_node() -> anyhow::Result<Vec<Row>> {
    let (one, two) = (Scratch::new()?, Scratch::new()?);
    let floor = IpAddr::from([10, 9, 0, 2]);
    join(&one, &two, [IpAddr::from([10, 9, 0, 1]), floor])?;
    let (host, outside) = (Scratch::new()?, Scratch::new()?);
    join(&host, &outside, [IpAddr::from([192, 168, 1, 2]), IpAddr::from([192, 168, 1, 1])])?;
    let mut node = Node::start(host, 2)?;
    node.alone()?;
    let ((client, _), (server, address)) = (node.pod()?, node.pod()?);
    let ours = Way::new(&client.0, &server.0, address);
    let theirs = Way::new(&one.0, &two.0, floor);
    compare("same node", ours, "bare veth pair", theirs, [0.95, 1.08, 0.92])
}

fn across_nodes(path: Path) -> anyhow::Result<Vec<Row>> {
    let (one, two) = (Scratch::new()?, Scratch::new()?);
    let addresses = [IpAddr::from([192, 168, 1, 2]), IpAddr::from([192, 168, 1, 3])];
    join(&one, &two, addresses)?;
    let (mut one, mut two) = (Node::start(one, 2)?, Node::start(two, 3)?);
    one.meet(&two, path)?;
    two.meet(&one, path)?;
    let ((client, _), (server, address)) = (one.pod()?, two.pod()?);
    let ours = Way::new(&client.0, &server.0, address);
    if path == Path::Native {
        let theirs = Way::new(&one.netns.0, &two.netns.0, addresses[1]);
        return compare("across nodes, native", ours, "bare underlay", theirs, [0.95, 1.08, 0.92]);
    }
    let (_nodes, client, server, address) = kernel_vxlan()?;
    let theirs = Way::new(&client.0, &server.0, address);
    compare("across nodes, overlay", ours, "kernel VXLAN with routes", theirs, [1.0, 1.0, 1.0])
}

pub(crate) type Measure = fn(&Way<'_>) -> anyhow::Result<f64>;

fn compare(
    name: &str,
    ours: Way<'_>,
    against: &str,
    theirs: Way<'_>,
    goals: [f64; 3],
) -> anyhow::Result<Vec<Row>> {
    let [stream, round_trip, rate] = goals;
    let measures: [(&str, &'static str, Measure, Goal); 3] = [
        ("TCP stream", "Gb/s", |way| way.stream(), Goal::AtLeast(stream)),
        ("TCP round trip p50", "us", |way| way.round_trip(), Goal::AtMost(round_trip)),
        ("connect+request+close", "1/s", |way| way.connect_rate(), Goal::AtLeast(rate)),
    ];
    let mut rows = Vec::new();
    for (what, unit, measure, goal) in measures {
        // Neighbours are resolved and caches warm before the first round counts.
        measure(&ours)?;
        measure(&theirs)?;
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            // Who goes first changes, so that neither always has the warmer machine.
            rounds.push(if round % 2 == 0 {
                let ours = measure(&ours)?;
                (ours, measure(&theirs)?)
            } else {
                let theirs = measure(&theirs)?;
                (measure(&ours)?, theirs)
            });
        }
        rows.push(Row::paired(&format!("{name}: {what}"), against, unit, &rounds, goal));
    }
    Ok(rows)
}
