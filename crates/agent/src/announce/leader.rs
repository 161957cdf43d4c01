//! One agent allocates the addresses of LoadBalancer Services: the holder of a Lease, as long as it holds it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use weft_announce::{
    Decision, Election, LeaseStore, Pools, PoolsError, Refused, Step, Terms, allocate, announcer,
};
use weft_kube::{
    Client, Mirror, ObjectRef, WarningEvent, WatchHealth, watch_balanced, watch_leases, watch_settings,
};
use weft_model::{BalancedService, Lease, LeaseWrite, Node, NodeName, services::ServiceKey};

use super::Leases;
use crate::drain::Drain;

/// Name of the Lease, and the label that it is watched by.
const LEASE: &str = "weft-load-balancers";
const LABEL: &str = "weft.network/allocates";
/// The ConfigMap, and its key.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "weft";
const POOLS: &str = "loadBalancerPools";
/// Nothing is written when the Lease lapses sooner than this: the request must be over by then.
const LEAST_LEFT: Duration = Duration::from_secs(5);
/// A request takes no longer.
const PATIENCE: Duration = Duration::from_secs(4);
/// A Lease that nobody needs any more is deleted after this.
const ORPHANED: Duration = Duration::from_secs(60);
/// After something that could not be written.
const AGAIN: Duration = Duration::from_secs(2);

/// Events about Services that nobody may answer for: so many at once.
const MOST_EVENTS: usize = 20;

/// Ranges of the cluster that no pool may have anything of.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    pub(crate) pods: Vec<IpNet>,
    pub(crate) services: Vec<IpNet>,
}

/// Takes part in the election, and allocates while it is won. Returns when the drain begins.
pub(crate) async fn lead(
    client: Client,
    name: NodeName,
    nodes: watch::Receiver<Mirror<NodeName, Node>>,
    ranges: Ranges,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let (leading, led) = watch::channel(None);
    let mut tasks = JoinSet::new();
    tasks.spawn(elect(client.clone(), name.to_string(), leading));
    tasks.spawn(follow(client, name, nodes, ranges, led));
    drain.begun().await;
    tasks.shutdown().await;
    Ok(())
}

