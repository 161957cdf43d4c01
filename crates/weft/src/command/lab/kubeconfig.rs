//! `weft lab kubeconfig`

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::LabArgs;

/// Print the path of the lab's kubeconfig
#[derive(Args, Debug)]
pub struct Kubeconfig {
    #[command(flatten)]
    lab: LabArgs,
    /// Print the file itself
    #[arg(long)]
    content: bool,
}

impl Kubeconfig {
    pub fn run(self) -> Result<ExitCode> {
        let path = self.lab.choose()?.kubeconfig();
        if self.content {
            print!("{}", std::fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        } else {
            println!("{}", path.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}
