//! `healthCheckNodePort`: a server a Service with `externalTrafficPolicy: Local`.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::take,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hyper::{StatusCode, header::HeaderValue};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use weft_kube::{Mirror, ObjectRef, WarningEvent};
use weft_model::{
    Node, NodeName,
    services::{HealthCheck, ServiceKey},
};

use crate::{
    drain::Drain,
    http::{self, Answer, JSON, respond},
    node::thread::Handle,
};

/// What has changed of the health checks.
pub(crate) type HealthChecks = mpsc::UnboundedReceiver<Vec<(ServiceKey, Option<HealthCheck>)>>;

/// Between two attempts to have a port that somebody else has.
const AGAIN: Duration = Duration::from_secs(5);

/// Serves the ports of all health checks until the drain begins.
pub(crate) struct Ports {
    name: NodeName,
    node: Handle,
    /// What each Service answers.
    services: BTreeMap<ServiceKey, Served>,
    servers: JoinSet<()>,
    /// Servers that are to end.
    closing: Vec<AbortHandle>,
    drain: Drain,
    warnings: watch::Sender<Vec<WarningEvent>>,
}

struct Served {
    check: HealthCheck,
    /// The answers of its servers.
    counts: watch::Sender<HealthCheck>,
    listening: BTreeMap<SocketAddr, AbortHandle>,
    failed: BTreeMap<SocketAddr, String>,
}

/// Follows `checks` and this node's addresses; what ports cannot be had is told in `warnings`.
pub(crate) async fn serve_ports(
    name: NodeName,
    node: Handle,
    mut checks: HealthChecks,
    mut nodes: watch::Receiver<Mirror<NodeName, Node>>,
    warnings: watch::Sender<Vec<WarningEvent>>,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let mut ports = Ports {
        name,
        node,
        services: BTreeMap::new(),
        servers: JoinSet::new(),
        closing: Vec::new(),
        drain: drain.clone(),
        warnings,
    };
    loop {
        let addresses = own_addresses(&nodes.borrow_and_update(), &ports.name);
        ports.listen(&addresses).await;
        let failed = ports.services.values().any(|served| !served.failed.is_empty());
        tokio::select! {
            () = drain.begun() => return Ok(()),
            changes = checks.recv() => match changes {
                Some(changes) => ports.change(changes),
                // The node's thread has ended, and the agent is about to.
                None => drain.begun().await,
            },
            Ok(()) = nodes.changed() => {}
            () = sleep(AGAIN), if failed => {}
        }
    }
}

/// Where health checks are answered: the node's addresses, and loopback for its own processes.
fn own_addresses(nodes: &Mirror<NodeName, Node>, name: &NodeName) -> BTreeSet<IpAddr> {
    let own = nodes.objects().get(name).into_iter().flat_map(|node| node.addresses.iter().copied());
    own.chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]).collect()
}

// === impl Ports ===

impl Ports {
    fn change(&mut self, changes: Vec<(ServiceKey, Option<HealthCheck>)>) {
        for (key, check) in changes {
            match check {
                None => {
                    let gone = self.services.remove(&key);
                    self.closing.extend(gone.into_iter().flat_map(|served| served.listening.into_values()));
                }
                Some(check) => match self.services.get_mut(&key) {
                    Some(served) => {
                        served.check.clone_from(&check);
                        served.counts.send_replace(check);
                    }
                    None => drop(self.services.insert(key, Served::new(check))),
                },
            }
        }
    }

    /// Closes what is not to be open and opens what is.
    async fn listen(&mut self, addresses: &BTreeSet<IpAddr>) {
        for served in self.services.values_mut() {
            let wanted = served.wanted(addresses);
            served.failed.retain(|address, _| wanted.contains(address));
            let (open, closed) =
                take(&mut served.listening).into_iter().partition(|(address, _)| wanted.contains(address));
            served.listening = open;
            self.closing.extend(BTreeMap::into_values(closed));
        }
        // Their ports may be another's now: they are to be free.
        for server in self.closing.drain(..) {
            server.abort();
            self.servers.join_next().await;
        }
        for (key, served) in &mut self.services {
            for address in served.wanted(addresses) {
                if served.listening.contains_key(&address) {
                    continue;
                }
                match TcpListener::bind(address).await {
                    Ok(listener) => {
                        served.failed.remove(&address);
                        let answers = Answers {
                            service: key.clone(),
                            check: served.counts.subscribe(),
                            node: self.node.clone(),
                            ipv6: address.is_ipv6(),
                        };
                        let answer = move |_| answers.clone().answer();
                        let serving = http::serve(listener, answer, self.drain.clone());
                        let server = self.servers.spawn(async move { drop(serving.await) });
                        served.listening.insert(address, server);
                    }
                    Err(error) => drop(served.failed.insert(address, error.to_string())),
                }
            }
        }
        let warnings = self.warnings();
        self.warnings.send_if_modified(|last| {
            let news = *last != warnings;
            *last = warnings;
            news
        });
    }

    fn warnings(&self) -> Vec<WarningEvent> {
        let failed = self.services.iter().filter(|(_, served)| !served.failed.is_empty());
        failed
            .map(|(key, served)| {
                let where_and_why: Vec<String> =
                    served.failed.iter().map(|(address, error)| format!("{address} ({error})")).collect();
                WarningEvent {
                    about: ObjectRef::service(key, &served.check.uid),
                    reporter: self.name.clone(),
                    reason: "HealthCheckPortUnavailable",
                    message: format!(
                        "node {} cannot listen for health checks on {}: is the port somebody else's there?",
                        self.name,
                        where_and_why.join(", ")
                    ),
                    key: format!("{} health-check", self.name),
                }
            })
            .collect()
    }
}

// === impl Served ===

impl Served {
    fn new(check: HealthCheck) -> Self {
        let counts = watch::Sender::new(check.clone());
        Self { check, counts, listening: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Where it is to listen: everywhere, as kube-proxy does, whatever the Service's families. A load balancer asks a node by the
    /// address that it knows.
    fn wanted(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<SocketAddr> {
        addresses.iter().map(|&address| SocketAddr::new(address, self.check.port)).collect()
    }
}

/// Answers at one address.
#[derive(Clone)]
struct Answers {
    service: ServiceKey,
    check: watch::Receiver<HealthCheck>,
    node: Handle,
    ipv6: bool,
}

// === impl Answers ===

impl Answers {
    /// 200 while there are ready endpoints here, in the words of kube-proxy.
    async fn answer(self) -> Answer {
        let well = self.node.in_sync().await.holds;
        let count = {
            let check = self.check.borrow();
            // Asked at an address of a family that the Service does not have: by its other one.
            let has_it = if self.ipv6 { check.on_ipv6 } else { check.on_ipv4 };
            check.local.of(self.ipv6 == has_it)
        };
        let status = if count > 0 && well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = json!({
            "service": { "namespace": *self.service.namespace, "name": *self.service.name },
            "localEndpoints": count,
            "serviceProxyHealthy": well,
        });
        let mut answer = respond(status, JSON, body.to_string());
        let headers = answer.headers_mut();
        headers.insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
        headers.insert("X-Load-Balancing-Endpoint-Weight", HeaderValue::from(count));
        answer
    }
}
