//! `weft version`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::output::{Format, OutputArgs, print_json};

/// Print the version
#[derive(Args, Debug)]
pub struct Version {
    #[command(flatten)]
    output: OutputArgs,
}

impl Version {
    pub fn run(self) -> Result<ExitCode> {
        let version = env!("CARGO_PKG_VERSION");
        match self.output.output {
            Format::Table => println!("weft {version}"),
            Format::Json => print_json(&json!({ "version": version }))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
