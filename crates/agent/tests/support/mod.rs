//! A node in throw-away namespaces: real kernel, real data plane, and nothing left behind.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use weft_agent::{
    node::{Config, Node, OwnPort},
    store::Store,
};
use weft_cni::{Call, Verb};
use weft_datapath::probe::Routing;
use weft_model::{
    Protocol,
    plan::Settings,
    services::{HealthCheck, Service, ServiceKey, ServicePort, ServiceType, TrafficPolicy},
};
use weft_netns::{
    Netlink,
    netlink::{RouteSpec, VethSpec},
};
pub use weft_scratch::{Bpffs, Cgroup, Folder, Scratch};

pub const NODE: &str = "node-1";
/// Where the cluster's DNS is.
pub const DNS: &str = "10.96.0.53";

/// The machine that an agent runs on.
pub struct Machine {
    pub cgroup: Cgroup,
    pub netns: Scratch,
    pub bpffs: Bpffs,
    pub state: Folder,
    fabric: Scratch,
}

impl Machine {
    /// A node with an uplink that leads to an empty fabric.
    pub fn new() -> Self {
        let (netns, fabric) = (Scratch::new("t-node-"), Scratch::new("t-fab-"));
        let mut outside = Netlink::open_in(&fabric.0).unwrap();
        outside
            .add_veth(&VethSpec {
                name: "node",
                peer_name: "eth0",
                peer_netns: Some(&netns.0),
                mac: None,
                peer_mac: None,
                mtu: None,
            })
            .unwrap();
        let far = outside.link("node").unwrap().index;
        outside.set_up(far).unwrap();
        let mut netlink = Netlink::open_in(&netns.0).unwrap();
        for name in ["lo", "eth0"] {
            let index = netlink.link(name).unwrap().index;
            netlink.set_up(index).unwrap();
        }
        let uplink = netlink.link("eth0").unwrap().index;
        netlink.add_address(uplink, "192.168.1.2".parse().unwrap(), 24).unwrap();
        netlink.add_address(uplink, "fd00:192:168:1::2".parse().unwrap(), 64).unwrap();
        netlink.set_route(&RouteSpec::default_via("192.168.1.1".parse().unwrap(), uplink)).unwrap();
        Self { cgroup: Cgroup::new(), netns, fabric, bpffs: Bpffs::new(), state: weft_scratch::folder() }
    }

    /// Where the data plane is pinned.
    pub fn pins(&self) -> PathBuf {
        self.bpffs.path().join("weft")
    }

    pub fn config(&self) -> Config {
        Config {
            name: NODE.into(),
            bpffs: self.pins(),
            uplink: Some("eth0".to_owned()),
            vxlan_port: 8472,
            cgroup: None,
            direct_return: false,
            open_cluster_ips: false,
            any_hardware: false,
            dns_addresses: vec![DNS.parse().unwrap()],
            own_ports: vec![OwnPort { port: 10256, protocol: Protocol::Tcp, what: "health checks" }],
            external_ips: true,
            api_servers: Vec::new(),
            routing: Routing::Overlay,
            plan: Settings { service_ranges: vec!["10.96.0.0/16".parse().unwrap()], ..Settings::default() },
            queue_dir: self.state.path().join("cni-queue"),
        }
    }

    /// An agent's node that has not heard of the API server yet.
    pub fn start(&self) -> Agent<'_> {
        let store = Store::open(self.state.path()).unwrap();
        let (told, health_checks) = mpsc::unbounded_channel();
        let opened = self.netns.0.run(|| Node::open(self.config(), store, Arc::new(|_| {}), told).unwrap());
        Agent { machine: self, node: opened.unwrap(), health_checks }
    }

    /// The same, after it has heard that there is only this node, with these ranges.
    pub fn start_with(&self, ranges: &[&str]) -> Agent<'_> {
        let mut agent = self.start();
        agent.hear(&[node(NODE, 1, ranges)]);
        agent
    }

    /// What the kernel has beside what every node has: interfaces of containers.
    pub fn pod_interfaces(&self) -> Vec<String> {
        let mut netlink = Netlink::open_in(&self.netns.0).unwrap();
        let names = netlink.links().unwrap().into_iter().map(|link| link.name);
        names.filter(|name| name.starts_with("weft") && name != "weft0" && name.len() == 15).collect()
    }

    /// Waits until the kernel has this many containers' interfaces: it lets go of one in its own time.
    #[track_caller]
    pub fn has_pods(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let there = self.pod_interfaces();
            if there.len() == count {
                return;
            }
            assert!(Instant::now() < deadline, "waited for {count} interfaces of Pods: {there:?}");
            thread::yield_now();
        }
    }

    pub fn records(&self) -> usize {
        fs::read_dir(self.state.path().join("attachments")).unwrap().count()
    }
}

