//! `weft lab exec`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

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
    /// POD, deploy/NAME (or another workload's), node/NAME, outside, or fabric
    target: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    pub fn run(self) -> Result<ExitCode> {
        let lab = self.lab.choose()?;
        if let Some(container) = &self.container {
            return weft_lab::exec_in(&lab, &self.namespace, &self.target, container, &self.command);
        }
        match weft_lab::exec(&lab, &self.namespace, &self.target, &self.command)? {}
    }
}
