//! A server on a loopback port, and kubectl pointed to it.

pub mod http;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::http::Method;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::watch;
use weft_apiserver::{ApiServer, Config};
use weft_scratch::Folder;

/// How long anything may take that is waited for.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A running server; stops when dropped.
pub struct Cluster {
    pub server: ApiServer,
    pub url: String,
    folder: Folder,
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
        let folder = weft_scratch::folder();
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

    /// `kubectl patch --type=merge` of an object's status, whose path is `path`. Before 1.24 kubectl has no
    /// `--subresource`: then the same request without it.
    pub fn patch_status(&self, object: &str, path: &str, patch: &Value) {
        if client_minor() >= 24 {
            self.kubectl(&[
                "patch",
                object,
                "--subresource=status",
                "--type=merge",
                "-p",
                &patch.to_string(),
            ]);
            return;
        }
        let kind = "application/merge-patch+json";
        let (code, _, answer) = self.send(Method::PATCH, &format!("{path}/status"), kind, &patch.to_string());
        assert_eq!(code, 200, "{answer}");
    }

    /// A request past kubectl: status code, warnings, body.
    pub fn send(&self, method: Method, path: &str, kind: &str, body: &str) -> (u16, Vec<String>, Value) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = http::Client::new(self);
        let request = client.request(method, path, kind, body.to_owned());
        runtime.expect("start a runtime").block_on(async {
            let response = client.send(request).await.expect("an answer");
            let code = response.status().as_u16();
            let warnings = response.headers().get_all("warning").iter();
            let warnings = warnings.map(|text| text.to_str().expect("text").to_owned()).collect();
            let body = response.into_body().collect().await.expect("a whole body").to_bytes();
            (code, warnings, serde_json::from_slice(&body).expect("an answer in JSON"))
        })
    }

    /// A kubectl that goes on, read line by line.
    pub fn printing(&self, args: &[&str]) -> Printing {
        let mut child = self.command(args).spawn().expect("kubectl");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        // Ends with kubectl.
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Printing { child, lines }
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

/// A running kubectl; ended when dropped.
pub struct Printing {
    child: Child,
    lines: Receiver<String>,
}

impl Printing {
    /// Passes over what it prints, until a line is the one.
    pub fn expect(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut passed = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if wanted(&line) => return,
                Ok(line) => passed.push(line),
                Err(error) => panic!("kubectl did not print {what}: {error}; it printed {passed:?}"),
            }
        }
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        // It may have ended by itself.
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended
            && !std::thread::panicking()
        {
            panic!("end kubectl: {error}");
        }
    }
}

/// kubectl's version: 32 is 1.32. What a version lacks is checked by other means.
pub fn client_minor() -> u32 {
    static MINOR: OnceLock<u32> = OnceLock::new();
    *MINOR.get_or_init(|| {
        let output = Command::new("kubectl").args(["version", "--client", "-o", "json"]).output();
        let output = output.expect("these tests run kubectl: install it and put it on the PATH");
        let version: Value = serde_json::from_slice(&output.stdout).expect("kubectl's version as JSON");
        let minor = version["clientVersion"]["minor"].as_str().expect("a minor version");
        // Some distributors add a plus.
        let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a minor version is a number")
    })
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
