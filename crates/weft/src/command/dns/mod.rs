//! `weft dns`: what the cluster's DNS answers, and why.

mod query;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Show what the cluster's DNS answers, and why
#[derive(Subcommand, Debug)]
pub enum Dns {
    Query(query::Query),
}

impl Dns {
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Dns::Query(command) => command.run(),
        }
    }
}
