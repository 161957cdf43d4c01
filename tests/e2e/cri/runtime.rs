//! A containerd of a node's own, and a client of its CRI.
//!
//! It lives in a mount namespace of its own, in which the CNI folders of a lab's node stand in the conventional places, and runs an
//! image that is made here. A sandbox's namespace is a file in there; the plugin is called by way of a script that names it as
//! the agent, which is outside, sees it.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec,
    LinuxContainerConfig, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata,
    PodSandboxStatusRequest, PortMapping, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopPodSandboxRequest, VersionRequest,
    runtime_service_client::RuntimeServiceClient,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tokio::{net::UnixStream, runtime, task::JoinSet};
use tonic::transport::{Channel, Endpoint, Uri};
use weft_netns::Netns;
use weft_tests::{Lab, run, wait_until};

/// The image that is made here.
pub const IMAGE: &str = "image.test/box:1";
/// Where Pods are among the cgroups.
pub const PODS: &str = "/pods";

/// A Pod as a kubelet asks for it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub name: String,
    /// The node's port and the Pod's.
    pub host_port: Option<(i32, i32)>,
    /// 10 Mb/s towards it.
    pub bandwidth: bool,
}

/// Where a containerd lives.
pub struct Home<'a> {
    /// Its network namespace; the machine's without one.
    pub netns: Option<&'a Netns>,
    /// Where it looks for CNI configurations and plugins.
    pub conf: PathBuf,
    pub bin: PathBuf,
    /// What is mounted before it starts, in its own mount namespace, as a script.
    pub mounts: String,
}

pub struct Runtime {
    /// Holds the namespaces.
    holder: Child,
    containerd: Option<Child>,
    folder: weft_scratch::Folder,
    /// Everything in there runs in it, and ends with it.
    cgroup: weft_scratch::Cgroup,
    runtime: runtime::Runtime,
}

impl Asked {
    pub fn named(name: &str) -> Asked {
        Asked { name: name.to_owned(), ..Asked::default() }
    }

    pub fn config(&self) -> PodSandboxConfig {
        let annotations = [("kubernetes.io/ingress-bandwidth", "10M")];
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: format!("uid-{}", self.name),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: self.name.clone(),
            port_mappings: (self.host_port.iter())
                .map(|(host_port, container_port)| PortMapping {
                    host_port: *host_port,
                    container_port: *container_port,
                    ..PortMapping::default()
                })
                .collect(),
            annotations: (annotations.iter().filter(|_| self.bandwidth))
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: PODS.to_owned(), ..Default::default() }),
            ..PodSandboxConfig::default()
        }
    }
}

impl Runtime {
    /// A lab node's runtime.
    pub fn start(lab: &Lab, node: &str) -> Runtime {
        Runtime::of_lab(lab, node, &[])
    }

    /// In the chain after this network there is a plugin that refuses every ADD.
    pub fn start_with_a_plugin_that_fails(lab: &Lab, node: &str) -> Runtime {
        Runtime::of_lab(lab, node, &["fails"])
    }

    fn of_lab(lab: &Lab, node: &str, chained: &[&str]) -> Runtime {
        let folder = weft_scratch::folder();
        let (conf, bin) = (folder.path().join("net.d"), folder.path().join("bin"));
        fs::create_dir_all(&conf).unwrap();
        fs::create_dir_all(&bin).unwrap();
        lab.collects_no_garbage(node);
        let mut list = lab.cni_config(node);
        list["plugins"].as_array_mut().unwrap().extend(chained.iter().map(|kind| json!({ "type": kind })));
        fs::write(conf.join("05-weft.conflist"), list.to_string()).unwrap();
        let mut this = Runtime::begin(Home { netns: None, conf, bin, mounts: String::new() }, folder);
        this.write_plugins(&lab.cni(node).join("bin"));
        this.restart();
        make_image(this.folder.path(), IMAGE, &["/bin/busybox"], &["/bin/busybox", "sleep", "1000000"]);
        this.import("image.tar");
        this
    }

