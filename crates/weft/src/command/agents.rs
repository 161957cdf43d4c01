//! The agents that a command asks: those of a lab, or those whose sockets are named.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use weft_agent::admin::{Client, ClientError, Status};
use weft_lab::{LabDir, OutsideRecord};

use super::lab::LabArgs;
use crate::output::printable;

/// Where an agent that was started without `--socket` listens.
const CONVENTIONAL: &str = "/run/weft/agent.sock";

/// An agent says how it is within less, unless it is stuck.
const DEADLINE: Duration = Duration::from_secs(3);

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

/// An agent that did not answer: nothing is known of its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// Its node, or its socket where that is all that is known.
    pub node: String,
    /// Why it is not known.
    pub why: String,
}

/// What came of asking all agents.
#[derive(Debug)]
pub struct Asked {
    /// Those that answered.
    pub agents: Vec<Agent>,
    /// Those that did not.
    pub silent: Vec<Silent>,
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not known: {}", self.node, self.why)
    }
}

impl Asked {
    /// Says on standard error who did not answer.
    pub fn warn(&self) {
        for silent in &self.silent {
            eprintln!("weft: {}", printable(&silent.to_string()));
        }
    }
}

impl AgentArgs {
    /// The sockets that are meant, by their nodes' names as far as these are known.
    fn sockets(&self) -> Result<Vec<(String, PathBuf)>> {
        let unnamed = |socket: &PathBuf| (socket.display().to_string(), socket.clone());
        if !self.sockets.is_empty() {
            return Ok(self.sockets.iter().map(unnamed).collect());
        }
        match self.lab.choose() {
            Ok(lab) => Ok(lab.record()?.nodes.into_iter().map(|node| (node.name, node.socket)).collect()),
            Err(_) if self.lab.name.is_none() && Path::new(CONVENTIONAL).exists() => {
                Ok(vec![unnamed(&CONVENTIONAL.into())])
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

    /// Asks every agent for its status, all at once.
    ///
    /// # Errors
    /// When none answers.
    pub fn ask(&self) -> Result<Asked> {
        let sockets = self.sockets()?;
        let answers: Vec<Result<Agent, String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = sockets
                .iter()
                .map(|(_, socket)| scope.spawn(|| ask(socket).map_err(|why| why.to_string())))
                .collect();
            let panicked = |_| Err("asking it panicked".to_owned());
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        let mut asked = Asked { agents: Vec::new(), silent: Vec::new() };
        for (answer, (node, _)) in answers.into_iter().zip(sockets) {
            match answer {
                Ok(agent) => asked.agents.push(agent),
                Err(why) => asked.silent.push(Silent { node, why }),
            }
        }
        if asked.agents.is_empty() {
            let why: Vec<&str> = asked.silent.iter().map(|silent| silent.why.as_str()).collect();
            bail!("{}", why.join("\n"));
        }
        Ok(asked)
    }
}

fn ask(socket: &Path) -> Result<Agent, ClientError> {
    let status = Client::connect_within(socket, DEADLINE)?.status()?;
    Ok(Agent { socket: socket.to_owned(), status })
}
