//! `weft lab exec`

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tokio::runtime;
use weft_lab::{Client, LabDir, NoPod, client_of};

use super::LabArgs;

/// Run a command inside a node or a Pod
#[derive(Args, Debug)]
pub struct Exec {
    #[command(flatten)]
    lab: LabArgs,
    /// Namespace of the Pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// A container of the Pod: the command runs among its files and processes, not only in the Pod's network
    #[arg(short, long)]
    container: Option<String>,
    /// Taken as kubectl takes them: the command always has this terminal and input
    #[arg(short = 'i', long, hide = true)]
    stdin: bool,
    #[arg(short = 't', long, hide = true)]
    tty: bool,
    /// POD, svc/NAME, deploy/NAME (or another workload's), node/NAME, outside, or fabric
    target: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub fn run(self) -> Result<ExitCode> {
        let lab = self.lab.choose()?;
        let target = match self.target.split_once('/') {
            Some(("svc" | "service" | "services", name)) => {
                ask(&lab, async |client| weft_lab::pod_of_service(client, &self.namespace, name).await)?
            }
            _ => self.target.clone(),
        };
        let done = match &self.container {
            Some(container) => weft_lab::exec_in(&lab, &self.namespace, &target, container, &self.command),
            None => match weft_lab::exec(&lab, &self.namespace, &target, &self.command) {
                Err(error) => Err(error),
            },
        };
        done.or_else(|error| match error.downcast_ref::<NoPod>() {
            Some(no_pod) => Err(ask(&lab, async |client| no_pod.why(client).await)?),
            None => Err(error),
        })
    }
}

/// Asks the lab's API server. The runtime's threads end with it: a container is entered by a process with one thread.
fn ask<T>(lab: &LabDir, question: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
    let path = lab.kubeconfig();
    let kubeconfig = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { question(client_of(&kubeconfig).await?).await })
}