    /// The namespaces; no containerd runs in them yet.
    pub fn begin(home: Home<'_>, folder: weft_scratch::Folder) -> Runtime {
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_cgroup = true
disable_tcp_service = true
netns_mounts_under_state_dir = {in_state}
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{conf}"
bin_dir = "{bin}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
            root = at("root"),
            state = at("state"),
            socket = at("socket"),
            in_state = home.netns.is_none(),
            conf = home.conf.display(),
            bin = home.bin.display(),
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let cgroup = weft_scratch::Cgroup::new();
        let script = format!(
            "set -e
             {}
             mount -t cgroup2 none /sys/fs/cgroup
             touch {}
             exec sleep infinity",
            home.mounts,
            at("ready")
        );
        let mut holder = Command::new("sh");
        let enter = format!(
            "echo $$ > {}/cgroup.procs; exec unshare --cgroup --mount --propagation private sh -c \"$1\"",
            cgroup.path().display()
        );
        holder.args(["-c", &enter, "sh", &script]);
        if let Some(netns) = home.netns {
            netns.enter_child(&mut holder).unwrap();
        }
        let holder = holder.stdin(Stdio::null()).spawn().expect("unshare: util-linux");
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let this = Runtime { holder, containerd: None, folder, cgroup, runtime };
        wait_until("the namespaces", || this.folder.path().join("ready").exists());
        this
    }

    /// Takes an image into containerd from a file in the folder.
    pub fn import(&self, file: &str) {
        let image = self.folder.path().join(file).display().to_string();
        self.inside(&["ctr", "-a", &self.socket(), "-n", "k8s.io", "images", "import", &image]);
    }

