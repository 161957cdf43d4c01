//! Services: each is reached from every node, from Pods and from outside, by every address that it has, and sees who
//! comes; one without backends refuses; connections spread evenly.
//!
//! What is expected is what the kernel of the node says that it holds. A Service's own programs answer: those of a lab
//! that the responder stands in for say who they are and whom they saw; of any other a TCP connection is proof enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use weft_agent::admin::{
    BackendStatus, Client, Request, Response, ServiceStatus, Visit, Visited, visit_from,
};
use weft_lab::OutsideRecord;
use weft_model::{
    Protocol,
    services::{Frontend, FrontendKind},
};

use super::pairs::Endpoint;
use crate::command::agents::Agent;

/// Visits up to which everything is tried; beyond, a sample of the Services from every place.
const MOST_VISITS: usize = 6000;
/// Pods of a node that visit; the node itself does as well.
const PODS_A_NODE: usize = 2;
/// Services whose spread is looked at, and connections for each backend.
const SPREADS: usize = 3;
const CONNECTIONS_A_BACKEND: usize = 100;
/// A frame may be lost, and what is expected may be changing: what fails is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 3;

/// What was proved of Services.
#[derive(Debug, Default, Serialize)]
pub struct ServicesReport {
    /// Ports of Services, one a family.
    pub ports: usize,
    /// Visits that were made.
    pub visits: usize,
    /// Not every Service was visited.
    pub sampled: bool,
    /// What came of the visits, by Service and kind of place.
    pub matrix: Vec<Row>,
    /// Visits that did not do what they should.
    pub failed: Vec<Failure>,
    /// Services over whose backends connections do not spread evenly.
    pub uneven: Vec<String>,
    /// UDP and SCTP ports of which nothing could be proved.
    pub unproved: Vec<String>,
}

/// A Service's port, visited from everywhere.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `namespace/name:port protocol`.
    pub service: String,
    /// From nodes.
    pub nodes: Count,
    /// From Pods.
    pub pods: Count,
    /// From outside.
    pub outside: Count,
}

/// How many of how many.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Count {
    /// Did what they should.
    pub good: usize,
    /// All.
    pub all: usize,
}

/// A visit that did not do what it should.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// From where.
    pub from: String,
    /// The Service.
    pub service: String,
    /// By which address.
    pub address: SocketAddr,
    /// What went wrong.
    pub problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Node,
    Pod,
    Outside,
}

/// Where visits come from.
struct Visitor {
    name: String,
    kind: Kind,
    addresses: Vec<IpAddr>,
    from: From,
    plan: Vec<Planned>,
}

enum From {
    Agent(PathBuf, weft_agent::admin::Place),
    Netns(PathBuf),
}

#[derive(Clone)]
struct Planned {
    service: String,
    visit: Visit,
    expected: Expected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Answer,
    Refusal,
    /// Refused or dropped, as the Service's traffic policy says.
    Nothing,
}

/// Which choice of backends a visitor meets.
type Chosen = fn(&BackendStatus) -> bool;

/// Proves what can be proved. `outside` is the lab's host, from which and in which programs may be asked who they are.
pub fn prove(
    agents: &[Agent],
    endpoints: &[Endpoint],
    outside: Option<&OutsideRecord>,
) -> Result<ServicesReport> {
    let mut held = Vec::new();
    for agent in agents {
        held.push(Client::connect(&agent.socket)?.services().context("ask for its Services")?);
    }
    let mut visitors: Vec<Visitor> = inside(agents, endpoints, &held, outside.is_some());
    visitors.extend(outside.map(|outside| from_outside(outside, &held)));
    let mut report = ServicesReport {
        ports: held
            .iter()
            .flatten()
            .filter(|service| !service.host_port)
            .map(name)
            .collect::<BTreeSet<_>>()
            .len(),
        ..ServicesReport::default()
    };
    report.sampled = sample(&mut visitors);
    report.visits = visitors.iter().map(|visitor| visitor.plan.len()).sum();
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = visitors.iter().map(|visitor| scope.spawn(|| all(visitor))).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a task panicked")));
        joined.collect::<Result<Vec<_>>>()
    })?;
    judge(&visitors, &outcomes, &mut report);
    if outside.is_some() {
        report.uneven = spread(&visitors, &held)?;
    }
    Ok(report)
}

