//! A node with an agent process, an API server that it sees on its own loopback, and a plugin.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use weft_agent::admin::{Client, Status};
use weft_apiserver::{ApiServer, Config};

use crate::support::{Machine, NODE, Scratch};

/// Tells this program which process to be.
pub const ROLE: &str = "WEFT_TEST_ROLE";
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Node {
    pub machine: Machine,
    pub api: ApiServer,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
    agent: Option<Child>,
}

/// What came of a call of the plugin.
#[derive(Debug)]
pub struct Answer {
    pub success: bool,
    pub output: String,
}

impl Node {
    /// A node that the API knows, with these Pod ranges, and no agent yet.
    pub fn new(ranges: &[&str]) -> Self {
        let machine = Machine::new();
        let api = ApiServer::new(Config::default()).unwrap();
        let listener = machine.netns.0.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = |listener: &TcpListener| format!("https://{}", listener.local_addr().unwrap());
        let folder = machine.state.path();
        fs::write(folder.join("kubeconfig"), api.kubeconfig(&url(&listener), "test")).unwrap();
        fs::write(folder.join("outside"), api.kubeconfig(&url(&outside), "test")).unwrap();
        let (stop, drain) = watch::channel(false);
        let (inside, outside_api, other_drain) = (api.clone(), api.clone(), drain.clone());
        let serving = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let both =
                    tokio::join!(inside.serve(listener, drain), outside_api.serve(outside, other_drain));
                both.0.unwrap();
                both.1.unwrap();
            });
        });
        fs::create_dir(folder.join("bin")).unwrap();
        fs::write(folder.join("bin/weft-cni"), "this test calls the plugin by itself").unwrap();
        let node = Self { machine, api, stop, serving: Some(serving), agent: None };
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
            "spec": { "podCIDR": ranges.first(), "podCIDRs": ranges },
            "status": { "addresses": [
                { "type": "InternalIP", "address": "192.168.1.2" },
                { "type": "InternalIP", "address": "fd00:192:168:1::2" },
            ] },
        });
        node.kubectl(&["create", "-f", "-"], &object.to_string());
        node
    }

    pub fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        self.outside().kubectl_with(arguments, input)
    }

    /// A client of the API server that does not need the node.
    pub fn outside(&self) -> Outside {
        Outside { kubeconfig: self.path("outside"), home: self.machine.state.path().to_owned() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.machine.state.path().join(name)
    }

    pub fn conflist(&self) -> PathBuf {
        self.path("net.d/05-weft.conflist")
    }

    /// Starts the agent, without waiting for anything.
    pub fn start(&mut self) {
        assert!(self.agent.is_none());
        self.agent = Some(self.spawn().spawn().unwrap());
    }

    /// Starts the agent with more arguments.
    pub fn start_with(&mut self, arguments: &[&str]) {
        assert!(self.agent.is_none());
        self.agent = Some(self.spawn().args(arguments).spawn().unwrap());
    }

    /// Starts the agent with these arguments and without the cluster's range of Services.
    pub fn start_without_ranges(&mut self, arguments: &[&str]) {
        assert!(self.agent.is_none());
        self.agent = Some(self.spawn_without_ranges().args(arguments).spawn().unwrap());
    }

    /// The agent's process, not yet started.
    pub fn spawn(&self) -> Command {
        let mut command = self.spawn_without_ranges();
        command.args(["--service-cidr", "10.96.0.0/16"]);
        command
    }

    fn spawn_without_ranges(&self) -> Command {
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let places = [
            ("--kubeconfig", "kubeconfig"),
            ("--cni-conf-dir", "net.d"),
            ("--cni-bin-dir", "bin"),
            ("--state-dir", "state"),
            ("--socket", "agent.sock"),
        ];
        for (flag, name) in places {
            command.arg(flag).arg(self.path(name));
        }
        command.arg("--bpffs").arg(self.machine.pins());
        command.arg("--cgroup-root").arg(self.machine.cgroup.path());
        command.arg("--kubelet-config").arg(self.path("kubelet.yaml"));
        command.args(["--node-name", NODE, "--uplink", "eth0", "--metrics", "127.0.0.1:9464"]);
        command.env(ROLE, "agent").stdin(Stdio::null()).stderr(log);
        self.machine.netns.0.enter_child(&mut command).unwrap();
        command
    }

    pub fn signal(&mut self, signal: Signal) -> std::process::ExitStatus {
        let mut agent = self.agent.take().expect("an agent runs");
        kill(Pid::from_raw(agent.id() as i32), signal).unwrap();
        agent.wait().unwrap()
    }

    /// Waits until the agent is ready.
    pub fn ready(&self) -> Status {
        self.wait_for("the agent to be ready", || {
            let status = self.status().filter(|status| status.ready)?;
            self.conflist().exists().then_some(status)
        })
    }

    /// What the agents of this node have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    pub fn status(&self) -> Option<Status> {
        Client::connect(&self.path("agent.sock")).ok()?.status().ok()
    }

    /// Whether a process of the node reaches this address over TCP.
    pub fn connects(&self, address: &str, port: u16) -> bool {
        let join = format!("echo $$ > {}/cgroup.procs", self.machine.cgroup.path().display());
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{join} && exec 3<>/dev/tcp/{address}/{port}")]).stderr(Stdio::null());
        self.machine.netns.0.enter_child(&mut command).unwrap();
        command.status().unwrap().success()
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.path("agent.sock")).unwrap()
    }

    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = check() {
                return found;
            }
            if Instant::now() >= deadline {
                let log = self.log();
                let end =
                    log.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>();
                panic!("waited {LIMIT:?} for {what}; the agent's log ends:\n{}", end.join("\n"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What a runtime passes to the plugin, by the configuration that the agent wrote.
    pub fn config(&self, keys: Value) -> String {
        let list: Value = serde_json::from_slice(&fs::read(self.conflist()).unwrap()).unwrap();
        let mut config = list["plugins"][0].clone();
        let object = config.as_object_mut().unwrap();
        object.insert("name".to_owned(), list["name"].clone());
        object.insert("cniVersion".to_owned(), "1.1.0".into());
        object.extend(keys.as_object().unwrap().clone());
        config.to_string()
    }

    pub fn call(&self, verb: &str, container: &str, netns: &str) -> Answer {
        Answer::of(plugin(verb, container, netns, &self.config(json!({}))))
    }

    #[track_caller]
    pub fn add(&self, container: &str, pod: &Scratch) -> Value {
        let answer = self.call("ADD", container, pod.path().to_str().unwrap());
        assert!(answer.success, "{answer:?}");
        serde_json::from_str(&answer.output).unwrap()
    }

    /// What the agent's HTTP server answers to a GET.
    pub fn get(&self, path: &str) -> String {
        self.get_at("127.0.0.1:9464", path).unwrap()
    }

    /// What is answered to a GET there, on the node.
    pub fn get_at(&self, address: &str, path: &str) -> std::io::Result<String> {
        let get = || {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(LIMIT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        self.machine.netns.0.run(get).unwrap()
    }
}

/// A client of the API server.
pub struct Outside {
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Outside {
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests run kubectl");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "kubectl {arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Creates these objects, or makes them so.
    pub fn apply(&self, objects: &[Value]) {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.kubectl_with(&["apply", "--validate=false", "-f", "-"], &list.to_string());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

impl Answer {
    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        Self { success: output.status.success(), output: String::from_utf8(output.stdout).unwrap() }
    }

    pub fn code(&self) -> Option<u64> {
        serde_json::from_str::<Value>(&self.output).ok()?["code"].as_u64()
    }
}

/// A call of the plugin, begun.
pub fn plugin(verb: &str, container: &str, netns: &str, config: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env_clear()
        .envs([(ROLE, "plugin"), ("CNI_COMMAND", verb), ("CNI_IFNAME", "eth0")])
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", netns)
        .env("CNI_ARGS", format!("K8S_POD_NAMESPACE=test;K8S_POD_NAME={container}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A plugin that was killed does not read.
    let _ = child.stdin.take().unwrap().write_all(config.as_bytes());
    child
}