    /// Where a path of its own is to be found from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.holder.id()))
    }

    /// The folder that goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `weft-cni`, which is called with the namespace as others see it; `loopback`, as the agent installed it; and one that fails.
    fn write_plugins(&self, installed: &Path) {
        let root = format!("/proc/{}/root", self.holder.id());
        let script = |name: &str, text: String| {
            let path = self.folder.path().join("bin").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let real = installed.join("weft-cni").display().to_string();
        script(
            "weft-cni",
            format!(
                "#!/bin/sh\n[ -z \"$CNI_NETNS\" ] || export CNI_NETNS=\"{root}$CNI_NETNS\"\nexec {real}\n"
            ),
        );
        assert!(installed.join("loopback").exists(), "the agent installs it beside its plugin");
        std::os::unix::fs::symlink(installed.join("loopback"), self.folder.path().join("bin/loopback"))
            .unwrap();
        let refusal = r#"{"cniVersion":"1.0.0","code":999,"msg":"not today"}"#;
        script(
            "fails",
            format!(
                "#!/bin/sh\ncat >/dev/null\n[ \"$CNI_COMMAND\" != ADD ] || {{ echo '{refusal}'; exit 1; }}\n"
            ),
        );
    }

    fn socket(&self) -> String {
        self.folder.path().join("socket").display().to_string()
    }

    /// Runs what arguments follow in its namespaces and its cgroup.
    fn enter(&self) -> Command {
        let mut command = Command::new("sh");
        let enter = format!(
            "echo $$ > {}/cgroup.procs; exec nsenter --target {} --mount --cgroup --net \"$@\"",
            self.cgroup.path().display(),
            self.holder.id()
        );
        command.args(["-c", &enter, "sh"]);
        command
    }

    /// Runs a program in there; what it writes.
    pub fn inside(&self, arguments: &[&str]) -> String {
        run(self.enter().args(arguments)).succeeds()
    }

    /// Ends containerd, if it runs, and starts it.
    pub fn restart(&mut self) {
        if let Some(mut containerd) = self.containerd.take() {
            containerd.kill().unwrap();
            containerd.wait().unwrap();
        }
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut containerd = self.enter();
        containerd.args([
            "containerd",
            "--config",
            &self.folder.path().join("config.toml").display().to_string(),
        ]);
        let log_too = log.try_clone().unwrap();
        let started = containerd.stdin(Stdio::null()).stdout(log_too).stderr(log).spawn();
        self.containerd = Some(started.expect("containerd: cargo xtask setup"));
        wait_until("containerd's CRI to answer", || {
            self.block_on(async {
                let mut client = connect(&self.socket()).await.ok()?;
                client.version(VersionRequest::default()).await.ok()
            })
            .is_some()
        });
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// RunPodSandbox: the sandbox, or why there is none.
    pub fn run(&self, asked: &Asked) -> Result<String, String> {
        self.run_sandbox(asked.config())
    }

    /// The same, as it is asked for to the letter.
    pub fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String, String> {
        self.block_on(run_sandbox(self.socket(), config))
    }

    /// The same, of all at once.
    pub fn run_all(&self, asked: &[Asked]) -> Vec<String> {
        self.block_on(async {
            let mut running = JoinSet::new();
            for one in asked {
                running.spawn(run_sandbox(self.socket(), one.config()));
            }
            running.join_all().await.into_iter().map(Result::unwrap).collect()
        })
    }

    /// StopPodSandbox and RemovePodSandbox of all at once.
    pub fn end_all(&self, sandboxes: &[String]) {
        self.block_on(async {
            let mut ending = JoinSet::new();
            for sandbox in sandboxes {
                let (socket, sandbox) = (self.socket(), sandbox.clone());
                ending.spawn(async move {
                    stop(&socket, &sandbox).await.unwrap();
                    remove(&socket, &sandbox).await.unwrap();
                });
            }
            ending.join_all().await;
        });
    }

    pub fn stop(&self, sandbox: &str) -> Result<(), String> {
        self.block_on(stop(&self.socket(), sandbox))
    }

    pub fn remove(&self, sandbox: &str) -> Result<(), String> {
        self.block_on(remove(&self.socket(), sandbox))
    }

    /// PodSandboxStatus: all addresses, the first one first.
    pub fn addresses(&self, sandbox: &str) -> Vec<std::net::IpAddr> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false };
        let status = self.block_on(async {
            connect(&self.socket()).await.unwrap().pod_sandbox_status(request).await.unwrap().into_inner()
        });
        let network = status.status.unwrap().network.unwrap();
        let more = network.additional_ips.into_iter().map(|one| one.ip);
        std::iter::once(network.ip).chain(more).map(|text| text.parse().unwrap()).collect()
    }

    /// A container in the sandbox that runs.
    pub fn container(&self, sandbox: &str, asked: &Asked, name: &str, command: &[&str]) -> String {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec {
                image: IMAGE.to_owned(),
                annotations: HashMap::new(),
                ..Default::default()
            }),
            command: command.iter().map(ToString::to_string).collect(),
            linux: Some(LinuxContainerConfig::default()),
            ..ContainerConfig::default()
        };
        self.run_container(sandbox, config, asked.config())
    }

    /// The same, as it is asked for to the letter.
    pub fn run_container(&self, sandbox: &str, config: ContainerConfig, of: PodSandboxConfig) -> String {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(of),
        };
        self.block_on(async {
            let mut client = connect(&self.socket()).await.unwrap();
            let container_id = client.create_container(request).await.unwrap().into_inner().container_id;
            client
                .start_container(StartContainerRequest { container_id: container_id.clone() })
                .await
                .unwrap();
            container_id
        })
    }

    /// ExecSync: what it writes.
    pub fn exec(&self, container: &str, command: &[&str]) -> String {
        self.try_exec(container, command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The same, where it may fail.
    pub fn try_exec(&self, container: &str, command: &[&str]) -> Result<String, String> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout: 10,
        };
        let done = self.block_on(async {
            let mut client = connect(&self.socket()).await.map_err(|error| error.to_string())?;
            client.exec_sync(request).await.map_err(|status| status.message().to_owned())
        })?;
        let done = done.into_inner();
        let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        if done.exit_code == 0 {
            Ok(out.into_owned())
        } else {
            Err(format!("{}: {out}{error}", done.exit_code))
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!(
                "--- containerd's log ends ---\n{}",
                end.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        if let Some(mut containerd) = self.containerd.take() {
            let _ = kill(Pid::from_raw(containerd.id().cast_signed()), Signal::SIGTERM);
            let _ = containerd.wait();
        }
        // With it everything that still runs in there.
        let _ = fs::write(self.cgroup.path().join("cgroup.kill"), "1");
        let _ = self.holder.wait();
        let _ = run(Command::new("find").arg(self.cgroup.path()).args([
            "-mindepth",
            "1",
            "-depth",
            "-type",
            "d",
            "-delete",
        ]));
    }
}

async fn connect(socket: &str) -> Result<RuntimeServiceClient<Channel>, tonic::transport::Error> {
    let socket = socket.to_owned();
    let endpoint = Endpoint::from_static("http://containerd").timeout(Duration::from_secs(240));
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    Ok(RuntimeServiceClient::new(endpoint.connect_with_connector(connector).await?))
}

async fn run_sandbox(socket: String, config: PodSandboxConfig) -> Result<String, String> {
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    let mut client = connect(&socket).await.map_err(|error| error.to_string())?;
    let ran = client.run_pod_sandbox(request).await.map_err(|status| status.message().to_owned())?;
    Ok(ran.into_inner().pod_sandbox_id)
}

async fn stop(socket: &str, sandbox: &str) -> Result<(), String> {
    let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
    let mut client = connect(socket).await.map_err(|error| error.to_string())?;
    client.stop_pod_sandbox(request).await.map(drop).map_err(|status| status.message().to_owned())
}

async fn remove(socket: &str, sandbox: &str) -> Result<(), String> {
    let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
    let mut client = connect(socket).await.map_err(|error| error.to_string())?;
    client.remove_pod_sandbox(request).await.map(drop).map_err(|status| status.message().to_owned())
}

/// An OCI image of these programs, with the libraries that they need, in `image.tar`; `command` is run when nothing else is asked for.
pub fn make_image(folder: &Path, name: &str, programs: &[&str], command: &[&str]) {
    let layer = folder.join("layer");
    let _ = fs::remove_dir_all(&layer);
    for name in ["bin", "dev", "proc", "sys", "etc", "tmp", "run"] {
        fs::create_dir_all(layer.join(name)).unwrap();
    }
    for program in programs {
        let (from, to) = program.split_once('=').unwrap_or((program, program));
        let target = layer.join(to.trim_start_matches('/'));
        // Without what only a debugger reads.
        run(Command::new("strip").arg("-o").arg(&target).arg(from)).succeeds();
        let needed = run(Command::new("ldd").arg(from));
        for library in needed.stdout.split_whitespace().filter(|word| word.starts_with('/')) {
            let target = layer.join(library.trim_start_matches('/'));
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(library, target).unwrap();
        }
    }
    let image = folder.join("image");
    let _ = fs::remove_dir_all(&image);
    fs::create_dir_all(image.join("blobs/sha256")).unwrap();
    let tar = folder.join("layer.tar");
    run(Command::new("tar").args(["-C", layer.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]))
        .succeeds();
    let blob = |bytes: &[u8]| {
        let file = folder.join("blob");
        fs::write(&file, bytes).unwrap();
        let sum = run(Command::new("sha256sum").arg(&file)).succeeds();
        let digest = sum.split_whitespace().next().unwrap().to_owned();
        fs::rename(&file, image.join("blobs/sha256").join(&digest)).unwrap();
        (format!("sha256:{digest}"), bytes.len())
    };
    let (layer_digest, layer_size) = blob(&fs::read(&tar).unwrap());
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": command, "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    });
    let (config_digest, config_size) = blob(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer_size }],
    });
    let (digest, size) = blob(manifest.to_string().as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
            "annotations": { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name },
        }],
    });
    fs::write(image.join("index.json"), index.to_string()).unwrap();
    fs::write(image.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let tar = folder.join("image.tar");
    run(Command::new("tar").args(["-C", image.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]))
        .succeeds();
}
