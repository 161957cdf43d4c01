//! `weft agent`: the daemon of a node.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tracing_subscriber::EnvFilter;

/// Run the node agent: what a DaemonSet starts on every node
#[derive(Args, Debug)]
pub struct Agent {
    #[command(flatten)]
    options: weft_agent::Options,
    /// Which log lines to write, as `info,weft_agent=debug`
    #[arg(long, value_name = "FILTER", env = "WEFT_LOG", default_value = "info")]
    log: String,
}

impl Agent {
    pub fn run(self) -> Result<ExitCode> {
        let filter = EnvFilter::try_new(&self.log).with_context(|| format!("--log {}", self.log))?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
        super::block_on(async {
            let end = weft_agent::asked_to_end().context("listen for signals")?;
            weft_agent::run(self.options, end).await
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
