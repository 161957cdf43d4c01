//! Names: each Service's is found from each Pod that asks the cluster's DNS, as the Pod's own resolv.conf says, and leads to
//! what the API server says of the Service.
//!
//! What is expected is worked out here, from the API's objects alone; the server that is proved has no part in it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use weft_agent::admin::{Client, LookUp, LookedUp, Request, Response, StubResolver};
use weft_lab::LabDir;
use weft_model::services::{AddressType, EndpointSlice, Event, Service, ServiceKey, ServiceType, SliceKey};

use super::{
    ended::ended,
    pairs::{Endpoint, side_by_side},
};
use crate::command::agents::Agent;

/// Look-ups up to which every name is looked up in every Pod; beyond, a sample of the names in each.
const MOST_LOOK_UPS: usize = 20_000;
/// An agent is asked for so many at a time.
const AT_A_TIME: usize = 200;
/// What is expected may be changing: what fails is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);
const ATTEMPTS: usize = 3;
/// The API server lists everything within this.
const PATIENCE: Duration = Duration::from_secs(20);
/// On the way from the API server.
const ON_THE_WAY: usize = 512;

/// What was proved of names.
#[derive(Debug, Default, Serialize)]
pub struct NamesReport {
    /// Names, one a type of record.
    pub names: usize,
    /// Pods in which they were looked up.
    pub pods: usize,
    /// Look-ups that were made.
    pub look_ups: usize,
    /// Not every name was looked up in every Pod.
    pub sampled: bool,
    /// Look-ups that did not lead where they should.
    pub failed: Vec<Failure>,
    /// Pods that ask others, by their dnsPolicy or dnsConfig, or of which nobody can say whom they ask.
    pub left_out: Vec<String>,
}

/// A name that did not lead where it should.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The Pod.
    pub from: String,
    /// What was looked up, as it would be typed there.
    pub name: String,
    /// The type of record.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What went wrong.
    pub problem: String,
}

/// A name, and where it has to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    service: String,
    namespace: String,
    kind: &'static str,
    leads_to: Where,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Addresses(BTreeSet<IpAddr>),
    Alias(String),
}

/// What the API server lists.
#[derive(Default)]
struct Listed {
    services: BTreeMap<ServiceKey, Service>,
    slices: BTreeMap<SliceKey, EndpointSlice>,
}

/// A Pod that asks the cluster's DNS, and what it looks up: as it is typed there.
struct Asker<'a> {
    endpoint: &'a Endpoint,
    stub: StubResolver,
    plan: Vec<(String, Name)>,
}

impl NamesReport {
    /// Nothing is wrong.
    pub fn holds(&self) -> bool {
        self.failed.is_empty()
    }
}

/// Proves what the API server behind `kubeconfig` says, or that of the cluster whose Pod this is. `lab` knows what its Pods are told to ask.
pub fn prove(
    agents: &[Agent],
    endpoints: &[Endpoint],
    kubeconfig: Option<&Path>,
    lab: Option<&LabDir>,
) -> Result<NamesReport> {
    let mut report = once(agents, endpoints, kubeconfig, lab)?;
    // What is expected is asked for anew each time: an endpoint may have come or gone meanwhile.
    for _ in 1..ATTEMPTS {
        if report.holds() {
            break;
        }
        thread::sleep(AGAIN);
        report = once(agents, endpoints, kubeconfig, lab)?;
    }
    Ok(report)
}

fn once(
    agents: &[Agent],
    endpoints: &[Endpoint],
    kubeconfig: Option<&Path>,
    lab: Option<&LabDir>,
) -> Result<NamesReport> {
    let listed = crate::command::block_on(list(kubeconfig))?;
    let names = names(&listed);
    let mut report = NamesReport { names: names.len(), ..NamesReport::default() };
    let mut askers = askers(agents, endpoints, &listed, lab, &mut report.left_out)?;
    report.sampled = plan(&mut askers, &names);
    report.pods = askers.len();
    report.look_ups = askers.iter().map(|asker| asker.plan.len()).sum();
    for looked_up in side_by_side(askers.iter().collect(), |asker| look_up(agents, asker))? {
        match looked_up {
            Ok(failures) => report.failed.extend(failures),
            Err(Gone(pod)) => report.left_out.push(format!("{pod}: it has ended meanwhile")),
        }
    }
    Ok(report)
}

