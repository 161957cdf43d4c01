//! Where DNS is answered, and for how long.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{sync::watch, time::sleep};
use weft_dns::{
    server::{self, Server},
    settings::Settings,
};
use weft_kube::Mirror;
use weft_model::{Node, NodeName, PodRange};

use super::Dns;

const PORT: u16 = 53;
/// Between two attempts to listen where somebody else does.
const AGAIN: Duration = Duration::from_secs(2);

/// What a server was started for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    addresses: Vec<SocketAddr>,
    settings: Settings,
}

/// Answers once `synced`, by the settings and at the addresses as they are. Does not return; drop it to end.
pub(super) async fn serve(
    dns: Dns,
    mut settings: watch::Receiver<Settings>,
    mut nodes: watch::Receiver<Mirror<NodeName, Node>>,
    mut synced: watch::Receiver<bool>,
) {
    if synced.wait_for(|synced| *synced).await.is_err() {
        return std::future::pending().await;
    }
    let mut running: Option<(Server, Wanted)> = None;
    loop {
        let wanted = {
            let (settings, nodes) = (settings.borrow_and_update().clone(), nodes.borrow_and_update());
            describe_zone(&dns, &settings, &nodes);
            Wanted { addresses: addresses(&dns, &nodes), settings }
        };
        let mut failed = false;
        if running.as_ref().is_none_or(|(_, now)| *now != wanted) {
            match start(&dns, &wanted) {
                // The one before ends after the new one listens: its sockets close last.
                Ok(server) => running = Some((server, wanted)),
                Err(error) => {
                    failed = true;
                    let mut standing = dns.standing();
                    if standing.error.as_ref() != Some(&error) {
                        tracing::error!("{error}");
                    }
                    standing.error = Some(error);
                }
            }
        }
        tokio::select! {
            changed = settings.changed() => if changed.is_err() { return std::future::pending().await },
            changed = nodes.changed() => if changed.is_err() { return std::future::pending().await },
            () = sleep(AGAIN), if failed => {}
        }
    }
}

fn start(dns: &Dns, wanted: &Wanted) -> Result<Server, String> {
    let settings = server::Settings {
        ttl: wanted.settings.ttl.0,
        negative_ttl: wanted.settings.negative_ttl.0,
        walk: wanted.settings.search_walk,
        limits: server::Limits {
            asked_of_client: wanted.settings.limits.forwarded_per_client,
            connections_of_client: wanted.settings.limits.connections_per_client,
            ..server::Limits::default()
        },
        ..server::Settings::default()
    };
    let shared = &dns.0;
    let server = Server::start(
        &wanted.addresses,
        Arc::clone(&shared.zone),
        Arc::clone(&shared.forwarder) as _,
        Arc::clone(&shared.clients) as _,
        settings,
    )
    .map_err(|error| {
        format!(
            "{:#}: Pods of this node ask other nodes; is another DNS server on it, or another agent?",
            anyhow::Error::from(error)
        )
    })?;
    tracing::info!(addresses = ?server.addresses(), "DNS is answered");
    let mut standing = dns.standing();
    (standing.addresses, standing.error) = (server.addresses().to_vec(), None);
    Ok(server)
}

/// The DNS Service's addresses, and this node's own that other nodes ask.
fn addresses(dns: &Dns, nodes: &Mirror<NodeName, Node>) -> Vec<SocketAddr> {
    let own = nodes.objects().get(&dns.0.place.node);
    let ranges = own.iter().flat_map(|node| &node.pod_ranges);
    let of_paths = ranges.filter_map(|range| PodRange::new(*range).ok()).map(|range| range.path_address());
    let ips = dns.0.place.options.cluster_dns.iter().copied().chain(of_paths);
    ips.map(|ip: IpAddr| SocketAddr::new(ip, PORT)).collect()
}

/// What names the zone has follows from the settings and from the ranges that nodes have.
fn describe_zone(dns: &Dns, settings: &Settings, nodes: &Mirror<NodeName, Node>) {
    let ranges: Vec<IpNet> = nodes.objects().values().flat_map(|node| node.pod_ranges.clone()).collect();
    let wanted = dns.0.place.zone_settings(settings, &ranges);
    let zone = &dns.0.zone;
    let same = *zone.read().unwrap_or_else(PoisonError::into_inner).settings() == wanted;
    if !same {
        zone.write().unwrap_or_else(PoisonError::into_inner).set_settings(wanted);
    }
}
