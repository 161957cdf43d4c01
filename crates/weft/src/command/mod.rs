//! The commands, a file each.

mod agent;
mod agents;
mod dns;
mod doctor;
mod lab;
mod service;
mod status;
mod verify;
mod version;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal, signal};
use tokio::runtime::{self, Runtime};
use weft_lab::{BadName, NameTaken, NotRoot, NotStarted, Refused, Usage, manifest::ManifestError};

/// The Kubernetes network in one binary
#[derive(Parser, Debug)]
#[command(
    name = "weft",
    version,
    arg_required_else_help = true,
    after_help = "\
Exit codes: 0 fine, 1 the answer is no (or something failed), 2 wrong usage, 3 the machine lacks something. \
'weft lab exec' ends as its command does; with 127 if there is no such program, 126 if it cannot be started."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    #[command(subcommand)]
    Lab(lab::Lab),
    Verify(verify::Verify),
    Status(status::StatusCommand),
    #[command(subcommand)]
    Service(service::Service),
    #[command(subcommand)]
    Dns(dns::Dns),
    Doctor(doctor::Doctor),
    Agent(Box<agent::Agent>),
    Version(version::Version),
}

impl Command {
    /// Goes on when the reader of its output, or of a pipe to a child, is gone.
    fn is_daemon(&self) -> bool {
        match self {
            Command::Lab(command) => command.is_daemon(),
            Command::Agent(_) => true,
            _ => false,
        }
    }
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> Result<ExitCode> {
        if !self.command.is_daemon() {
            // `weft lab status | head` ends quietly, as other commands do.
            // SAFETY: the default disposition runs no code of this process.
            unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
        }
        match self.command {
            Command::Lab(command) => command.run(),
            Command::Verify(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Service(command) => command.run(),
            Command::Dns(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Agent(command) => command.run(),
            Command::Version(command) => command.run(),
        }
    }
}

/// The machine lacks something: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("this machine lacks {name}: {what}\n`weft doctor` tells all that it has and lacks")]
pub struct Unfit {
    /// What is missing.
    pub name: &'static str,
    /// What is wrong, and what to do.
    pub what: String,
}

/// The exit code for what went wrong.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if let Some(not_started) = error.downcast_ref::<NotStarted>() {
        return ExitCode::from(not_started.exit_code());
    }
    if error.is::<NotRoot>() || error.is::<weft_agent::NotRoot>() || error.is::<Unfit>() {
        return ExitCode::from(3);
    }
    if error.downcast_ref::<Refused>().is_some_and(|refused| refused.is_usage) {
        return ExitCode::from(2);
    }
    if error.is::<Usage>() || error.is::<BadName>() || error.is::<NameTaken>() || error.is::<ManifestError>()
    {
        return ExitCode::from(2);
    }
    ExitCode::FAILURE
}

fn runtime() -> Result<Runtime> {
    runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

/// Runs a future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime()?;
    let result = runtime.block_on(future);
    // A read of a terminal may never return; nothing waits for it.
    runtime.shutdown_background();
    result
}
