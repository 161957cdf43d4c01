//! With ten thousand Services and a hundred thousand endpoints: from the API request that changes an endpoint until the agent
//! answers its Service's name by it.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::walk;
use crate::{
    report::{Goal, Row, percentile},
    services::scale::{Agent, Cluster, PATIENCE, SERVICES, SLICES, endpoint},
};

const CHANGES: usize = 300;
/// The address of the node's Pod range that other nodes ask.
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 244, 1, 0), 53);
const NAME: &str = "changed";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 9);

/// The benchmark.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let cluster = Cluster::start()?;
    eprintln!("    {SERVICES} Services are created");
    cluster.fill()?;
    let ports = json!([{ "name": "http", "port": 80 }]);
    let service = json!({ "metadata": { "name": NAME }, "spec": { "clusterIP": "None", "ports": ports } });
    cluster.create("/api/v1/namespaces/default/services", &service)?;
    let slice = json!({
        "metadata": { "name": NAME, "labels": { "kubernetes.io/service-name": NAME } },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        "endpoints": [endpoint(&ADDRESS.to_string(), false)],
    });
    cluster.create(SLICES, &slice)?;
    let agent = Agent::start(&cluster, &["--cluster-dns", "10.96.0.10"])?;
    agent.in_force(SERVICES + 2)?;
    let times = time_changes(&cluster, &agent)?;
    let millis = |share| percentile(&times, share) * 1000.0;
    let memory = agent.memory()?.now;
    Ok(vec![
        Row::absolute("endpoint change, API request to answer, p50", "ms", &[millis(0.5)], Goal::AtMost(5.0)),
        Row::absolute(
            "endpoint change, API request to answer, p99",
            "ms",
            &[millis(0.99)],
            Goal::AtMost(5.0),
        ),
        // No more than it may have without.
        Row::absolute("agent's memory with DNS", "MiB", &[memory], Goal::AtMost(100.0)),
    ])
}

/// The time of each change, in seconds. The Service's only endpoint comes and goes.
fn time_changes(cluster: &Cluster, agent: &Agent) -> anyhow::Result<Vec<f64>> {
    let socket = cluster.node.0.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut times = Vec::new();
    let slice = format!("{SLICES}/{NAME}");
    has_address(&socket, agent, false)?;
    for change in 0..CHANGES {
        let ready = change % 2 == 0;
        let begun = Instant::now();
        let endpoints = json!({ "endpoints": [endpoint(&ADDRESS.to_string(), ready)] });
        let request = cluster.patch_later(&slice, endpoints);
        has_address(&socket, agent, ready)?;
        times.push(begun.elapsed().as_secs_f64());
        cluster.runtime.block_on(request)??;
    }
    Ok(times)
}

/// Asks until the Service has its address, or has none.
fn has_address(socket: &UdpSocket, agent: &Agent, wanted: bool) -> anyhow::Result<()> {
    let question = walk::query(7, &format!("{NAME}.default.svc.cluster.local"), 1);
    let begun = Instant::now();
    loop {
        let mut answer = [0; 512];
        // Nobody listens before the agent has heard everything.
        if socket.send_to(&question, SERVER).is_ok()
            && let Ok((length, from)) = socket.recv_from(&mut answer)
            && from.ip() == IpAddr::V4(SERVER.0)
        {
            let answer = answer.get(..length).context("longer than the buffer")?;
            let code = answer.get(3).map(|octet| octet & 0xf);
            if code == Some(if wanted { 0 } else { 3 }) && answer.ends_with(&ADDRESS.octets()) == wanted {
                return Ok(());
            }
        }
        agent.alive()?;
        if begun.elapsed() > PATIENCE {
            bail!("an endpoint's change does not reach DNS");
        }
    }
}
