//! deploy/weft.yaml as it is, on a node with nothing else on it: no CNI plugins, no kube-proxy, no DNS Service, and an API server
//! that is reached only at its real address, which the node's kubelet knows and nothing else tells.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    thread::{self, JoinHandle},
};

use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount,
    MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use weft_apiserver::{ApiServer, Config};
use weft_netns::{Netlink, netlink::VethSpec};
use weft_scratch::Scratch;
use weft_tests::{run, wait_for};

use super::runtime::{Asked, Home, IMAGE, PODS, Runtime, make_image};

const NODE: &str = "node-1";
const ADDRESS: &str = "172.20.0.11";
/// Where the API server is; on the node itself nothing listens.
const API: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);
const SERVICE: &str = "10.96.0.1";
const DNS: &str = "10.96.0.10";

/// The API server, in a namespace of its own beside the node's, and for the test on the machine's loopback.
struct Cluster {
    api: ApiServer,
    node: Scratch,
    _fabric: Scratch,
    kubeconfig: PathBuf,
    folder: weft_scratch::Folder,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

impl Cluster {
    fn start() -> Cluster {
        let (node, fabric) = (Scratch::new("t-node-"), Scratch::new("t-fab-"));
        let mut outside = Netlink::open_in(&fabric.0).unwrap();
        let veth = VethSpec {
            name: "node",
            peer_name: "eth0",
            peer_netns: Some(&node.0),
            mac: None,
            peer_mac: None,
            mtu: None,
        };
        outside.add_veth(&veth).unwrap();
        let mut inside = Netlink::open_in(&node.0).unwrap();
        for (netlink, name, address) in
            [(&mut outside, "node", API.into()), (&mut inside, "eth0", ADDRESS.parse().unwrap())]
        {
            let index = netlink.link(name).unwrap().index;
            netlink.add_address(index, address, 24).unwrap();
            netlink.set_up(index).unwrap();
            let lo = netlink.link("lo").unwrap().index;
            netlink.set_up(lo).unwrap();
        }
        let at = SocketAddr::new(API.into(), 6443);
        let addresses = [API.into(), SERVICE.parse().unwrap(), Ipv4Addr::LOCALHOST.into()];
        let config = Config { addresses: addresses.to_vec(), advertise: Some(at), ..Config::default() };
        let api = ApiServer::new(config).unwrap();
        let real = fabric.0.run(|| TcpListener::bind(at).unwrap()).unwrap();
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let folder = weft_scratch::folder();
        let kubeconfig = folder.path().join("kubeconfig");
        let url = format!("https://{}", own.local_addr().unwrap());
        fs::write(&kubeconfig, api.kubeconfig(&url, "test")).unwrap();
        let (stop, drain) = watch::channel(false);
        let (one, other, other_drain) = (api.clone(), api.clone(), drain.clone());
        let serving = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let both = tokio::join!(one.serve(real, drain), other.serve(own, other_drain));
                both.0.unwrap();
                both.1.unwrap();
            });
        });
        Cluster { api, node, _fabric: fabric, kubeconfig, folder, stop, serving: Some(serving) }
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).env("HOME", self.folder.path());
        run(&mut kubectl).succeeds()
    }

    fn apply(&self, object: &Value) {
        let file = self.folder.path().join("object.json");
        fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&["apply", "--validate=false", "-f", file.to_str().unwrap()]);
    }

    fn get(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"], arguments].concat())).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// The folders of a node that was just installed: empty, and its own.
fn bare_node() -> String {
    let empty = ["/opt", "/run/weft", "/run/netns", "/var/lib/kubelet"];
    let mut script = String::from("mount -t tmpfs weft-test /var/lib\n mkdir -p /var/lib/kubelet\n");
    for folder in empty {
        script += &format!(
            "umount -R -l {folder} 2>/dev/null || true; mkdir -p {folder}; mount -t tmpfs weft-test {folder}\n"
        );
    }
    script
        + "mkdir /opt/etc /opt/etc/upper /opt/etc/work
           mount -t overlay -o lowerdir=/etc,upperdir=/opt/etc/upper,workdir=/opt/etc/work weft-test /etc
           rm -rf /etc/cni /etc/kubernetes; mkdir -p /etc/cni/net.d /etc/kubernetes
           mount --make-shared /run/netns
           mount -t sysfs none /sys; mount -t bpf none /sys/fs/bpf; mkdir -p /sys/fs/cgroup\n"
}

/// What a kubelet makes of a DaemonSet's template: its Pod, and its one container.
fn kubelet(runtime: &Runtime, cluster: &Cluster, template: &Value) -> (PodSandboxConfig, ContainerConfig) {
    let spec = &template["spec"];
    let container = &spec["containers"][0];
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let mode = |on: &Value| if *on == true { NamespaceMode::Node } else { NamespaceMode::Pod } as i32;
    let namespaces = NamespaceOption {
        network: mode(&spec["hostNetwork"]),
        pid: if spec["hostPID"] == true { NamespaceMode::Node } else { NamespaceMode::Container } as i32,
        ipc: NamespaceMode::Pod as i32,
        ..NamespaceOption::default()
    };
    let privileged = container["securityContext"]["privileged"] == true;
    let mut envs = vec![
        KeyValue { key: "KUBERNETES_SERVICE_HOST".to_owned(), value: SERVICE.to_owned() },
        KeyValue { key: "KUBERNETES_SERVICE_PORT".to_owned(), value: "443".to_owned() },
    ];
    for env in container["env"].as_array().unwrap() {
        let field = &env["valueFrom"]["fieldRef"]["fieldPath"];
        let value = if *field == "spec.nodeName" { NODE } else { env["value"].as_str().unwrap() };
        envs.push(KeyValue { key: env["name"].as_str().unwrap().to_owned(), value: value.to_owned() });
    }
    let mut mounts = Vec::new();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let volumes = spec["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        let path = volume["hostPath"]["path"].as_str().unwrap();
        match volume["hostPath"]["type"].as_str().unwrap() {
            "DirectoryOrCreate" => drop(runtime.inside(&["mkdir", "-p", path])),
            _ => drop(runtime.inside(&["test", "-d", path])),
        }
        let propagation = match mount["mountPropagation"].as_str() {
            Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
            _ => MountPropagation::PropagationPrivate,
        };
        mounts.push(Mount {
            container_path: mount["mountPath"].as_str().unwrap().to_owned(),
            host_path: path.to_owned(),
            readonly: mount["readOnly"] == true,
            propagation: propagation as i32,
            ..Mount::default()
        });
    }
    let account = cluster.folder.path().join("account");
    fs::create_dir_all(&account).unwrap();
    let name = spec["serviceAccountName"].as_str().unwrap();
    fs::write(account.join("token"), cluster.kubectl(&["create", "token", "-n", "kube-system", name]).trim())
        .unwrap();
    fs::write(account.join("ca.crt"), cluster.api.ca_pem()).unwrap();
    fs::write(account.join("namespace"), "kube-system").unwrap();
    mounts.push(Mount {
        container_path: "/var/run/secrets/kubernetes.io/serviceaccount".to_owned(),
        host_path: account.display().to_string(),
        readonly: true,
        ..Mount::default()
    });
    let sandbox = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "weft-abcde".to_owned(),
            uid: "uid-weft".to_owned(),
            namespace: "kube-system".to_owned(),
            attempt: 0,
        }),
        log_directory: runtime.folder().join("logs").display().to_string(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: PODS.to_owned(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces.clone()),
                privileged,
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    };
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "agent".to_owned(), attempt: 0 }),
        image: Some(ImageSpec {
            image: container["image"].as_str().unwrap().to_owned(),
            ..ImageSpec::default()
        }),
        command: texts(&container["command"]),
        args: texts(&container["args"]),
        envs,
        mounts,
        log_path: "agent.log".to_owned(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                privileged,
                namespace_options: Some(namespaces),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    };
    (sandbox, config)
}

