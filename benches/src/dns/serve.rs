//! Weft's server as a process of its own, as the agent runs it.

use std::{
    io::Read as _,
    net::IpAddr,
    path::Path,
    sync::{Arc, RwLock},
};

use weft_dns::{
    forward::Forwarder,
    server::{Clients, Limits, Search, Server, Settings},
    settings::{ServerAddress, Settings as Cluster},
};
use weft_model::{
    Protocol,
    dns::{NamespaceEvent, Settings as ZoneSettings, Zone},
    services::{Event, Service, ServiceKey, ServicePort, ServiceType, TrafficPolicy},
};

use super::{
    names,
    peers::{CLIENT, SERVER, UPSTREAM},
};

/// With this argument alone, the benchmark's binary is the server.
pub const FLAG: &str = "--serve-dns";

/// The one client is a Pod of the Namespace team-00.
struct OnePod(Arc<Search>);

impl Clients for OnePod {
    fn search(&self, address: IpAddr) -> Option<Arc<Search>> {
        (address == CLIENT).then(|| Arc::clone(&self.0))
    }

    fn may_ask(&self, _: IpAddr) -> bool {
        true
    }
}

/// Serves until its input ends.
pub fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let zone = zone()?;
    let search = Search::cluster_first("team-00", &zone.settings().domain, &[])?;
    let upstreams = vec![ServerAddress { address: UPSTREAM, tcp: false }];
    let forwarder = runtime.block_on(async {
        let settings = Cluster { upstreams, ..Cluster::default() };
        Forwarder::new(&settings, Path::new("/dev/null"), Vec::new())
    });
    let server = runtime.block_on(async {
        // One client stands for many.
        let limits = Limits { queries_of_client: u32::MAX, ..Limits::default() };
        let settings = Settings { threads: 1, limits, ..Settings::default() };
        let (zone, clients) = (Arc::new(RwLock::new(zone)), Arc::new(OnePod(Arc::new(search))));
        Server::start(&[SERVER], zone, Arc::new(forwarder), clients, settings)
    })?;
    let _ended = std::io::stdin().read(&mut [0])?;
    drop(server);
    Ok(())
}

/// A zone with all names.
fn zone() -> anyhow::Result<Zone> {
    let mut zone = empty()?;
    for number in 0..names::SERVICES {
        let (namespace, name, address) = names::service(number);
        zone.hear_namespace(&NamespaceEvent::Namespace(namespace.as_str().into()));
        zone.hear(&Event::Service(service(&namespace, &name, &[address.into()])));
    }
    end(&mut zone);
    Ok(zone)
}

/// A zone that hears lists.
pub fn empty() -> anyhow::Result<Zone> {
    let mut zone = Zone::new(ZoneSettings {
        domain: names::DOMAIN.parse()?,
        pod_records: true,
        name_servers: vec![SERVER.ip()],
        ranges: vec!["10.96.0.0/16".parse()?],
    });
    zone.hear(&Event::ServicesBegin);
    zone.hear(&Event::SlicesBegin);
    zone.hear_namespace(&NamespaceEvent::Begin);
    Ok(zone)
}

/// That were all.
pub fn end(zone: &mut Zone) {
    zone.hear(&Event::ServicesEnd);
    zone.hear(&Event::SlicesEnd);
    zone.hear_namespace(&NamespaceEvent::End);
}

/// A Service; headless without addresses.
pub fn service(namespace: &str, name: &str, addresses: &[IpAddr]) -> Service {
    Service {
        key: ServiceKey::new(namespace, name),
        uid: "uid".into(),
        kind: ServiceType::ClusterIp,
        not_ours: false,
        cluster_ips: addresses.into(),
        headless: addresses.is_empty(),
        external_name: None,
        ports: [ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }]
            .into(),
        external_ips: [].into(),
        ingress: [].into(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        source_ranges: None,
        health_check_port: None,
    }
}
