//! The agents that a command asks: those of a lab, or those whose sockets are named.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use weft_agent::admin::{Client, Status};
use weft_lab::{LabDir, OutsideRecord};

use super::lab::LabArgs;

/// Where an agent that was started without `--socket` listens.
const CONVENTIONAL: &str = "/run/weft/agent.sock";

/// Which agents.
#[derive(Args, Debug)]
pub struct AgentArgs {
    #[command(flatten)]
    lab: LabArgs,
    /// Socket of an agent, instead of a lab's; may be given more than once [default: this node's agent, if no lab runs]
    #[arg(long = "agent", value_name = "SOCKET", conflicts_with = "name")]
    sockets: Vec<PathBuf>,
}

/// An agent that answered.
#[derive(Clone, Debug)]
pub struct Agent {
    pub socket: PathBuf,
    pub status: Status,
}

impl AgentArgs {
    /// The sockets that are meant.
    fn sockets(&self) -> Result<Vec<PathBuf>> {
        if !self.sockets.is_empty() {
            return Ok(self.sockets.clone());
        }
        match self.lab.choose() {
            Ok(lab) => Ok(lab.record()?.nodes.into_iter().map(|node| node.socket).collect()),
            Err(_) if self.lab.name.is_none() && Path::new(CONVENTIONAL).exists() => {
                Ok(vec![CONVENTIONAL.into()])
            }
            Err(error) => Err(error),
        }
    }

    /// The lab whose agents are meant, if it is one.
    pub fn lab(&self) -> Result<Option<LabDir>> {
        if !self.sockets.is_empty() {
            return Ok(None);
        }
        match self.lab.choose() {
            Ok(lab) => Ok(Some(lab)),
            // This node's own agent was asked.
            Err(_) if self.lab.name.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The host outside the cluster, if the agents are a lab's.
    pub fn outside(&self) -> Result<Option<OutsideRecord>> {
        self.lab()?.map(|lab| Ok(lab.record()?.outside)).transpose()
    }

    /// Asks every agent for its status, all at once. One that does not answer is an error: nothing can be said of its node.
    pub fn ask(&self) -> Result<Vec<Agent>> {
        let sockets = self.sockets()?;
        let asked: Vec<Result<Agent>> = std::thread::scope(|scope| {
            let threads: Vec<_> = sockets.iter().map(|socket| scope.spawn(|| ask(socket))).collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("asking an agent panicked")))
                })
                .collect()
        });
        asked.into_iter().collect()
    }
}

fn ask(socket: &Path) -> Result<Agent> {
    let status = Client::connect(socket)?.status().context("ask for its status")?;
    Ok(Agent { socket: socket.to_owned(), status })
}
