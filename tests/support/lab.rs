//! A lab for one test.

use std::{fs, net::IpAddr, path::PathBuf, process::Command};

use nix::unistd::Pid;
use serde_json::Value;
use weft_netns::{Netlink, Netns, random_name};
use weft_scratch::Folder;

use crate::{
    Output, Place, assert_nothing_left,
    binaries::{run, weft, weft_path},
    wait_for,
};

/// A running lab. Dropping it takes it down.
pub struct Lab {
    name: String,
}

/// What a lab is to be.
pub struct LabBuilder {
    name: String,
    arguments: Vec<String>,
    manifests: Vec<String>,
}

impl Lab {
    /// A lab of this many nodes, to be described further.
    pub fn with_nodes(nodes: u8) -> LabBuilder {
        LabBuilder {
            name: Lab::random_name(),
            arguments: vec!["--nodes".into(), nodes.to_string()],
            manifests: Vec::new(),
        }
    }

    /// A name that no other test has. The lab of that name goes with this process.
    pub fn random_name() -> String {
        let name = random_name("t");
        weft_scratch::lab(&name, weft_path());
        name
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from("/run/weft/labs").join(&self.name)
    }

    /// Runs `weft lab VERB --name THIS …`.
    pub fn weft_lab(&self, verb: &str, arguments: &[&str]) -> Output {
        weft(&[&["lab", verb, "--name", &self.name], arguments].concat())
    }

