//! `weft lab`: a Kubernetes network on this machine.

mod apply;
mod container;
mod down;
mod exec;
mod forward;
mod kubeconfig;
mod list;
mod process;
mod status;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use weft_lab::{
    LabDir, LabName, NotRoot,
    manifest::{self, Loaded, Manifest, Warning},
};

use super::Usage;
use crate::output::printable;

/// A Kubernetes network on this machine, from plain manifests
#[derive(Subcommand, Debug)]
pub enum Lab {
    Up(up::Up),
    Down(down::Down),
    Status(status::Status),
    List(list::List),
    Kubeconfig(kubeconfig::Kubeconfig),
    Apply(apply::Apply),
    Exec(exec::Exec),
    Forward(forward::Forward),
    #[command(hide = true)]
    Process(process::Process),
    #[command(hide = true)]
    Container(container::Container),
}

impl Lab {
    pub fn is_daemon(&self) -> bool {
        matches!(self, Lab::Up(_) | Lab::Process(_) | Lab::Container(_))
    }

    pub fn run(self) -> Result<ExitCode> {
        match self {
            Lab::Up(command) => command.run(),
            Lab::Down(command) => command.run(),
            Lab::Status(command) => command.run(),
            Lab::List(command) => command.run(),
            Lab::Kubeconfig(command) => command.run(),
            Lab::Apply(command) => command.run(),
            Lab::Exec(command) => command.run(),
            Lab::Forward(command) => command.run(),
            Lab::Process(command) => command.run(),
            Lab::Container(command) => command.run(),
        }
    }
}

/// Which lab.
#[derive(Args, Debug)]
pub struct LabArgs {
    /// Which lab; not needed while only one is running
    #[arg(long, env = "WEFT_LAB", value_name = "LAB")]
    pub name: Option<LabName>,
}

impl LabArgs {
    /// The lab of this name, if its process was killed and nobody has removed what it left yet.
    pub fn dead(&self) -> Option<LabDir> {
        let lab = LabDir::of(self.name.as_ref()?);
        (lab.path().exists() && !lab.is_running()).then_some(lab)
    }

    /// The running lab that is meant.
    pub fn choose(&self) -> Result<LabDir> {
        let running = running()?;
        let names = || running.iter().map(|lab| lab.name().to_string()).collect::<Vec<_>>().join(", ");
        match (&self.name, running.as_slice()) {
            (_, []) => bail!(Usage("no lab is running: start one with 'weft lab up'".into())),
            (Some(name), labs) => match labs.iter().find(|lab| lab.name() == name) {
                Some(lab) => Ok(lab.clone()),
                None => bail!(Usage(format!("no lab named {name} is running; running: {}", names()))),
            },
            (None, [lab]) => Ok(lab.clone()),
            (None, _) => {
                bail!(Usage(format!(
                    "several labs are running ({}): choose one with --name or WEFT_LAB",
                    names()
                )))
            }
        }
    }
}

/// Reads manifests and tells what their author may not mean.
fn load(files: &[PathBuf]) -> Result<Vec<Manifest>> {
    let Loaded { manifests, warnings, .. } = manifest::load(files)?;
    warn(&warnings);
    Ok(manifests)
}

fn warn(warnings: &[Warning]) {
    for warning in warnings {
        eprintln!("weft: warning: {}", printable(&format!("{}: {}", warning.place, warning.what)));
    }
}

/// The labs that run; what others left behind is removed first.
fn running() -> Result<Vec<LabDir>> {
    need_root()?;
    weft_lab::clean().context("remove what labs left behind that were killed")?;
    LabDir::running()
}

/// A lab's files are root's alone.
fn need_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { bail!(NotRoot) }
}
