//! Services: each is reached from every node, from Pods and from outside, by every address that it has, and sees who
//! comes; one without backends refuses; connections spread evenly.
//!
//! So are ports of nodes that lead to a Pod (`hostPort`).
//!
//! What is expected is what the kernel of the node says that it holds. A Service's own programs answer: those of a lab
//! that the responder stands in for say who they are and whom they saw; of any other a connection is proof enough.

mod judge;
mod plan;
mod spread;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use weft_agent::admin::{
    BackendStatus, Client, Request, Response, ServiceStatus, Visit, Visited, kernel_speaks_sctp, visit_from,
};
use weft_lab::OutsideRecord;
use weft_model::Protocol;

use super::{ended::ended, pairs::Endpoint};
use crate::command::agents::Agent;

/// A frame may be lost, and what is expected may be changing: what fails is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 3;

/// What is said where SCTP is proved by packets alone.
const NO_SCTP: &str = "this machine's kernel has no SCTP (module sctp): proved is the first step of its handshake, by packets of \
                       Weft's own";
/// What is said where anything speaks SCTP.
const NOT_FROM_NODES: &str = "not served, and so not tried, from a node's own programs to that node's ports and to external \
                              addresses";

/// What was proved of Services.
#[derive(Debug, Default, Serialize)]
pub struct ServicesReport {
    /// Ports of Services, one a family.
    pub ports: usize,
    /// Ports of nodes that lead to a Pod (`hostPort`), one a family.
    pub host_ports: usize,
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
    /// Services that no node has a backend for, and all refuse.
    pub without_backends: Vec<String>,
    /// UDP ports of which nothing could be proved.
    pub unproved: Vec<String>,
    /// What is not proved of SCTP, where a Service speaks it, and why.
    pub sctp: Vec<String>,
}

/// A Service's port, visited from everywhere.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `namespace/name:port protocol`, or a Pod's port on its node.
    pub service: String,
    /// It is a port of a node that leads to a Pod.
    pub host_port: bool,
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
    /// It is a port of a node that leads to a Pod.
    pub host_port: bool,
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
    /// Of a port of a node: the Pod that it leads to.
    host_port: Option<String>,
    /// One of the backends that it may be given.
    backend: Option<SocketAddr>,
    /// The visitor may be given itself.
    itself: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Answer,
    Refusal,
    /// Refused or dropped, as the Service's traffic policy says.
    Nothing,
    /// The Pod of the port does not answer there: its `hostIP` is another address.
    NotThatPod,
}

/// Proves what can be proved. `outside` is the lab's host, from which and in which programs may be asked who they are. Gives the
/// Pods as well that ended meanwhile and are left out.
pub fn prove(
    agents: &[Agent],
    endpoints: &[Endpoint],
    outside: Option<&OutsideRecord>,
) -> Result<(ServicesReport, BTreeSet<String>)> {
    let mut gone = BTreeSet::new();
    let mut held = held_by(agents)?;
    let mut attempt = 1;
    loop {
        let left: Vec<Endpoint> = endpoints.iter().filter(|one| !gone.contains(&one.name)).cloned().collect();
        let report = once(agents, &left, &held, outside);
        if report.as_ref().is_ok_and(ServicesReport::holds) || attempt == ATTEMPTS {
            return Ok((report?, gone));
        }
        // Where nothing has changed meanwhile, it fails; else the failure says nothing.
        let (now, ended) = (held_by(agents)?, ended(agents, &left)?);
        if ended.is_empty() && expected(&now) == expected(&held) {
            return Ok((report?, gone));
        }
        gone.extend(ended);
        held = now;
        attempt += 1;
    }
}

fn held_by(agents: &[Agent]) -> Result<Vec<Vec<ServiceStatus>>> {
    let ask = |agent: &Agent| Client::connect(&agent.socket)?.services().context("ask for its Services");
    agents.iter().map(ask).collect()
}

