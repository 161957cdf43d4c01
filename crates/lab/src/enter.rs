//! `weft lab exec`: a command inside a node or a Pod, with the caller's terminal.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};
use weft_netns::Netns;

use crate::place::{self, Cgroup, LabDir};

/// Replaces this process with `words`, inside the network namespace and cgroup of `target`: a Pod's name, `pod/NAME`,
/// `deploy/NAME` (its first Pod; so for other workloads), `node/NAME`, `outside` or `fabric`. Returns only if that fails.
pub fn exec(
    lab: &LabDir,
    namespace: &str,
    target: &str,
    words: &[String],
) -> Result<std::convert::Infallible> {
    let (netns, cgroup) = find(lab, namespace, target)?;
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
    Err(command.exec()).with_context(|| program.clone())
}

fn find(lab: &LabDir, namespace: &str, target: &str) -> Result<(String, Option<Cgroup>)> {
    if target == "fabric" {
        return Ok((lab.netns("fabric"), None));
    }
    if target == "outside" {
        let outside = lab.record()?.outside;
        return Ok((outside.netns, Some(Cgroup::at(&outside.cgroup).below("exec")?)));
    }
    if let Some(node) = target.strip_prefix("node/") {
        let record = lab.record()?;
        let found = record.nodes.iter().find(|found| found.name == node).with_context(|| {
            let names: Vec<&str> = record.nodes.iter().map(|node| node.name.as_str()).collect();
            format!("lab {} has no node {node}; it has {}", lab.name(), names.join(", "))
        })?;
        return Ok((found.netns.clone(), Some(Cgroup::at(&found.cgroup).below("exec")?)));
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
    Ok((record.netns, Some(Cgroup::at(&record.cgroup).below("exec")?)))
}