impl ServicesReport {
    /// Nothing is wrong.
    pub fn holds(&self) -> bool {
        self.failed.is_empty() && self.uneven.is_empty()
    }
}

fn name(service: &ServiceStatus) -> String {
    let family = if service.ipv6 { " IPv6" } else { "" };
    let port = if service.port.is_empty() { String::new() } else { format!(":{}", service.port) };
    format!("{}/{}{port} {}{family}", service.namespace, service.name, service.protocol)
}

fn planned(service: &ServiceStatus, frontend: &Frontend, chosen: Chosen, ask: bool) -> Option<Planned> {
    let provable = match service.protocol {
        Protocol::Tcp => true,
        // A connection is no proof where there are none.
        Protocol::Udp => ask,
        Protocol::Sctp => false,
    };
    let expected = match () {
        () if service.backends.iter().any(chosen) => Expected::Answer,
        () if service.backends.iter().any(|backend| backend.serving) => Expected::Nothing,
        () => Expected::Refusal,
    };
    let visit =
        Visit { protocol: service.protocol, address: frontend.address, port: frontend.port, ask, times: 1 };
    (provable && service.refused.is_none()).then(|| Planned { service: name(service), visit, expected })
}

fn inside(agents: &[Agent], endpoints: &[Endpoint], held: &[Vec<ServiceStatus>], ask: bool) -> Vec<Visitor> {
    let mut visitors = Vec::new();
    let mut pods: BTreeMap<usize, usize> = BTreeMap::new();
    for endpoint in endpoints {
        if !endpoint.host {
            let count = pods.entry(endpoint.agent).or_default();
            *count += 1;
            if *count > PODS_A_NODE {
                continue;
            }
        }
        let (Some(agent), Some(services)) = (agents.get(endpoint.agent), held.get(endpoint.agent)) else {
            continue;
        };
        let has = |frontend: &&Frontend| {
            let same = |own: &IpAddr| own.is_ipv4() == frontend.address.is_ipv4();
            endpoint.addresses.iter().any(same) && !frontend.address.is_loopback()
        };
        let plan = services.iter().filter(|service| !service.host_port).flat_map(|service| {
            service.frontends.iter().filter(has).filter_map(move |frontend| {
                let chosen: Chosen = match frontend.kind {
                    FrontendKind::ClusterIp => |backend| backend.internal,
                    _ => |backend| backend.cluster,
                };
                planned(service, frontend, chosen, ask)
            })
        });
        visitors.push(Visitor {
            name: endpoint.name.clone(),
            kind: if endpoint.host { Kind::Node } else { Kind::Pod },
            addresses: endpoint.addresses.clone(),
            from: From::Agent(agent.socket.clone(), endpoint.place.clone()),
            plan: plan.collect(),
        });
    }
    visitors
}

fn from_outside(outside: &OutsideRecord, held: &[Vec<ServiceStatus>]) -> Visitor {
    let mut plan: BTreeMap<(IpAddr, u16, String), Planned> = BTreeMap::new();
    for service in held.iter().flatten().filter(|service| !service.host_port) {
        for frontend in &service.frontends {
            // Cluster IPs lead nowhere outside, and nobody announces external addresses.
            let reachable = matches!(frontend.kind, FrontendKind::NodePort | FrontendKind::LoadBalancer);
            let on_fabric = outside.addresses.iter().any(|own| own.is_ipv4() == frontend.address.is_ipv4())
                && !frontend.address.is_loopback();
            if !reachable || !on_fabric {
                continue;
            }
            let Some(new) = planned(service, frontend, |backend| backend.external, true) else { continue };
            // Several nodes hold a LoadBalancer address: the one that has backends answers for it.
            let place = (frontend.address, frontend.port, new.service.clone());
            let held = plan.entry(place).or_insert_with(|| new.clone());
            if new.expected == Expected::Answer {
                held.expected = Expected::Answer;
            }
        }
    }
    Visitor {
        name: "outside".into(),
        kind: Kind::Outside,
        addresses: outside.addresses.clone(),
        from: From::Netns(PathBuf::from("/run/netns").join(&outside.netns)),
        plan: plan.into_values().collect(),
    }
}

