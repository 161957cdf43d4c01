//! Runs one container's command; the lab's kubelet starts this inside the Pod.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

/// Run a container; started by the lab
#[derive(Args, Debug)]
pub struct Container {
    /// File that describes it
    spec: PathBuf,
}

impl Container {
    pub fn run(self) -> Result<ExitCode> {
        weft_lab::run_container(&self.spec)
    }
}
