//! What does not work, whatever this agent did: looked for now and then, and told by `weft status` and by Events on the objects
//! concerned. What fails only once is not told.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};
use weft_dns::stub::StubResolver;
use weft_kube::{Mirror, ObjectRef, WarningEvent};
use weft_model::{DnsPolicy, Node, NodeName, Phase, Pod, PodKey, services::ServiceKey};

use crate::{
    admin::{self, LookUp, Place, Status},
    dns::Dns,
    drain::Drain,
    found::Missing,
    node::thread::Handle,
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(10);
/// A Pod that the API does not know may be one that is being removed, for so long.
const UNUSED: Duration = Duration::from_secs(60);
/// A Service may wait for its address so long.
const WAITING: Duration = Duration::from_secs(30);
/// Names that did not resolve so many times in a row, from one Pod after the other.
const LOOK_UPS: u32 = 3;
/// Symptoms of a kind that are reported, maximum.
const MOST: usize = 20;

/// What does not work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Symptoms {
    /// In sentences.
    pub(crate) problems: Vec<String>,
    /// For the objects concerned.
    pub(crate) events: Vec<WarningEvent>,
}

/// What is looked at.
pub(crate) struct Sources {
    pub(crate) name: NodeName,
    pub(crate) node: Handle,
    pub(crate) nodes: watch::Receiver<Mirror<NodeName, Node>>,
    pub(crate) pods: watch::Receiver<Mirror<PodKey, Pod>>,
    /// The facts of the cluster that are not known yet.
    pub(crate) missing: watch::Receiver<Missing>,
    /// What knows whether the settings of DNS are in force.
    pub(crate) settings: Option<Dns>,
    /// The cluster's DNS, as this node answers it, and the cluster's domain.
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) domain: String,
}

/// Since when something is so.
struct Since<K>(HashMap<K, Instant>);