/// A kubelet's own file: the server and its authority are right, and the credentials are nobody's.
fn kubelet_conf(cluster: &Cluster) -> String {
    cluster.api.kubeconfig(&format!("https://{API}:6443"), "test").replace(cluster.api.token(), "nobody")
}

/// B1, B2, B4, B5, B13, B15: the shipped manifest brings a node up that has nothing.
#[test]
fn the_shipped_manifest_brings_up_a_node_that_has_nothing() {
    let cluster = Cluster::start();
    let folder = weft_scratch::folder();
    let home = Home {
        netns: Some(&cluster.node.0),
        conf: "/etc/cni/net.d".into(),
        bin: "/opt/cni/bin".into(),
        mounts: bare_node(),
    };
    let mut runtime = Runtime::begin(home, folder);
    fs::write(runtime.path("/etc/kubernetes/kubelet.conf"), kubelet_conf(&cluster)).unwrap();
    runtime.restart();
    make_image(runtime.folder(), IMAGE, &["/bin/busybox"], &["/bin/busybox", "sleep", "1000000"]);
    runtime.import("image.tar");

    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
        "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"] },
    });
    cluster.apply(&node);
    let status = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": ADDRESS }] } });
    cluster.kubectl(&["patch", "node", NODE, "--subresource=status", "-p", &status.to_string()]);
    // As every API server since 1.33 makes it.
    cluster.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": ["10.96.0.0/16"] },
    }));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/weft.yaml");
    cluster.kubectl(&["apply", "-f", manifest]);
    let template = cluster.get(&["daemonset", "-n", "kube-system", "weft"])["spec"]["template"].clone();
    let image = template["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    let weft = weft_tests::weft_path().display().to_string();
    let plugin = weft_tests::weft_path().with_file_name("weft-cni").display().to_string();
    let programs = [format!("{weft}=/weft"), format!("{plugin}=/weft-cni")];
    let image = if image.contains('/') { image } else { format!("docker.io/library/{image}") };
    make_image(runtime.folder(), &image, &[&programs[0], &programs[1]], &["/weft"]);
    runtime.import("image.tar");

    let (sandbox, container) = kubelet(&runtime, &cluster, &template);
    let weft = runtime.run_sandbox(sandbox.clone()).unwrap();
    let agent = runtime.run_container(&weft, container, sandbox);
    let log = runtime.folder().join("logs/agent.log");
    let ready = || {
        let network = cluster.get(&["node", NODE])["status"]["conditions"].clone();
        let mut all = network.as_array().cloned().unwrap_or_default().into_iter();
        all.any(|one| one["type"] == "NetworkUnavailable" && one["status"] == "False")
    };
    wait_for("the node to have a network", || {
        if ready() { Ok(()) } else { Err(fs::read_to_string(&log).unwrap_or_default()) }
    });
    let said = fs::read_to_string(&log).unwrap();
    assert!(!said.contains("is forbidden"), "the manifest's roles allow what the agent does: {said}");
    assert!(runtime.path("/opt/cni/bin/loopback").symlink_metadata().is_ok(), "beside the plugin");
    let dns = || cluster.get(&["service", "-n", "kube-system", "kube-dns"])["spec"]["clusterIP"].clone();
    assert_eq!(dns(), DNS, "made, since there was none");

    // Pods that reach each other, and names.
    let run_pod = |name: &str, command: &[&str]| {
        let asked = Asked::named(name);
        cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" },
            "spec": { "nodeName": NODE, "containers": [{ "name": "c", "image": IMAGE }] },
        }));
        let config = PodSandboxConfig {
            dns_config: Some(DnsConfig {
                servers: vec![DNS.to_owned()],
                searches: ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
                    .map(str::to_owned)
                    .to_vec(),
                options: vec!["ndots:5".to_owned()],
            }),
            ..asked.config()
        };
        let sandbox = wait_for("a sandbox", || runtime.run_sandbox(config.clone()));
        let address = runtime.addresses(&sandbox)[0];
        let status = json!({ "status": {
            "phase": "Running", "hostIP": ADDRESS, "podIP": address, "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        cluster.kubectl(&["patch", "pod", name, "--subresource=status", "-p", &status.to_string()]);
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(ImageSpec {
                image: IMAGE.to_owned(),
                annotations: HashMap::new(),
                ..ImageSpec::default()
            }),
            command: command.iter().map(ToString::to_string).collect(),
            linux: Some(LinuxContainerConfig::default()),
            ..ContainerConfig::default()
        };
        let id = runtime.run_container(&sandbox, container, config);
        (id, address)
    };
    let page =
        "/bin/busybox mkdir -p /www; echo served > /www/index.html; exec /bin/busybox httpd -f -p 80 -h /www";
    let (_, server) = run_pod("server", &["/bin/busybox", "sh", "-c", page]);
    let (client, _) = run_pod("client", &["/bin/busybox", "sleep", "1000000"]);
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "ports": [{ "port": 80 }] },
    }));
    cluster.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "", "port": 80, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [server.to_string()], "nodeName": NODE }],
    }));
    let web = cluster.get(&["service", "web"])["spec"]["clusterIP"].as_str().unwrap().to_owned();
    for address in [server.to_string(), web.clone()] {
        wait_for(&format!("{address} to be reached"), || {
            let answer = runtime
                .try_exec(&client, &["/bin/busybox", "wget", "-qO-", &format!("http://{address}/")])?;
            if answer.trim() == "served" { Ok(()) } else { Err(answer) }
        });
    }
    for (name, address) in
        [("web.default.svc.cluster.local", web.as_str()), ("kubernetes.default.svc.cluster.local", SERVICE)]
    {
        wait_for(&format!("{name} to be found"), || {
            let answer = runtime.try_exec(&client, &["/bin/busybox", "nslookup", name])?;
            if answer.contains(address) { Ok(()) } else { Err(answer) }
        });
    }

    // The Pod of the agent has what asking the API server takes (B13).
    let report = runtime.exec(&agent, &["/weft", "verify", "-o", "json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["holds"], true, "{report}");
    let endpoints = report["endpoints"].as_array().unwrap();
    let names: Vec<&str> = endpoints.iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, [NODE, "default/client", "default/server"], "{report}");
}