/// An agent's node, without the agent's sockets and watches.
pub struct Agent<'a> {
    machine: &'a Machine,
    node: Node,
    pub health_checks: mpsc::UnboundedReceiver<Vec<(ServiceKey, Option<HealthCheck>)>>,
}

impl Agent<'_> {
    pub fn on<T: Send>(&mut self, task: impl FnOnce(&mut Node) -> T + Send) -> T {
        let node = &mut self.node;
        self.machine.netns.0.run(|| task(node)).unwrap()
    }

    pub fn hear(&mut self, nodes: &[weft_model::Node]) {
        self.on(|node| node.set_nodes(nodes.to_vec()));
    }

    pub fn cni(&mut self, call: &Call) -> Value {
        let answer = self.on(|node| node.cni(call)).output;
        if answer.is_empty() { Value::Null } else { serde_json::from_str(&answer).unwrap() }
    }

    #[track_caller]
    pub fn add(&mut self, container: &str, pod: &Scratch) -> Value {
        let result = self.cni(&call(Verb::Add, container, pod.path()));
        assert!(result.get("code").is_none(), "{result}");
        result
    }

    #[track_caller]
    pub fn succeeds(&mut self, call: &Call) {
        let answer = self.cni(call);
        assert!(answer.is_null(), "{answer}");
    }

    #[track_caller]
    pub fn fails(&mut self, call: &Call, code: u32) -> String {
        let answer = self.cni(call);
        assert_eq!(answer["code"], code, "{answer}");
        format!("{}: {}", answer["msg"].as_str().unwrap(), answer["details"].as_str().unwrap())
    }

    /// Free addresses, by range.
    pub fn free(&mut self) -> Vec<u64> {
        self.on(|node| node.status().pod_ranges.iter().map(|range| range.free).collect())
    }
}

pub fn node(name: &str, created: i64, ranges: &[&str]) -> weft_model::Node {
    weft_model::Node {
        name: name.into(),
        uid: format!("uid-of-{name}"),
        created,
        addresses: if name == NODE {
            vec!["192.168.1.2".parse().unwrap(), "fd00:192:168:1::2".parse().unwrap()]
        } else {
            vec![format!("192.168.1.{}", 100 + created).parse().unwrap()]
        },
        pod_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ready: true,
        zone: None,
        leaving: false,
        excluded: false,
    }
}

pub fn node_port_service() -> Service {
    Service {
        key: ServiceKey::new("shop", "web"),
        uid: "u".into(),
        kind: ServiceType::LoadBalancer,
        not_ours: false,
        cluster_ips: ["10.96.0.10".parse().unwrap()].into(),
        headless: false,
        external_name: None,
        ports: [ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: Some(30080) }]
            .into(),
        external_ips: [].into(),
        ingress: [].into(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Local,
        affinity_seconds: None,
        source_ranges: None,
        health_check_port: Some(32000),
    }
}

pub fn call(verb: Verb, container: &str, netns: &Path) -> Call {
    Call {
        verb,
        container_id: container.to_owned(),
        netns: netns.display().to_string(),
        ifname: "eth0".to_owned(),
        args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=pod-{container}"),
        config: config(json!({})),
    }
}

/// A configuration with these keys beside the usual ones.
pub fn config(keys: Value) -> String {
    let mut config = json!({ "cniVersion": "1.1.0", "name": "weft", "type": "weft-cni" });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    config.to_string()
}

pub fn with(call: Call, keys: Value) -> Call {
    Call { config: config(keys), ..call }
}

pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap();
    let mut addresses: Vec<IpAddr> = ips
        .iter()
        .map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap())
        .collect();
    addresses.sort();
    addresses
}