/// Thins the plans out until they are few enough. True when something was left out.
fn sample(visitors: &mut [Visitor]) -> bool {
    let each = (MOST_VISITS / visitors.len().max(1)).max(1);
    let mut sampled = false;
    for (at, visitor) in visitors.iter_mut().enumerate() {
        let step = visitor.plan.len().div_ceil(each).max(1);
        sampled |= step > 1;
        // Each place begins elsewhere, so that together they see more.
        let mut index = at;
        visitor.plan.retain(|_| {
            index += 1;
            index.is_multiple_of(step)
        });
    }
    sampled
}

/// Makes all visits of a place; those that fail again. Gives the problem of each, if there is one, and what came last.
fn all(visitor: &Visitor) -> Result<Vec<(Option<String>, Option<Visited>)>> {
    let mut outcomes: Vec<(Option<String>, Option<Visited>)> =
        vec![(Some("not tried".into()), None); visitor.plan.len()];
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            thread::sleep(AGAIN);
        }
        let open: Vec<usize> =
            (0..outcomes.len()).filter(|at| outcomes.get(*at).is_some_and(|one| one.0.is_some())).collect();
        if open.is_empty() {
            break;
        }
        let visits: Vec<Visit> = open.iter().filter_map(|at| Some(visitor.plan.get(*at)?.visit)).collect();
        let visited =
            go(&visitor.from, &visits).with_context(|| format!("visit Services from {}", visitor.name))?;
        for (at, mut visited) in open.into_iter().zip(visited) {
            let (Some(planned), Some(outcome)) = (visitor.plan.get(at), outcomes.get_mut(at)) else {
                continue;
            };
            let last = visited.pop();
            *outcome = (last.as_ref().and_then(|visited| problem(visitor, planned, visited)), last);
        }
    }
    Ok(outcomes)
}

fn go(from: &From, visits: &[Visit]) -> Result<Vec<Vec<Visited>>> {
    match from {
        From::Netns(path) => Ok(visit_from(Some(path), visits)?),
        From::Agent(socket, place) => {
            let request = Request::Visit { from: place.clone(), to: visits.to_vec() };
            match Client::connect(socket)?.ask(&request)? {
                Response::Visited { outcomes } if outcomes.len() == visits.len() => Ok(outcomes),
                other => bail!("the agent answered {other:?}"),
            }
        }
    }
}

fn problem(visitor: &Visitor, planned: &Planned, visited: &Visited) -> Option<String> {
    match (planned.expected, visited) {
        (Expected::Answer, Visited::Answered { by, source }) => {
            let source = source.filter(|source| !visitor.addresses.contains(source))?;
            // Who is given itself may see itself under another name.
            let itself = by.as_ref() == Some(&visitor.name);
            (!itself).then(|| format!("seen as {source}, which is not the client's address"))
        }
        (Expected::Answer, Visited::Connected)
        | (Expected::Refusal | Expected::Nothing, Visited::Refused)
        | (Expected::Nothing, Visited::Silent) => None,
        (Expected::Answer, Visited::Refused) => Some("refused, although it has backends".into()),
        (Expected::Answer, Visited::Silent) => Some("no answer".into()),
        (Expected::Refusal, Visited::Silent) => Some("no answer: without a backend it has to refuse".into()),
        (_, Visited::Failed(why)) => Some(why.clone()),
        (_, Visited::Answered { .. } | Visited::Connected) => {
            Some("answered, although this node holds no backend for it".into())
        }
    }
}

