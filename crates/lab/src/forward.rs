//! `weft lab forward`: a loopback port of the machine that leads to a Service or a Pod.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    api::{
        core::v1::{Pod, Service, ServicePort},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{Api, Client, api::ListParams};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use weft_netns::Netns;

use crate::{Usage, place::LabDir};

/// Where a forwarded connection goes.
pub struct Forward {
    client: Client,
    namespace: String,
    target: Target,
    port: String,
    /// Network namespace of each node.
    nodes: HashMap<String, String>,
    turn: AtomicUsize,
}

enum Target {
    Service(String),
    Pod(String),
}

impl Forward {
    /// Looks `target` up: `svc/NAME`, `pod/NAME`, or a name that is a Service's or else a Pod's. `port` is a number or
    /// a name.
    pub async fn new(
        lab: &LabDir,
        client: Client,
        namespace: &str,
        target: &str,
        port: &str,
    ) -> Result<Forward> {
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let (service, pod) = match target.split_once('/') {
            Some(("svc" | "service" | "services", name)) => (Some(name), None),
            Some(("pod" | "po" | "pods", name)) => (None, Some(name)),
            Some((kind, _)) => {
                let what = "name a Service (svc/NAME) or a Pod (pod/NAME)";
                bail!(Usage(format!("cannot forward to a {kind}: {what}")))
            }
            None => (Some(target), Some(target)),
        };
        let found = match service {
            Some(name) => services.get_opt(name).await?.map(|_| Target::Service(name.to_owned())),
            None => None,
        };
        let target = match (found, pod) {
            (Some(found), _) => found,
            (None, Some(name)) => {
                let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
                let found = pods.get_opt(name).await?;
                found.ok_or_else(|| {
                    let kinds = if service.is_some() { "Service and no Pod" } else { "Pod" };
                    Usage(format!("namespace {namespace} has no {kinds} named {name}"))
                })?;
                Target::Pod(name.to_owned())
            }
            (None, None) => bail!(Usage(format!("namespace {namespace} has no Service {target}"))),
        };
        let nodes = lab.record()?.nodes.into_iter().map(|node| (node.name, node.netns)).collect();
        let (namespace, port) = (namespace.to_owned(), port.to_owned());
        let forward = Forward { client, namespace, target, port, nodes, turn: AtomicUsize::new(0) };
        // Whether it has the port is known now; whether something is ready there may be known later.
        match &forward.target {
            Target::Service(name) => drop(forward.service_port(name).await?),
            Target::Pod(name) => drop(forward.pod_port(name).await?),
        }
        Ok(forward)
    }

    /// Opens the loopback port; 0 takes any.
    pub async fn listen(&self, port: u16) -> Result<TcpListener> {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
    }

    /// Why a connection would lead nowhere now, if it would: what it leads to is looked up for each.
    pub async fn obstacle(&self) -> Option<String> {
        self.endpoint().await.err().map(|error| format!("{error:#}"))
    }

    /// Takes connections until the task is dropped. `told` is given what went wrong with one of them.
    pub async fn serve(self, listener: TcpListener, told: impl Fn(String)) -> Result<()> {
        let this = std::sync::Arc::new(self);
        let (failures, mut failed) = tokio::sync::mpsc::unbounded_channel();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    let (this, failures) = (this.clone(), failures.clone());
                    tokio::spawn(async move {
                        if let Err(error) = this.carry(stream).await {
                            // The receiver lives as long as this loop.
                            let _ = failures.send(format!("{error:#}"));
                        }
                    });
                }
                Some(failure) = failed.recv() => told(failure),
            }
        }
    }

    async fn carry(&self, mut from: TcpStream) -> Result<()> {
        let (node, address) = self.endpoint().await?;
        let netns = self.nodes.get(&node).with_context(|| format!("the lab has no node {node}"))?;
        let netns = Netns::open(netns)?;
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        // The socket is made on the Pod's node and used from here.
        let socket = netns
            .run(|| Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP)))??;
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
        let mut to = connecting.await.with_context(|| format!("connect to {address} from {node}"))?;
        // Either side may simply close; that is how connections end.
        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        Ok(())
    }

    /// A node and an address to connect to from there: another ready endpoint each time.
    async fn endpoint(&self) -> Result<(String, SocketAddr)> {
        match &self.target {
            Target::Pod(name) => self.pod(name).await,
            Target::Service(name) => self.service(name).await,
        }
    }

    async fn pod(&self, name: &str) -> Result<(String, SocketAddr)> {
        let (pod, port) = self.pod_port(name).await?;
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
        let ip = ip.with_context(|| format!("Pod {name} has no address yet"))?;
        let node = pod.spec.and_then(|spec| spec.node_name);
        Ok((node.with_context(|| format!("Pod {name} has no node yet"))?, SocketAddr::new(ip, port)))
    }

    /// A Pod and its port. A number need not be declared.
    async fn pod_port(&self, name: &str) -> Result<(Pod, u16)> {
        let pod = Api::<Pod>::namespaced(self.client.clone(), &self.namespace).get(name).await?;
        if let Ok(port) = self.port.parse() {
            return Ok((pod, port));
        }
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let named = containers
            .flat_map(|container| container.ports.iter().flatten())
            .find(|port| port.name.as_deref() == Some(self.port.as_str()));
        let named = named.ok_or_else(|| Usage(format!("Pod {name} has no port named {}", self.port)))?;
        let port = u16::try_from(named.container_port)?;
        Ok((pod, port))
    }

    /// The port of a Service that is meant.
    async fn service_port(&self, name: &str) -> Result<ServicePort> {
        let service = Api::<Service>::namespaced(self.client.clone(), &self.namespace).get(name).await?;
        let spec = service.spec.unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            let other = spec.external_name.unwrap_or_default();
            bail!(Usage(format!(
                "Service {name} is but another name for {other} (ExternalName): it has no Pods to forward to"
            )));
        }
        let ports = spec.ports.unwrap_or_default();
        let wanted = ports.iter().find(|port| {
            port.port.to_string() == self.port
                || port.name.as_deref() == Some(self.port.as_str())
                || matches!(&port.target_port, Some(IntOrString::String(name)) if *name == self.port)
        });
        let wanted = wanted.cloned().ok_or_else(|| {
            let known: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Usage(format!("Service {name} has no port {}; it has {known}", self.port))
        })?;
        Ok(wanted)
    }

    async fn service(&self, name: &str) -> Result<(String, SocketAddr)> {
        let wanted = self.service_port(name).await?;
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let label = format!("kubernetes.io/service-name={name}");
        let slices = slices.list(&ListParams::default().labels(&label)).await?;
        let mut ready = Vec::new();
        let mut others = 0;
        for slice in &slices {
            let same =
                |name: &Option<String>| name.as_deref().unwrap_or("") == wanted.name.as_deref().unwrap_or("");
            let port = slice.ports.iter().flatten().find(|port| same(&port.name)).and_then(|port| port.port);
            let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
            for endpoint in &slice.endpoints {
                let is_ready =
                    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
                let ip = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
                if let (true, Some(ip), Some(node)) = (is_ready, ip, &endpoint.node_name) {
                    ready.push((node.clone(), SocketAddr::new(ip, port)));
                } else {
                    others += 1;
                }
            }
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = turn.checked_rem(ready.len()).and_then(|index| ready.into_iter().nth(index));
        chosen.with_context(|| match others {
            0 => format!("Service {name} has no endpoints"),
            _ => format!("Service {name} has no ready endpoint on a node of the lab, {others} others"),
        })
    }
}
