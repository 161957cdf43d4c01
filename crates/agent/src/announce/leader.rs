//! One agent allocates the addresses of LoadBalancer Services: the holder of a Lease, as long as it holds it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet, time::sleep};
use weft_announce::{Decision, Election, LeaseStore, Pools, Refused, Step, Terms, allocate, announcer};
use weft_kube::{
    Client, Mirror, ObjectRef, WarningEvent, WatchHealth, watch_balanced, watch_leases, watch_settings,
};
use weft_model::{BalancedService, Lease, Node, NodeName, services::ServiceKey};

use super::Leases;
use crate::drain::Drain;

/// Name of the Lease, and the label that it is watched by.
const LEASE: &str = "weft-load-balancers";
const LABEL: &str = "weft.network/allocates";
/// Key of the ConfigMap `kube-system/weft`.
const POOLS: &str = "loadBalancerPools";
/// Nothing is written when the Lease lapses sooner than this: the request must be over by then.
const LEAST_LEFT: Duration = Duration::from_secs(5);
/// A request takes no longer.
const PATIENCE: Duration = Duration::from_secs(4);
/// A Lease of an address that no Service has is deleted by its holder; by the leader when that has not come to it for so
/// long, since its holder is gone.
const ORPHANED: Duration = Duration::from_secs(60);
/// After something that could not be written.
const AGAIN: Duration = Duration::from_secs(2);

/// Takes part in the election, and allocates while it is won. Returns when the drain begins.
pub(crate) async fn lead(
    client: Client,
    name: NodeName,
    nodes: watch::Receiver<Mirror<NodeName, Node>>,
    mut drain: Drain,
) -> anyhow::Result<()> {
    let (leading, led) = watch::channel(None);
    let mut tasks = JoinSet::new();
    tasks.spawn(elect(client.clone(), name.to_string(), leading));
    tasks.spawn(follow(client, name, nodes, led));
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
                    let put = store.put(LEASE.into(), before, Some(me.clone()), Terms::LEADER.duration);
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
    mut leading: watch::Receiver<Option<Instant>>,
) {
    loop {
        if leading.wait_for(Option::is_some).await.is_err() {
            return;
        }
        // What others do about Services is of no interest while another agent leads.
        let mut work = Allocation::start(client.clone(), name.clone(), nodes.clone());
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
    /// Those whose address no Service has: their version, and since when it is that.
    orphans: HashMap<String, (String, Instant)>,
    /// Why each Service does not have its addresses, as it was told.
    told: HashMap<ServiceKey, String>,
    /// The last good pools, and what they were read from.
    pools: Pools,
    text: Option<String>,
    _watches: JoinSet<()>,
}

impl Allocation {
    fn start(client: Client, name: NodeName, nodes: watch::Receiver<Mirror<NodeName, Node>>) -> Self {
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
            pools: Pools::default(),
            text: None,
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
            self.read_pools();
            let services: Vec<BalancedService> =
                self.services.borrow_and_update().objects().values().flatten().cloned().collect();
            let nodes: BTreeSet<IpAddr> = {
                let nodes = self.nodes.borrow_and_update();
                nodes.objects().values().flat_map(|node| node.addresses.iter().copied()).collect()
            };
            let decisions = allocate(&services, &self.pools, &nodes);
            let mut whole = true;
            for decision in &decisions {
                let left = leading.borrow().map(|until| until.saturating_duration_since(Instant::now()));
                if left.is_none_or(|left| left < LEAST_LEFT) {
                    whole = false;
                    break;
                }
                whole &= self.carry_out(decision).await;
            }
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

    /// Deletes Leases of addresses that no Service has and whose holder does not do so.
    async fn bury(&mut self, decisions: &[Decision<'_>], services: &[BalancedService]) {
        let given = decisions.iter().flat_map(|decision| &decision.addresses);
        let held = services.iter().flat_map(|service| &service.held);
        let wanted: HashSet<String> =
            given.chain(held).map(|address| announcer::lease_name(*address)).collect();
        let leases: Vec<Lease> = self.leases.borrow_and_update().objects().values().cloned().collect();
        let orphans: Vec<&Lease> = leases.iter().filter(|lease| !wanted.contains(&lease.name)).collect();
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

    /// Reads the configuration when it is another one. One that is wrong leaves the last good one in force.
    fn read_pools(&mut self) {
        let settings = self.settings.borrow_and_update();
        let text = settings.objects().get("weft").and_then(|data| data.get(POOLS));
        if self.text.as_ref() == text && (self.text.is_some() || self.pools.is_empty()) {
            return;
        }
        self.text = text.cloned();
        match text.map_or(Ok(Pools::default()), |text| text.parse()) {
            Ok(pools) => self.pools = pools,
            Err(error) => {
                tracing::error!("ConfigMap kube-system/weft: {error}; the last good pools stay in force")
            }
        }
    }

    /// True when nothing is left to do.
    async fn carry_out(&mut self, decision: &Decision<'_>) -> bool {
        let Decision { service, addresses, problem } = decision;
        let mut done = true;
        if service.held != *addresses {
            match tokio::time::timeout(PATIENCE, self.client.write_ingress(service, addresses)).await {
                Ok(Ok(())) => tracing::info!(service = %service.key, ?addresses, "LoadBalancer addresses"),
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
        match tokio::time::timeout(PATIENCE, self.client.publish(&event)).await {
            Ok(Ok(())) => {
                self.told.insert(service.key.clone(), message);
                done
            }
            Ok(Err(error)) => {
                tracing::warn!("Event about Service {} cannot be published: {error}", service.key);
                false
            }
            Err(_) => false,
        }
    }
}
