//! `weft lab forward`

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use weft_lab::client_of;

use super::LabArgs;
use crate::{
    command::{Usage, block_on},
    output::printable,
};

/// Make a Service or a Pod reachable on a loopback port of this machine
#[derive(Args, Debug)]
pub struct Forward {
    #[command(flatten)]
    lab: LabArgs,
    /// Namespace of the Service or Pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// SERVICE or POD; svc/NAME or pod/NAME where both have the name
    target: String,
    /// LOCAL:PORT, or one port for both; LOCAL 0 takes any
    ports: String,
}

impl Forward {
    pub fn run(self) -> Result<ExitCode> {
        let (local, port) = self.ports.split_once(':').unwrap_or((&self.ports, &self.ports));
        let Ok(local) = local.parse::<u16>() else {
            bail!(Usage(format!("'{}' is no LOCAL:PORT: for example 8080:80", self.ports)));
        };
        let lab = self.lab.choose()?;
        let path = lab.kubeconfig();
        let kubeconfig = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        block_on(async {
            let client = client_of(&kubeconfig).await?;
            let forward = weft_lab::Forward::new(&lab, client, &self.namespace, &self.target, port).await?;
            let listener = forward.listen(local).await?;
            println!("Forwarding from {} -> {} port {port}", listener.local_addr()?, self.target);
            if let Some(obstacle) = forward.obstacle().await {
                eprintln!("weft: {}: connections are closed until this changes", printable(&obstacle));
            }
            tokio::select! {
                served = forward.serve(listener, |problem| eprintln!("weft: {}", printable(&problem))) => served,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
