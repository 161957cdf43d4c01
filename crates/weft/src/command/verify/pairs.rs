//! Who connects to whom, and what comes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use weft_agent::admin::{Client, Outcome, Place, Reply, Request, Response, Target};

use super::ended::ended;
use crate::command::agents::Agent;

/// A Pod, or a node (and with it every Pod on the host's network).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// `namespace/name`, or the node's name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// It is a node.
    pub host: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    #[serde(skip)]
    pub agent: usize,
    #[serde(skip)]
    pub place: Place,
}

/// One source, one destination, one address.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Index of the source.
    pub from: usize,
    /// Index of the destination.
    pub to: usize,
    outcome: Outcome,
}

/// A pair of which something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Name of the source.
    pub from: String,
    /// Name of the destination.
    pub to: String,
    /// Address of the destination.
    pub address: IpAddr,
    /// What failed, in words.
    pub problems: Vec<String>,
}

impl Proof {
    /// Whether everything came back from where it should.
    pub fn holds(&self, endpoints: &[Endpoint]) -> bool {
        self.failures(endpoints).is_none()
    }

    /// What failed, if anything did.
    pub fn failures(&self, endpoints: &[Endpoint]) -> Option<Failure> {
        let (from, to) = (endpoints.get(self.from)?, endpoints.get(self.to)?);
        let probes =
            [("TCP", &self.outcome.tcp), ("UDP", &self.outcome.udp), ("full MTU", &self.outcome.full_size)];
        let problems: Vec<String> = probes
            .into_iter()
            .filter_map(|(what, reply)| match reply {
                Reply::Seen(source) if from.addresses.contains(source) => None,
                Reply::Seen(source) => {
                    Some(format!("{what}: seen as {source}, which is not the sender's address (NAT)"))
                }
                Reply::Failed(why) => match self.outcome.mtu.filter(|_| what == "full MTU") {
                    Some(mtu) => Some(format!("{what} ({mtu} bytes): {why}")),
                    None => Some(format!("{what}: {why}")),
                },
            })
            .collect();
        let failure = || Failure {
            from: from.name.clone(),
            to: to.name.clone(),
            address: self.outcome.target.address,
            problems: problems.clone(),
        };
        (!problems.is_empty()).then(failure)
    }
}

/// Every node and Pod, or as many of each node's as keep the pairs below `most`. Says whether some were left out.
pub fn endpoints(agents: &[Agent], most: usize) -> (Vec<Endpoint>, bool) {
    let mut per_agent: Vec<Vec<Endpoint>> =
        agents.iter().enumerate().map(|(index, agent)| of(index, agent)).collect();
    let total: usize = per_agent.iter().map(Vec::len).sum();
    let sampled = total * total.saturating_sub(1) > most;
    if sampled {
        // The node itself and at least one Pod of each.
        let each = (most.isqrt() / agents.len().max(1)).max(2);
        per_agent.iter_mut().for_each(|endpoints| endpoints.truncate(each));
    }
    (per_agent.into_iter().flatten().collect(), sampled)
}

fn of(index: usize, agent: &Agent) -> Vec<Endpoint> {
    let node = agent.status.node.to_string();
    let host = Endpoint {
        name: node.clone(),
        node: node.clone(),
        host: true,
        addresses: agent.status.node_addresses.clone(),
        agent: index,
        place: Place::Host,
    };
    // What the runtime did not name cannot be asked for.
    let mut pods: Vec<Endpoint> = agent
        .status
        .pods
        .iter()
        .filter_map(|pod| {
            let key = pod.pod.clone()?;
            Some(Endpoint {
                name: key.to_string(),
                node: node.clone(),
                host: false,
                addresses: pod.addresses.clone(),
                agent: index,
                place: Place::Pod(key),
            })
        })
        .collect();
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    [host].into_iter().chain(pods).collect()
}

/// How many connections it takes to connect every endpoint to every other, over each family that both have.
pub fn count(endpoints: &[Endpoint]) -> usize {
    let of = |from: &Endpoint| {
        let others = endpoints.iter().filter(|to| to.name != from.name);
        others.flat_map(|to| &to.addresses).filter(|address| from.has_family(address)).count()
    };
    endpoints.iter().map(of).sum()
}

