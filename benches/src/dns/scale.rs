//! Ten thousand Services and a hundred thousand endpoints: the zone's memory, and what a change costs.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use weft_dns::{
    question::{Asked, Question, Resolver},
    server::{Limits, NoClients, Server, Settings},
};
use weft_model::{
    Protocol,
    dns::{NamespaceEvent, Zone},
    services::{AddressType, Endpoint, EndpointSlice, Event, SliceKey, SlicePort},
};

use super::{names, serve, walk};
use crate::report::{Goal, Row, percentile};

/// With this argument alone, the benchmark's binary measures what is here: in a process of its own, whose memory is the zone's.
pub const FLAG: &str = "--measure-dns-zone";

const ENDPOINTS: usize = 10;
const CHANGES: usize = 2000;
const NAMESPACE: &str = "team-00";
const CHANGED: &str = "changed";

/// The benchmark.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let output = Command::new(std::env::current_exe()?).arg(FLAG).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let measured: [f64; 4] =
        serde_json::from_slice(&output.stdout).context("what the zone's process says")?;
    let [cluster, headless, p50, p99] = measured;
    Ok(vec![
        Row::absolute("zone of 10,000 Services, 100,000 endpoints", "MiB", &[cluster], Goal::AtMost(40.0)),
        Row::absolute("the same, all headless with host names", "MiB", &[headless], Goal::AtMost(40.0)),
        Row::absolute("endpoint change, heard to answer changed, p50", "ms", &[p50], Goal::AtMost(5.0)),
        Row::absolute("endpoint change, heard to answer changed, p99", "ms", &[p99], Goal::AtMost(5.0)),
    ])
}

/// Measures, and prints the figures.
pub fn measure() -> anyhow::Result<()> {
    let before = memory()?;
    let cluster = filled(false)?;
    let with_cluster = memory()?;
    // Kept until the end, so that its memory is not the next one's.
    let headless = filled(true)?;
    let with_headless = memory()?;
    let times = time_changes(headless)?;
    let millis = |share| percentile(&times, share) * 1000.0;
    let figures = [with_cluster - before, with_headless - with_cluster, millis(0.5), millis(0.99)];
    println!("{}", serde_json::to_string(&figures)?);
    drop(cluster);
    Ok(())
}

/// A zone with all Services and endpoints; headless ones with host names, or not.
fn filled(headless: bool) -> anyhow::Result<Zone> {
    let mut zone = serve::empty()?;
    for number in 0..names::SERVICES {
        let (namespace, name, address) = names::service(number);
        let own = [IpAddr::V4(address)];
        zone.hear_namespace(&NamespaceEvent::Namespace(namespace.as_str().into()));
        zone.hear(&Event::Service(serve::service(&namespace, &name, if headless { &[] } else { &own })));
        let endpoints = (0..ENDPOINTS).map(|i| {
            let host = (number * ENDPOINTS + i) as u32;
            let hostname = headless.then(|| format!("{name}-{i}"));
            endpoint(Ipv4Addr::from(0x0a80_0000 + host), true, hostname.as_deref())
        });
        zone.hear(&Event::Slice(slice(&namespace, &name, endpoints.collect())));
    }
    zone.hear(&Event::Service(serve::service(NAMESPACE, CHANGED, &[])));
    serve::end(&mut zone);
    Ok(zone)
}

fn slice(namespace: &str, service: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: SliceKey::new(namespace, format!("{service}-x1y2z")),
        service: service.into(),
        address_type: AddressType::Ipv4,
        ports: [SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.into(),
    }
}

fn endpoint(address: Ipv4Addr, ready: bool, hostname: Option<&str>) -> Endpoint {
    Endpoint {
        address: address.into(),
        ready,
        serving: ready,
        terminating: false,
        node: None,
        hostname: hostname.map(Into::into),
        for_nodes: [].into(),
        for_zones: [].into(),
    }
}

/// Nobody is asked.
struct Nobody;

impl Resolver for Nobody {
    fn ask<'a>(&'a self, _: &'a Question) -> Asked<'a> {
        Box::pin(std::future::pending())
    }
}

/// From the moment that an endpoint's change is heard until a client is answered by it, in seconds.
fn time_changes(zone: Zone) -> anyhow::Result<Vec<f64>> {
    let zone = Arc::new(RwLock::new(zone));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let server = runtime.block_on(async {
        let limits = Limits { queries_of_client: u32::MAX, ..Limits::default() };
        let settings = Settings { threads: 1, limits, ..Settings::default() };
        let listen = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        Server::start(&listen, Arc::clone(&zone), Arc::new(Nobody), Arc::new(NoClients), settings)
    })?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(server.addresses().first().context("the server listens")?)?;
    let question = walk::query(7, &format!("{CHANGED}.{NAMESPACE}.svc.{}", names::DOMAIN), 1);
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let ready = change % 2 == 0;
        let change = Event::Slice(slice(
            NAMESPACE,
            CHANGED,
            vec![endpoint(Ipv4Addr::new(10, 244, 9, 9), ready, None)],
        ));
        let begun = Instant::now();
        zone.write().map_err(|_| anyhow::anyhow!("a thread has panicked"))?.hear(&change);
        loop {
            socket.send(&question)?;
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer)?;
            let is_there = answer.get(..length).is_some_and(|answer| answer.ends_with(&[10, 244, 9, 9]));
            if is_there == ready {
                break;
            }
        }
        times.push(begun.elapsed().as_secs_f64());
    }
    let _within = runtime.enter();
    drop(server);
    Ok(times)
}

/// What this process has in memory, in mebibytes.
fn memory() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?;
    Ok(kibibytes / 1024.0)
}