/// All Services and EndpointSlices, headless ones and those of other proxies as well: they have names.
async fn list(kubeconfig: Option<&Path>) -> Result<Listed> {
    let client = weft_kube::Client::new(kubeconfig).await?;
    // Who carries traffic hears nothing here.
    let (served, _) = mpsc::channel(ON_THE_WAY);
    let (all, mut events) = mpsc::channel(ON_THE_WAY);
    let sinks = weft_kube::ServiceEvents { served, all: Some(all) };
    let (health, seen) = watch::channel(weft_kube::WatchHealth::default());
    let watches = async {
        tokio::join!(
            weft_kube::watch_services(client.clone(), sinks.clone(), health.clone()),
            weft_kube::watch_slices(client.clone(), sinks, health),
        )
    };
    let mut listed = Listed::default();
    let mut lists = 2;
    let reading = async {
        while let Some((_, event)) = events.recv().await {
            match event {
                Event::Service(service) => drop(listed.services.insert(service.key.clone(), service)),
                Event::Slice(slice) => drop(listed.slices.insert(slice.key.clone(), slice)),
                Event::ServiceGone(key) => drop(listed.services.remove(&key)),
                Event::SliceGone(key) => drop(listed.slices.remove(&key)),
                Event::ServicesEnd | Event::SlicesEnd => lists -= 1,
                _ => {}
            }
            if lists == 0 {
                return;
            }
        }
    };
    let read = tokio::select! {
        _ = watches => Ok(()),
        read = timeout(PATIENCE, reading) => read,
    };
    if read.is_err() || lists > 0 {
        let why = seen.borrow().error.clone().unwrap_or_else(|| "it does not answer".to_owned());
        bail!("ask {} for Services: {why}", client.server());
    }
    Ok(listed)
}

/// What names there are, and where they lead (Kubernetes DNS specification 1.1.0, sections 2.3.1, 2.4.1 and 2.5.1).
fn names(listed: &Listed) -> Vec<Name> {
    let mut endpoints: BTreeMap<(&str, &str), BTreeSet<IpAddr>> = BTreeMap::new();
    for slice in listed.slices.values().filter(|slice| slice.address_type != AddressType::Fqdn) {
        let of = endpoints.entry((&slice.key.namespace, &slice.service)).or_default();
        of.extend(slice.endpoints.iter().filter(|one| one.ready).map(|one| one.address));
    }
    let mut names = Vec::new();
    for service in listed.services.values() {
        let (namespace, name) = (&*service.key.namespace, &*service.key.name);
        let mut add = |kind, leads_to| {
            names.push(Name { service: name.to_owned(), namespace: namespace.to_owned(), kind, leads_to });
        };
        if service.kind == ServiceType::ExternalName {
            // An address is not resolved, says Kubernetes.
            if let Some(target) =
                service.external_name.as_ref().filter(|name| name.parse::<IpAddr>().is_err())
            {
                add("CNAME", Where::Alias(format!("{}.", target.trim_end_matches('.'))));
            }
            continue;
        }
        let all = if service.headless {
            endpoints.get(&(namespace, name)).cloned().unwrap_or_default()
        } else {
            service.cluster_ips.iter().copied().collect()
        };
        for (kind, is_ipv6) in [("A", false), ("AAAA", true)] {
            let of_family: BTreeSet<IpAddr> =
                all.iter().filter(|address| address.is_ipv6() == is_ipv6).copied().collect();
            if !of_family.is_empty() {
                add(kind, Where::Addresses(of_family));
            }
        }
    }
    names
}

