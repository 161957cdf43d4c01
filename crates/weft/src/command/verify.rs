//! `weft verify`: the network model, proved pair by pair.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::command::lab::LabArgs;

/// Prove the network model on a running lab, pair by pair
#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    lab: LabArgs,
}

impl Verify {
    pub fn run(self) -> Result<ExitCode> {
        let lab = self.lab.choose()?;
        bail!("lab {} cannot be verified by this build", lab.name())
    }
}
