//! `weft lab apply`

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use weft_lab::{Applied, Refused, apply, client_of, dangling};

use super::LabArgs;
use crate::{
    command::block_on,
    output::{Format, OutputArgs, print_json, printable},
};

/// Apply manifests to a lab
#[derive(Args, Debug)]
pub struct Apply {
    #[command(flatten)]
    lab: LabArgs,
    /// Files, folders, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Apply {
    pub fn run(self) -> Result<ExitCode> {
        let manifests = super::load(&self.files)?;
        let kubeconfig = self.lab.choose()?.kubeconfig();
        let kubeconfig =
            std::fs::read_to_string(&kubeconfig).with_context(|| kubeconfig.display().to_string())?;
        let outcome = block_on(async {
            let client = client_of(&kubeconfig).await?;
            let applied = apply(&client, &manifests).await?;
            Ok((applied, dangling(&client, &manifests).await?))
        });
        match outcome {
            Ok((applied, dangling)) => {
                super::warn(&dangling);
                self.print(&applied)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                if let Some(refused) = error.downcast_ref::<Refused>() {
                    self.print(&refused.applied)?;
                }
                Err(error)
            }
        }
    }

    fn print(&self, applied: &[Applied]) -> Result<()> {
        match self.output.output {
            Format::Table => {
                for one in applied {
                    println!("{} {}", printable(&one.object), one.outcome);
                }
            }
            Format::Json => {
                let rows: Vec<_> = applied
                    .iter()
                    .map(|one| json!({ "object": one.object, "namespace": one.namespace, "outcome": one.outcome.to_string() }))
                    .collect();
                print_json(&rows)?;
            }
        }
        Ok(())
    }
}