/// The Pods that ask the cluster's DNS: one of their servers is the address of a Service.
fn askers<'a>(
    agents: &[Agent],
    endpoints: &'a [Endpoint],
    listed: &Listed,
    lab: Option<&LabDir>,
    left_out: &mut Vec<String>,
) -> Result<Vec<Asker<'a>>> {
    let of_services: HashSet<&IpAddr> =
        listed.services.values().flat_map(|service| &service.cluster_ips).collect();
    let mut askers = Vec::new();
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.host) {
        let text = match resolv_conf(agents, endpoint, lab) {
            Err(_) if is_gone(agents, endpoint) => {
                left_out.push(format!("{}: it has ended meanwhile", endpoint.name));
                continue;
            }
            text => text?,
        };
        let Some(text) = text else {
            left_out
                .push(format!("{}: nothing runs in it: it has ended, or is about to begin", endpoint.name));
            continue;
        };
        let stub = StubResolver::parse(&text);
        if stub.servers.iter().any(|server| of_services.contains(server)) {
            askers.push(Asker { endpoint, stub, plan: Vec::new() });
        } else {
            left_out.push(format!("{}: by its resolv.conf it does not ask the cluster's DNS", endpoint.name));
        }
    }
    Ok(askers)
}

fn resolv_conf(agents: &[Agent], endpoint: &Endpoint, lab: Option<&LabDir>) -> Result<Option<String>> {
    if let Some(lab) = lab {
        let (namespace, name) = endpoint.name.split_once('/').unwrap_or_default();
        return lab.pod_resolv_conf(namespace, name);
    }
    match ask(agents, endpoint, &Request::ResolvConf { of: endpoint.place.clone() })? {
        Response::ResolvConf { text } => Ok(text),
        other => bail!("resolv.conf of {}: the agent answered {other:?}", endpoint.name),
    }
}

