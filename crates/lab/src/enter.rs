//! `weft lab exec`: a command inside a node or a Pod, with the caller's terminal.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, api::ListParams};
use weft_netns::Netns;

use crate::{
    Usage,
    controllers::{is_finished, is_ready, is_terminating},
    kubelet::{ContainerPlace, ContainerSpec, NotStarted, read_spec, run},
    place::{self, Cgroup, LabDir, Names, PodRecord},
    workload::{NoPod, has_pods, is_of_workload},
};

/// Replaces this process with `words`, inside the network namespace and cgroup of `target`, and among its names: a Pod's name, `pod/NAME`,
/// `deploy/NAME` (its first Pod; so for other workloads), `node/NAME`, `outside` or `fabric`. Returns only if that fails.
///
/// # Errors
/// [`NoPod`] of a workload of which none runs, [`NotStarted`] if the program cannot be, and everything that fails before.
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
    Err(NotStarted { program: program.clone(), source: command.exec() }.into())
}

/// Runs `words` in a container of a Pod, among its files and processes, and says how they ended. Must be called by a process with
/// one thread.
///
/// # Errors
/// The Pod has no such container, or none that runs a program of its own; [`NoPod`] of a workload of which no Pod runs.
pub fn exec_in(
    lab: &LabDir,
    namespace: &str,
    target: &str,
    container: &str,
    words: &[String],
) -> Result<ExitCode> {
    let record = pod_of(lab, namespace, target)?;
    let folder = lab.pod(&record.uid).join("containers");
    let own = folder.join(place::one_part(container)?);
    if !own.join("pid").exists() {
        let running = fs::read_dir(&folder).into_iter().flatten().flatten();
        let running = running.filter(|entry| entry.path().join("pid").exists());
        let names: Vec<String> = running.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        bail!(Usage(format!(
            "no container {container} of {namespace}/{target} runs a program of its own (those that do: {names}): without -c \
             the command runs in the Pod's network, and 'kubectl exec' makes a container for a stand-in"
        )));
    }
    let spec = read_spec(&own.join("spec.json"))?;
    let procs = Cgroup::at(&record.cgroup).below(container)?.procs();
    fs::write(&procs, "0").with_context(|| procs.display().to_string())?;
    let place = ContainerPlace::Running { pid_file: own.join("pid") };
    run(&ContainerSpec { argv: words.to_vec(), env: spec.env, cwd: spec.cwd, place })
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
        let node = record.nodes.iter().find(|one| one.name == node).ok_or_else(|| {
            let names: Vec<&str> = record.nodes.iter().map(|node| node.name.as_str()).collect();
            Usage(format!("lab {} has no node {node}; it has {}", lab.name(), names.join(", ")))
        })?;
        return found(node.netns.clone(), &node.cgroup, &lab.node(&node.name));
    }
    let record = pod_of(lab, namespace, target)?;
    found(record.netns, &record.cgroup, &lab.pod(&record.uid))
}

/// The name of a Pod that a Service selects, a ready one if there is one. `service` is the Service's name.
///
/// # Errors
/// There is no such Service, it selects nothing, or no Pod that runs.
pub async fn pod_of_service(client: Client, namespace: &str, service: &str) -> Result<String> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let found = services.get_opt(service).await?;
    let found = found.ok_or_else(|| Usage(format!("namespace {namespace} has no Service {service}")))?;
    let selector = found.spec.and_then(|spec| spec.selector).filter(|selector| !selector.is_empty());
    let selector = selector.with_context(|| format!("Service {namespace}/{service} selects no Pods"))?;
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let mut pods = pods.list(&ListParams::default().labels(&labels.join(","))).await?.items;
    pods.retain(|pod| !is_terminating(pod) && !is_finished(pod));
    pods.sort_by_key(|pod| !is_ready(pod));
    let first = pods.into_iter().next().and_then(|pod| pod.metadata.name);
    first.with_context(|| format!("no Pod of Service {namespace}/{service} runs"))
}

/// Where a Pod runs, the first of a workload.
///
/// # Errors
/// [`NoPod`] of a workload of which none runs; [`Usage`].
fn pod_of(lab: &LabDir, namespace: &str, target: &str) -> Result<PodRecord> {
    match target.split_once('/') {
        None => lab.pod_record(namespace, target),
        Some(("pod" | "pods" | "po", pod)) => lab.pod_record(namespace, pod),
        Some((kind, _)) if !has_pods(kind) => bail!(Usage(format!(
            "'{kind}' is no kind that has Pods: name a Pod, svc/NAME, or deploy/NAME, rs/NAME, sts/NAME, ds/NAME, job/NAME or cj/NAME"
        ))),
        Some((kind, workload)) => {
            let pods = lab.pods_in(namespace)?;
            let first = pods.into_iter().find(|pod| is_of_workload(pod, kind, workload));
            let first = first.ok_or_else(|| NoPod {
                namespace: namespace.to_owned(),
                kind: kind.to_owned(),
                name: workload.to_owned(),
            })?;
            lab.pod_record(namespace, &first)
        }
    }
}
