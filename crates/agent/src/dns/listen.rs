//! Where DNS is answered, and for how long.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use weft_dns::{
    server::{self, Server},
    settings::{ClientLimits, Settings},
};
use weft_kube::Mirror;
use weft_model::{Node, NodeName, PodRange};

use ipnet::IpNet;

use super::Dns;

const PORT: u16 = 53;
/// Between two attempts to listen where somebody else does.
const AGAIN: Duration = Duration::from_secs(2);

/// What a server is started for; all else it learns while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    addresses: Vec<SocketAddr>,
    limits: ClientLimits,
}

/// Answers once `ready`, by the settings and at the addresses as they are. Returns when there is nothing more to follow.
pub(super) async fn serve(
    dns: Dns,
    mut settings: watch::Receiver<Settings>,
    mut nodes: watch::Receiver<Mirror<NodeName, Node>>,
    mut ready: watch::Receiver<bool>,
) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    let mut running: Option<Wanted> = None;
    loop {
        let (set, wanted) = {
            let (settings, nodes) = (settings.borrow_and_update().clone(), nodes.borrow_and_update());
            describe_cluster(&dns, &settings, &nodes);
            let wanted = Wanted { addresses: addresses(&dns, &nodes), limits: settings.limits.clone() };
            (settings, wanted)
        };
        if running.as_ref() == Some(&wanted) {
            if let Some(server) = &*dns.0.server.load() {
                server.replace_settings(server::Settings::from(&set));
            }
        } else {
            running = start(&dns, &set, &wanted.addresses).then_some(wanted);
        }
        tokio::select! {
            changed = settings.changed() => if changed.is_err() { return },
            changed = nodes.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if running.is_none() => {}
        }
    }
}

/// Starts a server in the place of the one before, whose sockets close after those of the new one are open.
fn start(dns: &Dns, settings: &Settings, addresses: &[SocketAddr]) -> bool {
    let shared = &dns.0;
    let started = Server::start(
        addresses,
        Arc::clone(&shared.zone),
        Arc::clone(&shared.forwarder) as _,
        Arc::clone(&shared.clients) as _,
        server::Settings::from(settings),
    );
    let mut standing = dns.standing();
    match started {
        Ok(server) => {
            tracing::info!(addresses = ?server.addresses(), "DNS is answered");
            (standing.addresses, standing.error) = (server.addresses().to_vec(), None);
            shared.server.store(Some(Arc::new(server)));
            shared.forwarder.now_listening();
            true
        }
        Err(error) => {
            let error = format!(
                "{:#}: Pods of this node ask other nodes; is another DNS server on it, or another agent?",
                anyhow::Error::from(error)
            );
            if standing.error.as_ref() != Some(&error) {
                tracing::error!("{error}");
            }
            standing.error = Some(error);
            false
        }
    }
}

/// The DNS Service's addresses, and this node's own that other nodes ask.
fn addresses(dns: &Dns, nodes: &Mirror<NodeName, Node>) -> Vec<SocketAddr> {
    let own = nodes.objects().get(&dns.0.place.node);
    let ranges = own.iter().flat_map(|node| &node.pod_ranges);
    let of_paths = ranges.filter_map(|range| PodRange::new(*range).ok()).map(|range| range.path_address());
    let ips = dns.0.place.options.cluster_dns.iter().copied().chain(of_paths);
    ips.map(|ip: IpAddr| SocketAddr::new(ip, PORT)).collect()
}

/// What names the zone has, and who is answered, follow from the settings and from the ranges and addresses that nodes have.
fn describe_cluster(dns: &Dns, settings: &Settings, nodes: &Mirror<NodeName, Node>) {
    let ranges = {
        let mut known = dns.0.kept.known();
        // Before any node is known, those that were.
        if nodes.is_synced() {
            known.ranges = nodes.objects().values().flat_map(|node| node.pod_ranges.clone()).collect();
        }
        known.ranges.clone()
    };
    let addresses = nodes.objects().values().flat_map(|node| &node.addresses).copied().map(IpNet::from);
    let mut allowed: Vec<IpNet> = ranges.iter().copied().chain(addresses).collect();
    // Without any, no client can be told from a stranger.
    if !allowed.is_empty() {
        let options = &dns.0.place.options;
        allowed.extend(options.pod_cidrs.iter().chain(&options.service_cidrs).chain(&settings.allow_from));
        dns.0.clients.access.allow(&allowed);
    }
    let wanted = dns.0.place.zone_settings(settings, &ranges);
    let zone = &dns.0.zone;
    let same = *zone.read().unwrap_or_else(PoisonError::into_inner).settings() == wanted;
    if !same {
        zone.write().unwrap_or_else(PoisonError::into_inner).set_settings(wanted);
    }
}