/// Gives each Pod the names that it looks up, as few letters as its search list allows. True when some were left out.
fn plan(askers: &mut [Asker<'_>], names: &[Name]) -> bool {
    let step = (askers.len() * names.len()).div_ceil(MOST_LOOK_UPS).max(1);
    for (at, asker) in askers.iter_mut().enumerate() {
        // Each Pod begins elsewhere, so that together they look everything up.
        let mine = names.iter().enumerate().filter(|(index, _)| (index + at).is_multiple_of(step));
        asker.plan = mine.map(|(_, name)| (as_typed(&asker.stub, name, names), name.clone())).collect();
    }
    step > 1
}

/// The shortest form of a name for which no step of the walk before it meets another Service.
fn as_typed(stub: &StubResolver, name: &Name, all: &[Name]) -> String {
    let whole = format!("{}.{}.svc.{}.", name.service, name.namespace, domain(stub));
    let forms = [
        name.service.clone(),
        format!("{}.{}", name.service, name.namespace),
        format!("{}.{}.svc", name.service, name.namespace),
    ];
    let is_another = |step: &String| {
        let mut labels = step.split('.');
        let (service, namespace) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
        labels.next() == Some("svc")
            && all.iter().any(|one| one.service == service && one.namespace == namespace)
    };
    let leads_there = |form: &&String| {
        let steps = stub.steps(form);
        let at = steps.iter().position(|step| *step == whole);
        at.is_some_and(|at| !steps.iter().take(at).any(is_another))
    };
    forms.iter().find(leads_there).cloned().unwrap_or(whole)
}

/// The cluster's domain, as far as a search list tells.
fn domain(stub: &StubResolver) -> &str {
    let told = stub.searches.iter().find_map(|domain| domain.strip_prefix("svc."));
    told.unwrap_or("cluster.local").trim_end_matches('.')
}

/// The Pod has ended since it was listed.
struct Gone(String);

fn look_up(agents: &[Agent], asker: &Asker<'_>) -> Result<Result<Vec<Failure>, Gone>> {
    let mut failures = Vec::new();
    for part in asker.plan.chunks(AT_A_TIME) {
        let names =
            part.iter().map(|(typed, name)| LookUp { name: typed.clone(), kind: name.kind.to_owned() });
        let from = asker.endpoint.place.clone();
        let request = Request::Resolve { from, stub: asker.stub.clone(), names: names.collect() };
        let outcomes = match ask(agents, asker.endpoint, &request) {
            Ok(Response::Resolved { outcomes }) if outcomes.len() == part.len() => outcomes,
            Err(_) if is_gone(agents, asker.endpoint) => {
                return Ok(Err(Gone(asker.endpoint.name.clone())));
            }
            Err(error) => return Err(error),
            Ok(other) => bail!("look names up from {}: the agent answered {other:?}", asker.endpoint.name),
        };
        for ((typed, name), outcome) in part.iter().zip(outcomes) {
            failures.extend(problem(&name.leads_to, &outcome).map(|problem| Failure {
                from: asker.endpoint.name.clone(),
                name: typed.clone(),
                kind: name.kind,
                problem,
            }));
        }
    }
    // A Pod that ends loses its network before its processes know.
    if !failures.is_empty() && is_gone(agents, asker.endpoint) {
        return Ok(Err(Gone(asker.endpoint.name.clone())));
    }
    Ok(Ok(failures))
}

/// Its agent does not know it any more.
fn is_gone(agents: &[Agent], endpoint: &Endpoint) -> bool {
    ended(agents, std::slice::from_ref(endpoint)).is_ok_and(|ended| !ended.is_empty())
}

fn problem(expected: &Where, outcome: &LookedUp) -> Option<String> {
    if outcome.answers.is_empty() {
        return Some(if outcome.code == "NOERROR" {
            "no such record".to_owned()
        } else {
            outcome.code.clone()
        });
    }
    match expected {
        Where::Alias(target) => {
            let told = outcome.answers.iter().find(|answer| answer.kind == "CNAME");
            let fits = told.is_some_and(|told| told.value.eq_ignore_ascii_case(target));
            (!fits).then(|| format!("leads to {told:?}, and should to {target}"))
        }
        Where::Addresses(expected) => {
            let told: BTreeSet<IpAddr> =
                outcome.answers.iter().filter_map(|answer| answer.value.parse().ok()).collect();
            (told != *expected)
                .then(|| format!("leads to {}, and should to {}", list_of(&told), list_of(expected)))
        }
    }
}

fn list_of(addresses: &BTreeSet<IpAddr>) -> String {
    let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    words.join(", ")
}

fn ask(agents: &[Agent], endpoint: &Endpoint, request: &Request) -> Result<Response> {
    let agent = agents.get(endpoint.agent).with_context(|| format!("the agent of {}", endpoint.name))?;
    Ok(Client::connect(&agent.socket)?.ask(request)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service: &str, namespace: &str) -> Name {
        let (service, namespace) = (service.to_owned(), namespace.to_owned());
        Name { service, namespace, kind: "A", leads_to: Where::Addresses(BTreeSet::new()) }
    }

    #[test]
    fn a_name_is_typed_as_short_as_the_pod_finds_it() {
        let pod = "search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
        let stub = StubResolver::parse(pod);
        // A Service named as a namespace, and another as the first part of a name.
        let names = [name("web", "shop"), name("web", "data"), name("db", "data")];
        let typed: Vec<String> = names.iter().map(|one| as_typed(&stub, one, &names)).collect();
        assert_eq!(typed, ["web", "web.data", "db.data"]);
        let bare = StubResolver::parse("options ndots:1\n");
        assert_eq!(as_typed(&bare, &names[0], &names), "web.shop.svc.cluster.local.");
    }
}
