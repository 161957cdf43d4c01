//! The agent of each node, as a process of its own, started again when it ends.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::sync::watch;

use super::Options;
use crate::{
    kubelet::Node,
    place::{LabDir, Spawner, enter, write_file},
    ranges::Ranges,
};

/// Agents that do not stay up: how many times in a row one has ended, and what it said last.
pub(super) type Failures = BTreeMap<String, (u32, String)>;

/// How to start the agent of one node.
pub(super) struct Agent {
    node: Arc<Node>,
    spawner: Spawner,
    executable: PathBuf,
    arguments: Vec<String>,
    failures: watch::Sender<Failures>,
}

impl Agent {
    pub(super) fn new(
        options: &Options,
        lab: &LabDir,
        ranges: &Ranges,
        node: Arc<Node>,
        spawner: Spawner,
        failures: watch::Sender<Failures>,
    ) -> Agent {
        let folder = &node.folder;
        let path = |name: &str| folder.join(name).display().to_string();
        let mut arguments: Vec<String> = [
            ("--kubeconfig", lab.path().join("agent.kubeconfig").display().to_string()),
            ("--node-name", node.name.clone()),
            ("--cni-conf-dir", path("cni/net.d")),
            ("--cni-bin-dir", path("cni/bin")),
            ("--state-dir", path("state")),
            ("--bpffs", path("bpf")),
            ("--cgroup-root", node.cgroup.path().display().to_string()),
            ("--socket", path("agent.sock")),
            ("--uplink", "eth0".into()),
            ("--routing", options.routing.clone()),
            ("--metrics", "127.0.0.1:9464".into()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        let dns = if options.dns { ranges.cluster_dns() } else { Vec::new() };
        let dns = dns.into_iter().map(|address| ("--cluster-dns", address.to_string()));
        arguments.extend(dns.flat_map(|(flag, value)| [flag.to_owned(), value]));
        let ranges = ranges
            .pods
            .iter()
            .map(|range| ("--pod-cidr", range))
            .chain(ranges.services.iter().map(|range| ("--service-cidr", range)));
        arguments.extend(ranges.flat_map(|(flag, range)| [flag.to_owned(), range.to_string()]));
        Agent { node, spawner, executable: options.executable.clone(), arguments, failures }
    }

    /// Keeps the agent running until the task is dropped; its child goes with it.
    pub(super) async fn keep(self) {
        let mut pause = Duration::from_millis(100);
        loop {
            let begun = tokio::time::Instant::now();
            let ended = self.run_once().await;
            if begun.elapsed() > Duration::from_secs(10) {
                pause = Duration::from_millis(100);
                self.failures.send_modify(|failures| drop(failures.remove(&self.node.name)));
            }
            let problem = match ended {
                Ok(status) => format!("its agent ended ({status}): {}", self.last_words()),
                Err(error) => format!("its agent does not start: {error:#}"),
            };
            tracing::warn!(node = self.node.name, problem, "the agent is started again");
            self.failures.send_modify(|failures| {
                let held = failures.entry(self.node.name.clone()).or_default();
                *held = (held.0 + 1, problem);
            });
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// The last line of its log.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
    }

    fn log(&self) -> PathBuf {
        self.node.folder.join("agent.log")
    }

    async fn run_once(&self) -> Result<std::process::ExitStatus> {
        let mut options = File::options();
        let log = options.create(true).append(true).mode(0o600).open(self.log()).context("open its log")?;
        let mut command = Command::new(&self.executable);
        command.arg("agent").args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        enter(&mut command, &self.node.netns, &self.node.cgroup.below("agent")?)?;
        self.node.names.enter_child(&mut command)?;
        let mut child = self.spawner.spawn(command).await?;
        if let Some(pid) = child.id() {
            write_file(&self.node.folder.join("agent.pid"), pid.to_string().as_bytes())?;
        }
        Ok(child.wait().await?)
    }
}
