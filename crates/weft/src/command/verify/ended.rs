//! Pods that end while they are looked at: nothing is proved of them, and nothing that failed counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use weft_agent::admin::{Client, Status};

use super::pairs::Endpoint;
use crate::command::agents::Agent;

/// The names of those endpoints that are not attached any more. A Pod that has come in the place of one is another.
pub fn ended(agents: &[Agent], endpoints: &[Endpoint]) -> Result<BTreeSet<String>> {
    let mut now = Vec::new();
    for agent in agents {
        now.push(attached(&Client::connect(&agent.socket)?.status().context("ask which Pods are attached")?));
    }
    let was: Vec<_> = agents.iter().map(|agent| attached(&agent.status)).collect();
    let same = |endpoint: &&Endpoint| {
        let of = |all: &[BTreeMap<String, PathBuf>]| all.get(endpoint.agent)?.get(&endpoint.name).cloned();
        endpoint.host || of(&now).is_some_and(|netns| of(&was) == Some(netns))
    };
    Ok(endpoints.iter().filter(|one| !same(one)).map(|one| one.name.clone()).collect())
}

fn attached(status: &Status) -> BTreeMap<String, PathBuf> {
    let named = status.pods.iter().filter_map(|pod| Some((pod.pod.as_ref()?.to_string(), pod.netns.clone())));
    named.collect()
}