fn judge(
    visitors: &[Visitor],
    outcomes: &[Vec<(Option<String>, Option<Visited>)>],
    report: &mut ServicesReport,
) {
    let every = || {
        visitors.iter().zip(outcomes).flat_map(|(visitor, outcomes)| {
            visitor.plan.iter().zip(outcomes).map(move |(planned, outcome)| (visitor, planned, outcome))
        })
    };
    let answered: BTreeSet<&str> = every()
        .filter(|(_, _, (_, last))| matches!(last, Some(Visited::Answered { .. })))
        .map(|(_, planned, _)| planned.service.as_str())
        .collect();
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut unproved = BTreeSet::new();
    for (visitor, planned, (problem, last)) in every() {
        // A server that answers no datagram anywhere need not be one that answers any.
        let mute = planned.visit.protocol == Protocol::Udp
            && planned.expected == Expected::Answer
            && *last == Some(Visited::Silent)
            && !answered.contains(planned.service.as_str());
        if mute {
            unproved.insert(planned.service.clone());
            continue;
        }
        let row = rows.entry(&planned.service).or_insert_with(|| Row {
            service: planned.service.clone(),
            nodes: Count::default(),
            pods: Count::default(),
            outside: Count::default(),
        });
        let count = match visitor.kind {
            Kind::Node => &mut row.nodes,
            Kind::Pod => &mut row.pods,
            Kind::Outside => &mut row.outside,
        };
        count.all += 1;
        count.good += usize::from(problem.is_none());
        report.failed.extend(problem.as_ref().map(|problem| Failure {
            from: visitor.name.clone(),
            service: planned.service.clone(),
            address: SocketAddr::new(planned.visit.address, planned.visit.port),
            problem: problem.clone(),
        }));
    }
    report.matrix = rows.into_values().collect();
    report.unproved = unproved.into_iter().collect();
}

/// Connects often to a few Services and says over whose backends that does not spread evenly.
fn spread(visitors: &[Visitor], held: &[Vec<ServiceStatus>]) -> Result<Vec<String>> {
    let (Some(visitor), Some(services)) =
        (visitors.iter().find(|visitor| visitor.kind == Kind::Node), held.first())
    else {
        return Ok(Vec::new());
    };
    let several = |service: &&ServiceStatus| {
        let chosen = service.backends.iter().filter(|backend| backend.internal).count();
        service.protocol == Protocol::Tcp && service.affinity_seconds.is_none() && (2..=50).contains(&chosen)
    };
    let mut uneven = Vec::new();
    for service in services.iter().filter(several).take(SPREADS) {
        let chosen = service.backends.iter().filter(|backend| backend.internal).count();
        let Some(frontend) = service.frontends.iter().find(|one| one.kind == FrontendKind::ClusterIp) else {
            continue;
        };
        let times = u16::try_from(chosen * CONNECTIONS_A_BACKEND).unwrap_or(u16::MAX);
        let visit = Visit {
            protocol: Protocol::Tcp,
            address: frontend.address,
            port: frontend.port,
            ask: true,
            times,
        };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for visited in go(&visitor.from, &[visit])?.into_iter().flatten() {
            if let Visited::Answered { by: Some(by), .. } = visited {
                *counts.entry(by).or_default() += 1;
            }
        }
        // Only where every connection was answered by who says its name does the count say something.
        let answered: usize = counts.values().sum();
        if answered == usize::from(times) && !is_even(counts.values().copied(), chosen) {
            let list: Vec<String> = counts.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
            uneven.push(format!("{}: {} of {times} connections", name(service), list.join(", ")));
        }
    }
    Ok(uneven)
}

/// Whether the counts of `backends` backends deviate no more than random choice does (chi-squared; one in a million even
/// spreads is taken for uneven).
fn is_even(counts: impl Iterator<Item = usize>, backends: usize) -> bool {
    let counts: Vec<f64> = counts.map(|count| count as f64).collect();
    let total: f64 = counts.iter().sum();
    let expected = total / backends as f64;
    let missing = backends.saturating_sub(counts.len()) as f64 * expected;
    let squares: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    let freedom = backends.saturating_sub(1).max(1) as f64;
    // Wilson and Hilferty's approximation of the distribution, 4.75 standard deviations out.
    let bound = freedom * (1.0 - 2.0 / (9.0 * freedom) + 4.75 * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
    squares + missing <= bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_even_and_a_favourite_is_not() {
        assert!(is_even([108, 92, 97, 103].into_iter(), 4));
        assert!(!is_even([200, 70, 60, 70].into_iter(), 4));
        assert!(!is_even([133, 133, 134].into_iter(), 4), "one gets nothing");
        assert!(is_even([110, 90].into_iter(), 2));
    }
}