/// What visits go by: everything but the counters.
fn expected(held: &[Vec<ServiceStatus>]) -> Vec<Vec<ServiceStatus>> {
    let mut held = held.to_vec();
    for service in held.iter_mut().flatten() {
        (service.connections, service.without_backend) = (0, 0);
        service.backends.iter_mut().for_each(|backend| backend.connections = 0);
    }
    held
}

fn once(
    agents: &[Agent],
    endpoints: &[Endpoint],
    held: &[Vec<ServiceStatus>],
    outside: Option<&OutsideRecord>,
) -> Result<ServicesReport> {
    let mut visitors: Vec<Visitor> = plan::inside(agents, endpoints, held, outside.is_some());
    visitors.extend(outside.map(|outside| plan::from_outside(outside, agents, held)));
    let count = |host_port: bool| {
        let ports = held.iter().zip(agents).flat_map(|(services, agent)| {
            let meant = services.iter().filter(move |service| service.host_port == host_port);
            meant.map(move |service| plan::name(service, agent))
        });
        ports.collect::<BTreeSet<_>>().len()
    };
    let mut report =
        ServicesReport { ports: count(false), host_ports: count(true), ..ServicesReport::default() };
    let is_served = |service: &ServiceStatus| {
        let is_chosen = |backend: &BackendStatus| backend.internal || backend.cluster || backend.external;
        service.backends.iter().any(is_chosen)
            || service.node_answers
            || service.host_port
            || service.refused.is_some()
    };
    let (served, bare): (Vec<_>, Vec<_>) = held.iter().flatten().partition(|service| is_served(service));
    let names = |services: Vec<&ServiceStatus>| -> BTreeSet<String> {
        services.into_iter().map(plan::service_name).collect()
    };
    // Some serve on some nodes alone.
    report.without_backends = names(bare).difference(&names(served)).cloned().collect();
    let any_sctp = held.iter().flatten().any(|service| service.protocol == Protocol::Sctp);
    if any_sctp {
        report.sctp.push(NOT_FROM_NODES.to_owned());
        report.sctp.extend((!kernel_speaks_sctp()).then(|| NO_SCTP.to_owned()));
    }
    report.sampled = plan::sample(&mut visitors);
    report.visits = visitors.iter().map(|visitor| visitor.plan.len()).sum();
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = visitors.iter().map(|visitor| scope.spawn(|| all(visitor))).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a task panicked")));
        joined.collect::<Result<Vec<_>>>()
    })?;
    judge::judge(&visitors, &outcomes, &mut report);
    if outside.is_some() {
        report.uneven = spread::uneven(&visitors, held)?;
    }
    Ok(report)
}

impl ServicesReport {
    /// Nothing is wrong.
    pub fn holds(&self) -> bool {
        self.failed.is_empty() && self.uneven.is_empty()
    }
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
            *outcome = (last.as_ref().and_then(|visited| judge::problem(visitor, planned, visited)), last);
        }
    }
    blame_backends(visitor, &mut outcomes)?;
    Ok(outcomes)
}

/// Tells refusals of the Pods behind a Service from those on the way to them.
fn blame_backends(visitor: &Visitor, outcomes: &mut [(Option<String>, Option<Visited>)]) -> Result<()> {
    let refused = visitor.plan.iter().zip(outcomes).filter_map(|(planned, (problem, last))| {
        let refused = planned.expected == Expected::Answer && *last == Some(Visited::Refused);
        Some((planned, planned.backend.filter(|_| refused)?, problem.as_mut()?))
    });
    let (problems, visits): (Vec<_>, Vec<_>) = refused
        .map(|(planned, backend, problem)| {
            let (address, port) = (backend.ip(), backend.port());
            ((backend, problem), Visit { address, port, ..planned.visit })
        })
        .unzip();
    if visits.is_empty() {
        return Ok(());
    }
    let visited =
        go(&visitor.from, &visits).with_context(|| format!("visit backends from {}", visitor.name))?;
    for ((backend, problem), visited) in problems.into_iter().zip(visited) {
        if visited.last() == Some(&Visited::Refused) {
            *problem = format!("nothing listens at its backend {backend}: the Pod itself refuses");
        }
    }
    Ok(())
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
