//! A server on a loopback port, and kubectl pointed to it.

pub mod http;

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use weft_apiserver::{ApiServer, Config};

/// How long anything may take that is waited for.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A running server; stops when dropped.
pub struct Cluster {
    pub server: ApiServer,
    pub url: String,
    folder: TempDir,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    pub fn start() -> Cluster {
        Cluster::with(Config::default())
    }

    pub fn with(config: Config) -> Cluster {
        let server = ApiServer::new(config).expect("make the server");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a loopback port");
        let url = format!("https://{}", listener.local_addr().expect("the bound address"));
        let folder = tempfile::tempdir().expect("make a folder");
        std::fs::write(folder.path().join("kubeconfig"), server.kubeconfig(&url, "test"))
            .expect("write kubeconfig");
        let (stop, drain) = watch::channel(false);
        let serving = server.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("start a runtime");
            runtime.block_on(serving.serve(listener, drain)).expect("serve");
        });
        Cluster { server, url, folder, stop, thread: Some(thread) }
    }

    /// `kubectl ARGS…`, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(args)
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .env("HOME", self.folder.path())
            .env("KUBECACHEDIR", self.folder.path().join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        let mut child = command.spawn().expect("these tests run kubectl: install it and put it on the PATH");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("write to kubectl");
        child.wait_with_output().expect("wait for kubectl")
    }

    /// What kubectl prints; panics when it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.kubectl_with(args, "")
    }

    /// The same with something on its standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "kubectl {}: {}\n{stdout}{stderr}", args.join(" "), output.status);
        stdout
    }

    /// What kubectl complains about; panics when it succeeds.
    pub fn refused(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        let (stdout, stderr) = texts(&output);
        assert!(!output.status.success(), "kubectl {} was expected to fail: {stdout}", args.join(" "));
        stderr
    }

    /// An object as JSON.
    pub fn get(&self, args: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], args].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    pub fn apply(&self, manifest: &str) -> String {
        self.kubectl_with(&["apply", "-f", "-"], manifest)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server panicked");
        }
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Until `check` says something, or panics with what was waited for.
pub fn wait_for<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
