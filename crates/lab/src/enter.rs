//! `weft lab exec`: a command inside a node or a Pod, with the caller's terminal.

use std::{os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use weft_netns::Netns;

use crate::place::{self, Cgroup, LabDir, Names};

/// Replaces this process with `words`, inside the network namespace and cgroup of `target`, and among its names: a Pod's name, `pod/NAME`,
/// `deploy/NAME` (its first Pod; so for other workloads), `node/NAME`, `outside` or `fabric`. Returns only if that fails.
pub fn exec(
    lab: &LabDir,
    namespace: &str,
    target: &str,
    words: &[String],
) -> Result<std::convert::Infallible> {
    let Found { netns, cgroup, names } = find(lab, namespace, target)?;
    let Some((program, arguments)) = words.split_first() else {
        bail!("no command: weft lab exec TARGET -- COMMAND")
    };
    let netns = Netns::open(&netns)?;
    let mut command = Command::new(program);
    command.args(arguments);
    match cgroup {
        Some(cgroup) => place::enter(&mut command, &netns, &cgroup)?,
        None => {
            netns.enter_child(&mut command)?;
        }
    }
    if let Some(names) = names {
        names.enter_child(&mut command)?;
    }
    Err(command.exec()).with_context(|| program.clone())
}

/// Where a command is to run.
struct Found {
    netns: String,
    cgroup: Option<Cgroup>,
    /// None: the machine's own.
    names: Option<Names>,
}

fn find(lab: &LabDir, namespace: &str, target: &str) -> Result<Found> {
    let found = |netns: String, cgroup: &Path, folder: &Path| {
        let cgroup = Cgroup::at(cgroup).below("exec")?;
        Ok(Found { netns, cgroup: Some(cgroup), names: Some(lab.names(folder)) })
    };
    if target == "fabric" {
        return Ok(Found { netns: lab.netns("fabric"), cgroup: None, names: None });
    }
    if target == "outside" {
        let outside = lab.record()?.outside;
        return found(outside.netns, &outside.cgroup, &lab.outside());
    }
    if let Some(node) = target.strip_prefix("node/") {
        let record = lab.record()?;
        let node = record.nodes.iter().find(|one| one.name == node).with_context(|| {
            let names: Vec<&str> = record.nodes.iter().map(|node| node.name.as_str()).collect();
            format!("lab {} has no node {node}; it has {}", lab.name(), names.join(", "))
        })?;
        return found(node.netns.clone(), &node.cgroup, &lab.node(&node.name));
    }
    let record = match target.split_once('/') {
        None => lab.pod_record(namespace, target)?,
        Some(("pod" | "pods" | "po", pod)) => lab.pod_record(namespace, pod)?,
        Some((_, workload)) => {
            let pods = lab.pods_in(namespace)?;
            // Workloads name their Pods after themselves.
            let first = pods.into_iter().find(|pod| pod.starts_with(&format!("{workload}-")));
            let first = first
                .with_context(|| format!("no Pod of {namespace}/{target} runs in lab {}", lab.name()))?;
            lab.pod_record(namespace, &first)?
        }
    };
    found(record.netns, &record.cgroup, &lab.pod(&record.uid))
}