/// Connects every endpoint to every other. Gives what came of it, and the Pods that ended meanwhile and are left out.
pub fn prove(agents: &[Agent], endpoints: &[Endpoint]) -> Result<(Vec<Proof>, BTreeSet<String>)> {
    let listening = side_by_side(endpoints.iter().collect(), |endpoint| Ok(listen(agents, endpoint)))?;
    let sources = side_by_side((0..endpoints.len()).collect(), |from| {
        let endpoint = endpoints.get(from).context("an endpoint")?;
        let targets: Vec<(usize, Target)> = listening
            .iter()
            .enumerate()
            .filter(|(to, _)| *to != from)
            .filter_map(|(to, listening)| Some((to, listening.as_ref().ok()?)))
            .flat_map(|(to, (_, targets))| targets.iter().map(move |target| (to, *target)))
            .filter(|(_, target)| endpoint.has_family(&target.address))
            .collect();
        Ok(probe(agents, endpoint, from, &targets))
    })?;
    for (endpoint, (id, _)) in
        endpoints.iter().zip(&listening).filter_map(|(one, listening)| Some((one, listening.as_ref().ok()?)))
    {
        // They close by themselves as well.
        let _ =
            client(agents, endpoint).and_then(|mut client| Ok(client.ask(&Request::ProbeClose { id: *id })?));
    }
    let failed = |proofs: &Vec<Proof>| proofs.iter().any(|proof| !proof.holds(endpoints));
    let all_is_well = listening.iter().all(Result::is_ok)
        && sources.iter().all(|proofs| proofs.as_ref().is_ok_and(|proofs| !failed(proofs)));
    let ended = if all_is_well { BTreeSet::new() } else { ended(agents, endpoints)? };
    let is_left = |at: usize| endpoints.get(at).is_some_and(|endpoint| !ended.contains(&endpoint.name));
    for (_, listening) in listening.into_iter().enumerate().filter(|(at, _)| is_left(*at)) {
        listening?;
    }
    let mut proved = Vec::new();
    for (_, proofs) in sources.into_iter().enumerate().filter(|(at, _)| is_left(*at)) {
        proved.extend(proofs?.into_iter().filter(|proof| is_left(proof.to)));
    }
    Ok((proved, ended))
}

impl Endpoint {
    fn has_family(&self, address: &IpAddr) -> bool {
        self.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4())
    }
}

fn listen(agents: &[Agent], endpoint: &Endpoint) -> Result<(u64, Vec<Target>)> {
    let request = Request::ProbeListen { at: endpoint.place.clone() };
    match client(agents, endpoint)?.ask(&request).with_context(|| format!("listen in {}", endpoint.name))? {
        Response::Listening { id, listeners } => Ok((id, listeners)),
        other => bail!("listen in {}: the agent answered {other:?}", endpoint.name),
    }
}

fn probe(
    agents: &[Agent],
    endpoint: &Endpoint,
    from: usize,
    targets: &[(usize, Target)],
) -> Result<Vec<Proof>> {
    let to = targets.iter().map(|(_, target)| *target).collect();
    let request = Request::Probe { from: endpoint.place.clone(), to };
    match client(agents, endpoint)?.ask(&request).with_context(|| format!("probe from {}", endpoint.name))? {
        Response::Probed { outcomes } if outcomes.len() == targets.len() => Ok(outcomes
            .into_iter()
            .zip(targets)
            .map(|(outcome, (to, _))| Proof { from, to: *to, outcome })
            .collect()),
        other => bail!("probe from {}: the agent answered {other:?}", endpoint.name),
    }
}

fn client(agents: &[Agent], endpoint: &Endpoint) -> Result<Client> {
    let agent = agents.get(endpoint.agent).with_context(|| format!("the agent of {}", endpoint.name))?;
    Ok(Client::connect(&agent.socket)?)
}

/// Runs a task for every item, a few at once, and keeps their order.
pub fn side_by_side<I: Send, T: Send>(items: Vec<I>, task: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
    const AT_ONCE: usize = 8;
    let queue = std::sync::Mutex::new(items.into_iter().enumerate());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let work = || {
        let mut done = Vec::new();
        while let Some((index, item)) = next() {
            done.push((index, task(item)?));
        }
        Ok::<_, anyhow::Error>(done)
    };
    let mut results = BTreeMap::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            results.extend(thread.join().map_err(|_| anyhow!("a task panicked"))??);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(results.into_values().collect())
}