/// Looks until the drain begins.
pub(crate) async fn look(
    mut sources: Sources,
    told: watch::Sender<Symptoms>,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let (mut unused, mut waiting) = (Since(HashMap::new()), Since(HashMap::new()));
    let mut names = Names::default();
    let mut asleep = sources.missing.borrow().is_none();
    loop {
        if asleep {
            tokio::select! {
                () = drain.begun() => return Ok(()),
                // It is known too late already.
                Ok(()) = sources.missing.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        asleep = true;
        let Ok(status) = sources.node.status().await else {
            // The node's thread has ended, and the agent is about to.
            drain.begun().await;
            return Ok(());
        };
        let mut symptoms = Symptoms::default();
        sources.tell_missing(&mut symptoms);
        sources.tell_unused(&status, &mut unused, &mut symptoms);
        sources.tell_waiting(&status, &mut waiting, &mut symptoms);
        sources.tell_silent(&status, &mut symptoms);
        sources.tell_refused_settings(&mut symptoms);
        let looked = timeout(LOOK, sources.look_up(&status, &mut names));
        tokio::select! {
            () = drain.begun() => return Ok(()),
            _ = looked => {}
        }
        names.tell(&sources, &mut symptoms);
        told.send_if_modified(|last| {
            let news = *last != symptoms;
            for problem in symptoms.problems.iter().filter(|problem| !last.problems.contains(problem)) {
                tracing::warn!("{problem}");
            }
            *last = symptoms;
            news
        });
    }
}

impl<K: Clone + Eq + Hash> Since<K> {
    /// Those of `now` that have been there for `patience`.
    fn lasting(&mut self, now: Vec<K>, patience: Duration) -> Vec<K> {
        self.0.retain(|known, _| now.contains(known));
        for one in &now {
            self.0.entry(one.clone()).or_insert_with(Instant::now);
        }
        now.into_iter()
            .filter(|one| self.0.get(one).is_some_and(|since| since.elapsed() >= patience))
            .collect()
    }
}

impl Sources {
    fn own(&self) -> Option<ObjectRef> {
        self.nodes.borrow().objects().get(&self.name).map(ObjectRef::node)
    }

    fn warning(&self, about: ObjectRef, reason: &'static str, message: String, key: String) -> WarningEvent {
        WarningEvent { about, reporter: self.name.clone(), reason, message, key }
    }

    fn tell_missing(&mut self, symptoms: &mut Symptoms) {
        let Some(missing) = self.missing.borrow_and_update().clone() else { return };
        if let Some(about) = self.own() {
            let message = format!("node {}: {missing}", self.name);
            symptoms.events.push(self.warning(about, "ClusterNotKnown", message, self.name.to_string()));
        }
        symptoms.problems.push(missing);
    }

    /// Addresses that an attachment holds and no Pod of the API has: a runtime that lost one without a DEL.
    fn tell_unused(&self, status: &Status, since: &mut Since<String>, symptoms: &mut Symptoms) {
        let of_nobody: Vec<(String, String)> = {
            let pods = self.pods.borrow();
            if !pods.is_synced() {
                return;
            }
            let gone = status.pods.iter().filter_map(|one| {
                let pod = one.pod.as_ref().filter(|pod| !pods.objects().contains_key(*pod))?;
                let addresses: Vec<String> = one.addresses.iter().map(ToString::to_string).collect();
                Some((one.container_id.clone(), format!("{} ({pod})", addresses.join(", "))))
            });
            gone.collect()
        };
        let ids = of_nobody.iter().map(|(id, _)| id.clone()).collect();
        let lasting = since.lasting(ids, UNUSED);
        let named: Vec<&str> = (of_nobody.iter())
            .filter(|(id, _)| lasting.contains(id))
            .map(|(_, named)| named.as_str())
            .take(MOST)
            .collect();
        if named.is_empty() {
            return;
        }
        let problem = format!(
            "{} addresses are held for Pods that the API does not have: {}; the container runtime still has their sandboxes \
             (crictl pods), or never removed them",
            lasting.len(),
            named.join("; ")
        );
        if let Some(about) = self.own() {
            symptoms.events.push(self.warning(
                about,
                "AddressesUnused",
                problem.clone(),
                self.name.to_string(),
            ));
        }
        symptoms.problems.push(problem);
    }

    /// Services that nobody has given an address.
    fn tell_waiting(
        &self,
        status: &Status,
        since: &mut Since<(ServiceKey, String)>,
        symptoms: &mut Symptoms,
    ) {
        let waiting = status.services.without_address.iter();
        let waiting =
            waiting.map(|one| (ServiceKey::new(one.namespace.as_str(), one.name.as_str()), one.uid.clone()));
        let lasting = since.lasting(waiting.collect(), WAITING);
        let speaks = self.speaks_for_all(&[]);
        for (key, uid) in lasting.into_iter().take(MOST) {
            let problem = format!(
                "Service {key} waits for an address from outside: nobody has given it one; is there a pool \
                 (ConfigMap kube-system/weft, loadBalancerPools) with an address that is free, and that is the one it asks for if it \
                 asks for one, or another controller for its class?"
            );
            if speaks {
                let about = ObjectRef::service(&key, &uid);
                symptoms.events.push(self.warning(
                    about,
                    "LoadBalancerWithoutAddress",
                    problem.clone(),
                    "address".to_owned(),
                ));
            }
            symptoms.problems.push(problem);
        }
    }

    /// What all nodes see alike, one of them says: the first that is ready, and none of these.
    fn speaks_for_all(&self, not: &[NodeName]) -> bool {
        let nodes = self.nodes.borrow();
        let may = nodes.objects().values().filter(|node| node.ready && !not.contains(&node.name));
        may.map(|node| &node.name).min() == Some(&self.name)
    }

    /// Nodes that give no sign of life, as Events on them. `weft status` has it from the paths.
    fn tell_silent(&self, status: &Status, symptoms: &mut Symptoms) {
        let silent: Vec<NodeName> =
            status.peers.iter().filter(|peer| peer.silent).map(|peer| peer.name.clone()).collect();
        if silent.is_empty() || !self.speaks_for_all(&silent) {
            return;
        }
        let nodes = self.nodes.borrow();
        for node in silent.iter().filter_map(|name| nodes.objects().get(name)).take(MOST) {
            let message = format!(
                "node {} gives no sign of life to node {}: connections to Services go to backends elsewhere while there are any",
                node.name, self.name
            );
            symptoms.events.push(self.warning(
                ObjectRef::node(node),
                "NodeSilent",
                message,
                "silent".to_owned(),
            ));
        }
    }

    /// Settings of DNS that are wrong, as an Event on the ConfigMap. `weft status` has it from DNS.
    fn tell_refused_settings(&self, symptoms: &mut Symptoms) {
        let Some(error) = self.settings.as_ref().and_then(Dns::settings_error) else { return };
        if self.speaks_for_all(&[]) {
            let about = ObjectRef::config_map("kube-system", "weft");
            let message = format!("what was set before stays in force: {error}");
            symptoms.events.push(self.warning(about, "DnsSettingsRefused", message, "dns".to_owned()));
        }
    }

    /// Asks for a name that every cluster has, from one Pod after the other.
    async fn look_up(&self, status: &Status, names: &mut Names) {
        let candidates: Vec<(PodKey, String)> = {
            let pods = self.pods.borrow();
            let asks = |pod: &&Pod| {
                pod.phase == Phase::Running && pod.dns.policy == DnsPolicy::ClusterFirst && !pod.host_network
            };
            let attached = status.pods.iter().filter_map(|one| one.pod.as_ref());
            attached
                .filter_map(|key| pods.objects().get(key).filter(asks))
                .map(|pod| (pod.key.clone(), pod.uid.clone()))
                .collect()
        };
        if candidates.is_empty() {
            *names = Names::default();
            return;
        }
        names.turn += 1;
        let Some((pod, uid)) = candidates.get(names.turn % candidates.len()).cloned() else { return };
        let Ok(place) = admin::find_place(&Place::Pod(pod.clone()), status) else { return };
        let name = format!("kubernetes.default.svc.{}.", self.domain.trim_end_matches('.'));
        let (servers, asked) = (self.dns.clone(), name.clone());
        let asking = tokio::task::spawn_blocking(move || {
            // Where nothing of the Pod's is seen, what this node tells Pods to ask.
            let stub = admin::resolv_conf(&place)?.map(|text| StubResolver::parse(&text));
            let stub = stub.unwrap_or(StubResolver { servers, searches: Vec::new(), ndots: 1 });
            if stub.servers.is_empty() {
                return Ok(None);
            }
            // A cluster of either family has one of the two.
            let kinds = ["A", "AAAA"].map(|kind| LookUp { name: asked.clone(), kind: kind.to_owned() });
            let found = admin::resolve(&place, stub.clone(), &kinds)?;
            let well = found.iter().any(|one| one.code == "NOERROR");
            let servers: Vec<String> = stub.servers.iter().map(ToString::to_string).collect();
            let why = found.first().map(|one| one.code.clone()).unwrap_or_default();
            Ok::<_, std::io::Error>(Some((!well).then(|| format!("{}: {why}", servers.join(", ")))))
        });
        match asking.await {
            Ok(Ok(Some(None))) => (names.failed, names.last) = (0, None),
            Ok(Ok(Some(Some(why)))) => {
                names.failed += 1;
                names.last = Some((pod, uid, format!("{} from {why}", name.trim_end_matches('.'))));
            }
            // The Pod has gone, or nothing tells what it asks.
            _ => {}
        }
    }
}

/// How looking names up goes.
#[derive(Default)]
struct Names {
    turn: usize,
    /// In a row.
    failed: u32,
    last: Option<(PodKey, String, String)>,
}

impl Names {
    fn tell(&self, sources: &Sources, symptoms: &mut Symptoms) {
        let Some((pod, uid, what)) = self.last.as_ref().filter(|_| self.failed >= LOOK_UPS) else { return };
        let problem = format!("names do not resolve in Pods of node {}, last in {pod}: {what}", sources.name);
        let about = ObjectRef::pod(pod, uid);
        symptoms.events.push(sources.warning(
            about,
            "NamesDoNotResolve",
            problem.clone(),
            sources.name.to_string(),
        ));
        symptoms.problems.push(problem);
    }
}