/// Keeps `leading` at the time until when this agent leads, if it does.
async fn elect(client: Client, me: String, leading: watch::Sender<Option<Instant>>) {
    let (mirror, mut leases) = watch::channel(Mirror::<String, Lease>::default());
    let (health, _) = watch::channel(WatchHealth::default());
    let watching = watch_leases(client.clone(), LABEL, mirror, health);
    let store = Leases { client, label: LABEL };
    let electing = async {
        if leases.wait_for(Mirror::is_synced).await.is_err() {
            return;
        }
        let mut election = Election::new(&me, Terms::LEADER, Instant::now());
        loop {
            election.see(leases.borrow_and_update().objects().get(LEASE), Instant::now());
            let step = election.next(true, Duration::ZERO, Instant::now());
            leading.send_if_modified(|until| {
                let now = election.held_until(Instant::now());
                let news = *until != now;
                *until = now;
                news
            });
            match step {
                Step::Take(before) => {
                    let sent = Instant::now();
                    let write = LeaseWrite {
                        holder: Some(me.clone()),
                        duration: Terms::LEADER.duration,
                        ..LeaseWrite::default()
                    };
                    let put = store.put(LEASE.into(), before, write);
                    match tokio::time::timeout(PATIENCE, put).await {
                        Ok(Ok(lease)) => {
                            if election.taken(lease, sent, Instant::now()) {
                                tracing::info!("this agent gives LoadBalancer Services their addresses");
                            }
                        }
                        Ok(Err(Refused::Conflict(current))) => {
                            election.failed(Instant::now());
                            election.see(current.as_ref(), Instant::now());
                        }
                        Ok(Err(Refused::Failed(why))) => {
                            tracing::debug!("the Lease {LEASE} cannot be written: {why}");
                            election.failed(Instant::now());
                        }
                        Err(_) => election.failed(Instant::now()),
                    }
                }
                // It is always eligible: there is nothing to give back.
                Step::Give(lease) => election.given(Some(lease), Instant::now()),
                Step::Wait(at) => {
                    let at = at.unwrap_or_else(|| Instant::now() + Terms::LEADER.duration);
                    tokio::select! {
                        changed = leases.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
            }
        }
    };
    tokio::join!(watching, electing);
}

/// Allocates whenever this agent leads.
async fn follow(
    client: Client,
    name: NodeName,
    nodes: watch::Receiver<Mirror<NodeName, Node>>,
    ranges: Ranges,
    mut leading: watch::Receiver<Option<Instant>>,
) {
    loop {
        if leading.wait_for(Option::is_some).await.is_err() {
            return;
        }
        // What others do about Services is of no interest while another agent leads.
        let mut work = Allocation::start(client.clone(), name.clone(), nodes.clone(), ranges.clone());
        tokio::select! {
            () = work.run(leading.clone()) => {}
            () = until_over(leading.clone()) => tracing::info!("another agent gives LoadBalancer Services their addresses"),
        }
    }
}

async fn until_over(mut leading: watch::Receiver<Option<Instant>>) {
    // Without a sender the agent is ending.
    drop(leading.wait_for(Option::is_none).await);
}

struct Allocation {
    client: Client,
    name: NodeName,
    services: watch::Receiver<Mirror<ServiceKey, Option<BalancedService>>>,
    nodes: watch::Receiver<Mirror<NodeName, Node>>,
    settings: watch::Receiver<Mirror<String, BTreeMap<String, String>>>,
    /// Leases of addresses.
    leases: watch::Receiver<Mirror<String, Lease>>,
    /// Those that nobody needs: their version, and since when it is that.
    orphans: HashMap<String, (String, Instant)>,
    /// Why each Service does not have its addresses, as it was told.
    told: HashMap<ServiceKey, String>,
    /// Services of which it was told that no node may answer for them.
    silent: HashSet<ServiceKey>,
    ranges: Ranges,
    /// The pools in force, and why those that the ConfigMap has are not, as it was told.
    pools: Pools,
    refused: Option<String>,
    _watches: JoinSet<()>,
}

impl Allocation {
    fn start(
        client: Client,
        name: NodeName,
        nodes: watch::Receiver<Mirror<NodeName, Node>>,
        ranges: Ranges,
    ) -> Self {
        let (services_mirror, services) = watch::channel(Mirror::default());
        let (settings_mirror, settings) = watch::channel(Mirror::default());
        let (leases_mirror, leases) = watch::channel(Mirror::default());
        let mut watches = JoinSet::new();
        watches.spawn(watch_leases(
            client.clone(),
            announcer::LABEL,
            leases_mirror,
            watch::channel(WatchHealth::default()).0,
        ));
        watches.spawn(watch_balanced(
            client.clone(),
            services_mirror,
            watch::channel(WatchHealth::default()).0,
        ));
        watches.spawn(watch_settings(
            client.clone(),
            settings_mirror,
            watch::channel(WatchHealth::default()).0,
        ));
        Self {
            client,
            name,
            services,
            nodes,
            settings,
            leases,
            orphans: HashMap::new(),
            told: HashMap::new(),
            silent: HashSet::new(),
            ranges,
            pools: Pools::default(),
            refused: None,
            _watches: watches,
        }
    }

    async fn run(&mut self, leading: watch::Receiver<Option<Instant>>) {
        if self.services.wait_for(Mirror::is_synced).await.is_err()
            || self.nodes.wait_for(Mirror::is_synced).await.is_err()
            || self.settings.wait_for(Mirror::is_synced).await.is_err()
        {
            return;
        }
        loop {
            let mut whole = self.read_pools().await;
            let services: Vec<BalancedService> =
                self.services.borrow_and_update().objects().values().flatten().cloned().collect();
            let nodes: BTreeSet<IpAddr> = {
                let nodes = self.nodes.borrow_and_update();
                nodes.objects().values().flat_map(|node| node.addresses.iter().copied()).collect()
            };
            let decisions = allocate(&services, &self.pools, &nodes);
            for decision in &decisions {
                let left = leading.borrow().map(|until| until.saturating_duration_since(Instant::now()));
                if left.is_none_or(|left| left < LEAST_LEFT) {
                    whole = false;
                    break;
                }
                whole &= self.carry_out(decision).await;
            }
            whole &= self.say_who_is_silent(&decisions).await;
            self.bury(&decisions, &services).await;
            self.told.retain(|key, _| decisions.iter().any(|decision| decision.service.key == *key));
            tokio::select! {
                changed = self.services.changed() => if changed.is_err() { return },
                changed = self.nodes.changed() => if changed.is_err() { return },
                changed = self.settings.changed() => if changed.is_err() { return },
                () = sleep(AGAIN), if !whole => {}
                () = sleep(ORPHANED) => {}
            }
        }
    }

    /// Deletes Leases of addresses that no Service has and nobody holds, and of announcers that are no nodes any more and hold none.
    async fn bury(&mut self, decisions: &[Decision<'_>], services: &[BalancedService]) {
        let given = decisions.iter().flat_map(|decision| &decision.addresses);
        let held = services.iter().flat_map(|service| &service.held);
        let wanted: HashSet<String> =
            given.chain(held).map(|address| announcer::lease_name(*address)).collect();
        let nodes: HashSet<String> = {
            let nodes = self.nodes.borrow();
            nodes.objects().keys().map(|node| announcer::announcer_name(node.as_str())).collect()
        };
        let leases = self.leases.borrow_and_update().objects().clone();
        let orphans: Vec<&Lease> = leases
            .values()
            .filter(|lease| match announcer::is_address_lease(&lease.name) {
                true => !wanted.contains(&lease.name) && !announcer::may_be_held(lease, &leases),
                false => {
                    let holds = |one: &Lease| {
                        let holder = one.holder.as_deref().map(announcer::announcer_name);
                        announcer::is_address_lease(&one.name) && holder.as_ref() == Some(&lease.name)
                    };
                    !nodes.contains(&lease.name) && !leases.values().any(holds)
                }
            })
            .collect();
        self.orphans.retain(|name, _| orphans.iter().any(|lease| lease.name == *name));
        for lease in orphans {
            let known = self.orphans.entry(lease.name.clone()).or_insert((String::new(), Instant::now()));
            if known.0 != lease.version {
                *known = (lease.version.clone(), Instant::now());
            } else if known.1.elapsed() >= ORPHANED {
                // If it has changed after all it is no orphan, and if it fails the next turn comes.
                let deleted = tokio::time::timeout(PATIENCE, self.client.delete_lease(lease)).await;
                tracing::debug!(lease = lease.name, ?deleted, "the Lease of an address that no Service has");
            }
        }
    }

    /// Takes over the pools that the ConfigMap has. Those that are wrong, or that have what something else in the cluster has,
    /// change nothing, and it is told. True when nothing is left to do.
    async fn read_pools(&mut self) -> bool {
        let text = self
            .settings
            .borrow_and_update()
            .objects()
            .get(CONFIG_MAP)
            .and_then(|data| data.get(POOLS))
            .cloned();
        let read = text.map_or(Ok(Pools::default()), |text| text.parse::<Pools>());
        let why = match read.and_then(|pools| self.check(&pools).map(|()| pools)) {
            Ok(pools) => {
                (self.pools, self.refused) = (pools, None);
                return true;
            }
            Err(error) => format!("{error}; the pools that were in force before stay"),
        };
        if self.refused.as_ref() == Some(&why) {
            return true;
        }
        tracing::error!("ConfigMap {NAMESPACE}/{CONFIG_MAP}: {why}");
        let event = WarningEvent {
            about: ObjectRef::config_map(NAMESPACE, CONFIG_MAP),
            reporter: self.name.clone(),
            reason: "LoadBalancerPoolsRefused",
            message: why.clone(),
            key: "LoadBalancerPoolsRefused".into(),
        };
        let told = self.tell(&event).await;
        if told {
            self.refused = Some(why);
        }
        told
    }

    /// Whether pools have nothing that Pods, Services or nodes have.
    fn check(&mut self, pools: &Pools) -> Result<(), PoolsError> {
        let named = |ranges: &[IpNet], whose: &'static str| {
            ranges.iter().map(|range| (*range, whose)).collect::<Vec<_>>()
        };
        pools.check(named(&self.ranges.services, "the Services' range"))?;
        pools.check(named(&self.ranges.pods, "the Pods' range"))?;
        for node in self.nodes.borrow_and_update().objects().values() {
            let whose = format!("Pods of node {}", node.name);
            pools.check(node.pod_ranges.iter().map(|range| (*range, whose.as_str())))?;
            let whose = format!("node {}", node.name);
            pools.check(node.addresses.iter().map(|address| (IpNet::from(*address), whose.as_str())))?;
        }
        Ok(())
    }

    /// Tells of Services whose addresses no node may answer for. True when nothing is left to do.
    async fn say_who_is_silent(&mut self, decisions: &[Decision<'_>]) -> bool {
        let nobody = {
            let nodes = self.nodes.borrow_and_update();
            !nodes.objects().is_empty() && nodes.objects().values().all(|node| node.excluded)
        };
        if !nobody {
            self.silent.clear();
            return true;
        }
        let mut done = true;
        for Decision { service, addresses, .. } in decisions.iter().take(MOST_EVENTS) {
            if addresses.is_empty() || self.silent.contains(&service.key) {
                continue;
            }
            let event = WarningEvent {
                about: ObjectRef::service(&service.key, &service.uid),
                reporter: self.name.clone(),
                reason: "LoadBalancerNotAnnounced",
                message: "no node answers for its LoadBalancer addresses: every node has the label \
                          node.kubernetes.io/exclude-from-external-load-balancers; take it from one of them"
                    .into(),
                key: "LoadBalancerNotAnnounced".into(),
            };
            let told = self.tell(&event).await;
            if told {
                self.silent.insert(service.key.clone());
            }
            done &= told;
        }
        done
    }

    /// Publishes an Event. True when it was.
    async fn tell(&self, event: &WarningEvent) -> bool {
        match tokio::time::timeout(PATIENCE, self.client.publish(event)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) if error.is_away() => false,
            Ok(Err(error)) => {
                tracing::warn!("Event about {} cannot be published: {error}", event.about);
                false
            }
            Err(_) => false,
        }
    }

    /// True when nothing is left to do.
    async fn carry_out(&mut self, decision: &Decision<'_>) -> bool {
        let Decision { service, addresses, problem } = decision;
        let mut done = true;
        if service.held != *addresses {
            match tokio::time::timeout(PATIENCE, self.client.write_ingress(service, addresses)).await {
                Ok(Ok(())) => tracing::info!(service = %service.key, ?addresses, "LoadBalancer addresses"),
                Ok(Err(error)) if error.is_away() => done = false,
                Ok(Err(error)) => {
                    tracing::warn!("addresses of Service {} cannot be written: {error}", service.key);
                    done = false;
                }
                Err(_) => done = false,
            }
        }
        let Some(problem) = problem else {
            self.told.remove(&service.key);
            return done;
        };
        let message = problem.to_string();
        if self.told.get(&service.key) == Some(&message) {
            return done;
        }
        let event = WarningEvent {
            about: ObjectRef::service(&service.key, &service.uid),
            reporter: self.name.clone(),
            reason: problem.reason(),
            message: message.clone(),
            key: format!("{} {message}", problem.reason()),
        };
        let told = self.tell(&event).await;
        if told {
            self.told.insert(service.key.clone(), message);
        }
        done && told
    }
}
