//! What Services cost: against the Pod address itself, and against kube-proxy's rule sets.

mod kube_proxy;
mod plans;
pub mod scale;

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use weft_datapath::Path;
use weft_model::services::FrontendKind;

use self::plans::Services;
use crate::{
    pod::Measure,
    report::{Goal, Row},
    topology::{Cgroup, Node, Scratch, join},
    traffic::Way,
};

/// Two rounds of one way differ by some three percent, and the medians of so many by a fifth of one: less than what a Service costs.
const ROUNDS: usize = 401;
/// Port of the server behind the Service that is measured.
const PORT: u16 = 18_080;
/// The Service that is measured, in the middle of all others.
const NODE_PORT: u16 = 30_080;
/// An address that is no node's (TEST-NET-2, RFC 5737).
const EXTERNAL_IP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 51, 100, 1);

/// A side of a comparison: where its traffic goes, and the cgroup of its client if that is a Pod. Pods that are not Weft's business
/// have one too: the kernel accounts for each cgroup a process is in whenever it starts and stops waiting.
struct Side<'n> {
    way: Way<'n>,
    cgroup: Option<&'n Cgroup>,
}

impl Side<'_> {
    fn measure(&self, measure: Measure) -> anyhow::Result<f64> {
        let _inside = self.cgroup.map(Cgroup::enter).transpose()?;
        measure(&self.way)
    }
}

fn compare(
    name: &str,
    against: &str,
    unit: &'static str,
    measure: Measure,
    [ours, theirs]: [&Side<'_>; 2],
    goal: Goal,
) -> anyhow::Result<Row> {
    ours.measure(measure).with_context(|| name.to_owned())?;
    theirs.measure(measure).with_context(|| format!("{name}: {against}"))?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        rounds.push(if round % 2 == 0 {
            let ours = ours.measure(measure)?;
            (ours, theirs.measure(measure)?)
        } else {
            let theirs = theirs.measure(measure)?;
            (ours.measure(measure)?, theirs)
        });
    }
    let row = Row::paired(name, against, unit, &rounds, goal);
    eprintln!("      {name}: {:.3} of {against}", row.ratio);
    Ok(row)
}

/// One node, a client and a server, and its Services.
struct OneNode {
    _outside: Scratch,
    cgroup: Cgroup,
    plain: Cgroup,
    node: Node,
    client: Scratch,
    server: Scratch,
    address: IpAddr,
}

impl OneNode {
    fn new() -> anyhow::Result<OneNode> {
        let (host, outside) = (Scratch::new()?, Scratch::new()?);
        join(&host, &outside, [IpAddr::from([192, 168, 1, 2]), IpAddr::from([192, 168, 1, 1])])?;
        let (cgroup, plain) = (Cgroup::new()?, Cgroup::new()?);
        let mut node = Node::start_with(host, 2, |settings| {
            settings.cgroup = Some(cgroup.path().to_owned());
            settings.service_ranges =
                plans::RANGES.iter().map(|range| range.parse()).collect::<Result<_, _>>()?;
            Ok(())
        })?;
        node.alone()?;
        let ((client, _), (server, address)) = (node.pod()?, node.pod()?);
        Ok(OneNode { _outside: outside, cgroup, plain, node, client, server, address })
    }

    fn direct(&self) -> Side<'_> {
        Side { way: self.way(None), cgroup: Some(&self.plain) }
    }

    fn through(&self, service: SocketAddr) -> Side<'_> {
        Side { way: self.way(Some(service)), cgroup: Some(&self.cgroup) }
    }

    fn way(&self, via: Option<SocketAddr>) -> Way<'_> {
        Way { from: &self.client.0, to: &self.server.0, address: self.address, port: PORT, via }
    }

    fn serve(&mut self, services: &Services) -> anyhow::Result<()> {
        let written = self.node.with(|datapath| datapath.replace_services(services.plans()))??;
        anyhow::ensure!(written.refused.is_empty(), "not served: {:?}", written.refused.first());
        Ok(())
    }
}

/// What a ClusterIP costs beside the Pod's own address.
pub fn cluster_ip() -> anyhow::Result<Vec<Row>> {
    let mut one = OneNode::new()?;
    let backend = SocketAddr::new(one.address, PORT);
    let mut rows = Vec::new();
    for (count, text) in [(1, "1 Service"), (10_000, "10,000 Services"), (100_000, "100,000 Services")] {
        eprintln!("    ClusterIP, {text}");
        let services = Services::new(count, 1, backend);
        one.serve(&services)?;
        rows.push(compare(
            &format!("ClusterIP, {text}: connect+request+close"),
            "the Pod address",
            "1/s",
            |way| way.connect_rate(),
            [&one.through(services.measured()), &one.direct()],
            Goal::AtLeast(0.97),
        )?);
    }
    let services = Services::new(1, 1, backend);
    one.serve(&services)?;
    let [ours, theirs] = [&one.through(services.measured()), &one.direct()];
    let round_trip: Measure = |way| way.round_trip();
    // At least 0.99 of what the direct way does, in round trips a second.
    let goal = Goal::AtMost(1.0 / 0.99);
    let name = "ClusterIP: TCP round trip p50";
    rows.push(compare(name, "the Pod address", "us", round_trip, [ours, theirs], goal)?);
    let (name, goal) = ("ClusterIP: TCP stream", Goal::AtLeast(0.99));
    let stream: Measure = |way| way.stream_of_one_thread();
    rows.push(compare(name, "the Pod address", "Gb/s", stream, [ours, theirs], goal)?);
    Ok(rows)
}