    /// Runs kubectl with nothing but `--kubeconfig`.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut kubectl = Command::new("kubectl");
        let home = self.folder().join("kubectl");
        kubectl.arg("--kubeconfig").arg(self.folder().join("kubeconfig")).args(arguments);
        // The cache of discovery belongs to this lab alone.
        run(kubectl.env("HOME", home).env_remove("KUBECONFIG"))
    }

    /// Applies a manifest.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let file = ManifestFile::new(manifest);
        self.weft_lab("apply", &["-f", file.path().to_str().unwrap()]).succeeds();
    }

    /// An object as JSON.
    #[track_caller]
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat()).succeeds();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A Pod, by name in the default namespace or by NAMESPACE/NAME. It must run.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Place {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let path = self.folder().join("by-name").join(namespace).join(format!("{name}.json"));
        let record = wait_for(&format!("Pod {namespace}/{name} to run"), || {
            fs::read_to_string(&path).map_err(|error| error.to_string())
        });
        let record: Value = serde_json::from_str(&record).unwrap();
        let netns = record["netns"].as_str().unwrap();
        let exec = self.exec(&["-n", namespace, name]);
        Place::new(format!("Pod {namespace}/{name}"), exec, netns, addresses(&record))
    }

    /// A node.
    #[track_caller]
    pub fn node(&self, name: &str) -> Place {
        let record = self.record();
        let nodes = record["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no node {name}"));
        let exec = self.exec(&[&format!("node/{name}")]);
        Place::new(format!("node {name}"), exec, node["netns"].as_str().unwrap(), addresses(node))
    }

    /// The host outside the cluster.
    pub fn outside(&self) -> Place {
        let outside = &self.record()["outside"];
        let netns = outside["netns"].as_str().unwrap();
        Place::new("the host outside".into(), self.exec(&["outside"]), netns, addresses(outside))
    }

    /// `weft status -o json`, whether all is fine or not.
    pub fn status(&self) -> String {
        weft(&["status", "-o", "json", "--name", &self.name]).stdout
    }

    /// What each kernel has counted, a line a node.
    fn counters(&self) -> String {
        let status: Value = serde_json::from_str(&self.status()).unwrap_or_default();
        let line = |node: &Value| format!("{} {}", node["node"], node["counters"]);
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn exec(&self, target: &[&str]) -> Vec<String> {
        [&["--name", &self.name], target].concat().into_iter().map(str::to_owned).collect()
    }

    /// What the kernels hold, as `weft service list -A -o json` has it.
    #[track_caller]
    pub fn services(&self) -> Value {
        let text = weft(&["service", "list", "-A", "-o", "json", "--name", &self.name]).succeeds();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The first address of a kind of a Service: `clusterIP`, or a LoadBalancer's, waited for.
    #[track_caller]
    pub fn cluster_ip(&self, service: &str) -> IpAddr {
        self.get(&["service", service])["spec"]["clusterIP"].as_str().unwrap().parse().unwrap()
    }

    /// The addresses in a Service's status, once there are any.
    #[track_caller]
    pub fn load_balancer(&self, service: &str) -> Vec<IpAddr> {
        wait_for(&format!("Service {service} to have an address"), || {
            let service = self.get(&["service", service]);
            let ingress =
                service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
            let addresses: Vec<IpAddr> =
                ingress.iter().filter_map(|one| one["ip"].as_str()?.parse().ok()).collect();
            if addresses.is_empty() { Err(service.to_string()) } else { Ok(addresses) }
        })
    }

    /// The node port of a Service's first port.
    #[track_caller]
    pub fn node_port(&self, service: &str) -> u16 {
        let port = self.get(&["service", service])["spec"]["ports"][0]["nodePort"].as_u64();
        u16::try_from(port.unwrap_or_else(|| panic!("{service} has no node port"))).unwrap()
    }

    /// Where the runtime of a node finds plugins (`bin`) and their configuration (`net.d`).
    pub fn cni(&self, node: &str) -> PathBuf {
        self.folder().join("nodes").join(node).join("cni")
    }

    /// The network configuration of a node, as its agent wrote it.
    pub fn cni_config(&self, node: &str) -> Value {
        let path = self.cni(node).join("net.d/05-weft.conflist");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// From now on the node's kubelet, which collects garbage once a minute, leaves attachments that are not its own.
    pub fn collects_no_garbage(&self, node: &str) {
        let mut config = self.cni_config(node);
        config["disableGC"] = true.into();
        fs::write(self.cni(node).join("net.d/01-no-gc.conflist"), config.to_string()).unwrap();
    }

    /// Takes a node's link down.
    pub fn cut_off(&self, node: &str) {
        self.on_fabric(node, |netlink, index| netlink.set_down(index).unwrap());
    }

    /// Brings a node's link up again.
    pub fn join(&self, node: &str) {
        self.on_fabric(node, |netlink, index| netlink.set_up(index).unwrap());
    }

    fn on_fabric(&self, node: &str, change: impl FnOnce(&mut Netlink, u32)) {
        let fabric = Netns::open(&format!("weft-{}-fabric", self.name)).unwrap();
        let mut netlink = Netlink::open_in(&fabric).unwrap();
        let index = netlink.link(node).unwrap().index;
        change(&mut netlink, index);
    }

    /// The process of a node's agent.
    pub fn agent(&self, node: &str) -> Pid {
        let path = self.folder().join("nodes").join(node).join("agent.pid");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        Pid::from_raw(text.trim().parse().unwrap())
    }

    /// `lab.json`.
    pub fn record(&self) -> Value {
        let path = self.folder().join("lab.json");
        serde_json::from_str(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")))
            .unwrap()
    }

    /// The lab process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.record()["pid"].as_i64().unwrap()).unwrap()
    }
}

impl LabBuilder {
    /// With this manifest, as YAML.
    pub fn running(mut self, manifest: &str) -> LabBuilder {
        self.manifests.push(manifest.to_owned());
        self
    }

    /// The name that it will have.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// With more options of `weft lab up`.
    pub fn option(mut self, name: &str, value: &str) -> LabBuilder {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Brings it up and waits until everything is ready.
    #[track_caller]
    pub fn up(self) -> Lab {
        let name = self.name.clone();
        let lab = Lab { name };
        self.try_up().succeeds();
        lab
    }

    /// Tries to bring it up.
    pub fn try_up(self) -> Output {
        let files: Vec<_> = self.manifests.iter().map(|manifest| ManifestFile::new(manifest)).collect();
        let mut command = Command::new(weft_path());
        command.args(["lab", "up", "--name", &self.name]).args(&self.arguments);
        for file in &files {
            command.arg("-f").arg(file.path());
        }
        run(&mut command)
    }
}

/// A file of this manifest.
pub struct ManifestFile {
    folder: Folder,
}

impl ManifestFile {
    /// Writes it.
    pub fn new(manifest: &str) -> ManifestFile {
        let file = ManifestFile { folder: weft_scratch::folder() };
        fs::write(file.path(), manifest).unwrap();
        file
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("manifest.yaml")
    }
}

fn addresses(record: &Value) -> Vec<IpAddr> {
    record["addresses"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().parse().unwrap()).collect()
}

impl Drop for Lab {
    fn drop(&mut self) {
        let folder = self.folder();
        if !folder.exists() {
            return;
        }
        if std::thread::panicking() {
            let tail = |name: &str| {
                let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
            };
            eprintln!("--- the end of the log of lab {} ---\n{}", self.name, tail("log"));
            eprintln!("--- what the kernels have counted ---\n{}", self.counters());
            eprintln!("--- the end of the log of node-1's agent ---\n{}", tail("nodes/node-1/agent.log"));
            if std::env::var_os("WEFT_KEEP").is_some() {
                eprintln!("--- kept: 'weft lab down --name {}' takes it down ---", self.name);
                return;
            }
            // One panic is enough.
            let _ = self.weft_lab("down", &[]);
            return;
        }
        self.weft_lab("down", &[]).succeeds();
        assert_nothing_left(&self.name);
    }
}