/// What connecting to a ClusterIP costs beside kube-proxy's rule sets.
pub fn kube_proxy() -> anyhow::Result<Vec<Row>> {
    let mut one = OneNode::new()?;
    let backend = SocketAddr::new(one.address, PORT);
    let mut rows = Vec::new();
    let cases: [(&str, Services, bool); 3] = [
        ("1 Service", Services::new(1, 2, backend), false),
        ("10,000 Services", Services::new(10_000, 2, backend), true),
        ("10,000 Services, the last", Services::last(10_000, 2, backend), true),
    ];
    for (text, services, many) in &cases {
        one.serve(services)?;
        let ours = one.through(services.measured());
        for rules in [kube_proxy::Rules::Iptables, kube_proxy::Rules::Nftables] {
            eprintln!("    kube-proxy's rules, {rules}, {text}");
            let peer = kube_proxy::Peer::new(rules, one.address, services)?;
            let way = Way {
                from: &peer.client.0,
                to: &peer.server.0,
                address: one.address,
                port: PORT,
                via: Some(services.measured()),
            };
            let goal = if *many && rules == kube_proxy::Rules::Iptables { 5.0 } else { 1.0 };
            rows.push(compare(
                &format!("ClusterIP, {text}: connect"),
                &format!("kube-proxy, {rules}"),
                "1/s",
                |way| way.open_rate(),
                [&ours, &Side { way, cgroup: Some(&one.plain) }],
                Goal::AtLeast(goal),
            )?);
        }
    }
    Ok(rows)
}

/// What a NodePort costs clients outside beside a static route: one node has the backend, or sends on to another that has.
pub fn node_port() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (text, is_local, direct, path) in [
        ("local backend", true, false, Path::Native),
        ("remote backend", false, false, Path::Native),
        ("remote backend over the overlay", false, false, Path::Overlay),
        ("remote backend, external IP with direct return", false, true, Path::Overlay),
    ] {
        eprintln!("    NodePort from outside, {text}");
        let fabric = plans::Fabric::new()?;
        let (mut entry, mut other) = (fabric.node(2, direct)?, fabric.node(3, direct)?);
        entry.meet(&other, path)?;
        other.meet(&entry, path)?;
        let (server, address) = if is_local { entry.pod()? } else { other.pod()? };
        let backend = SocketAddr::new(address, PORT);
        let services = if direct {
            // Answers to a node's own address always go back through it.
            fabric.outside.program(&format!("ip route add {EXTERNAL_IP} via {}", entry.address()))?;
            Services::external(
                SocketAddr::new(EXTERNAL_IP.into(), NODE_PORT),
                backend,
                FrontendKind::ExternalIp,
            )
        } else {
            Services::external(SocketAddr::new(entry.address(), NODE_PORT), backend, FrontendKind::NodePort)
        };
        for node in [&mut entry, &mut other] {
            node.with(|datapath| datapath.replace_services(services.plans()))??;
        }
        let routed = plans::Routed::new(address, is_local, path)?;
        let way = |from, to, via| Way { from, to, address, port: PORT, via };
        let ours = Side { way: way(&fabric.outside.0, &server.0, Some(services.measured())), cgroup: None };
        let theirs = Side { way: way(&routed.outside.0, &routed.server.0, None), cgroup: None };
        let name = |what| format!("{}{text}: {what}", if direct { "" } else { "NodePort, " });
        let rate: Measure = |way| way.connect_rate();
        let round_trip: Measure = |way| way.round_trip();
        // Where the link does not carry Pods' addresses, a static route needs a tunnel too.
        let against = if path == Path::Overlay { "static route over kernel VXLAN" } else { "static route" };
        let sides = [&ours, &theirs];
        rows.push(compare(&name("connect+request+close"), against, "1/s", rate, sides, Goal::AtLeast(0.90))?);
        let goal = Goal::AtMost(1.0 / 0.90);
        rows.push(compare(&name("TCP round trip p50"), against, "us", round_trip, sides, goal)?);
    }
    Ok(rows)
}
