//! Holds what the election gives this node, until it is told to end.

use std::{
    collections::BTreeMap,
    future::Future,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinSet};
use weft_model::Lease;

use crate::{
    announcer::{Announcer, Request, lease_name},
    election::Terms,
    link::Link,
};

/// A request that has no answer by then has failed; the next one is due before the Lease lapses.
const PATIENCE: Duration = Duration::from_millis(900);
/// After the data plane could not be told to stop.
const AGAIN: Duration = Duration::from_millis(250);
/// When the link is told, counted from when the address came here: frames get lost, and switches learn slowly.
const TELL: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Leases, as the API has them.
pub trait LeaseStore: Clone + Send + Sync + 'static {
    /// Writes the Lease `name` in place of `before`, held by `holder`.
    fn put(
        &self,
        name: String,
        before: Option<Lease>,
        holder: Option<String>,
        duration: Duration,
    ) -> impl Future<Output = Result<Lease, Refused>> + Send;

    /// Deletes a Lease, as it was seen and no other. One that is gone is no error.
    fn delete(&self, lease: Lease) -> impl Future<Output = Result<(), Refused>> + Send;
}

/// Why a Lease was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// Somebody else wrote it meanwhile; it is like this now.
    #[error("somebody else was faster")]
    Conflict(Option<Lease>),
    /// There was no answer, or another refusal.
    #[error("{0}")]
    Failed(String),
}

/// The data plane's end: it answers for exactly these addresses, each until its time and no longer.
pub trait Fence: Send + 'static {
    /// Resolves when it does so. False when it could not be told: what it was told before lapses by itself.
    fn set(&mut self, held: Vec<(IpAddr, Instant)>) -> impl Future<Output = bool> + Send;

    /// The link that addresses are announced on; `None` while there is none.
    fn uplink(&mut self) -> impl Future<Output = Option<(u32, crate::link::Mac)>> + Send;
}

/// What decides about addresses.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// This node's name.
    pub me: String,
    /// Addresses of Services, and whether this node can serve each; `None` before that is known.
    pub wanted: watch::Receiver<Option<BTreeMap<IpAddr, bool>>>,
    /// Names of the nodes that may answer; `None` before that is known.
    pub nodes: watch::Receiver<Option<Vec<String>>>,
    /// Leases by name; `None` before that is known.
    pub leases: watch::Receiver<Option<BTreeMap<String, Lease>>>,
}

/// What became of a request.
enum Outcome {
    Taken(IpAddr, Lease, Instant),
    Given(IpAddr, Option<Lease>),
    Failed(IpAddr, Option<Lease>),
}

/// Runs until the task is dropped, or a sender of the inputs is.
pub async fn run(mut inputs: Inputs, store: impl LeaseStore, mut fence: impl Fence) {
    let mut announcer = Announcer::new(&inputs.me);
    let mut requests = JoinSet::new();
    let mut speaker = Speaker::default();
    loop {
        if !take_in(&mut announcer, &mut inputs) {
            if !changed(&mut inputs).await {
                return;
            }
            continue;
        }
        let (wanted, mut due) = announcer.next(Instant::now());
        let gives = wanted.iter().any(|request| matches!(request, Request::Give { .. }));
        // First the data plane stops, then somebody else may begin: where it cannot be told, what it was told before lapses.
        let stopped = !gives || fence.set(announcer.held(Instant::now())).await;
        for request in wanted {
            match request {
                Request::Give { address, .. } if !stopped => announcer.failed(address, None, Instant::now()),
                request => drop(requests.spawn(ask(store.clone(), inputs.me.clone(), request))),
            }
        }
        let again = (!stopped).then(|| Instant::now() + AGAIN);
        due = [due, again, speaker.speak(&announcer)].into_iter().flatten().min();
        let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        tokio::select! {
            goes_on = changed(&mut inputs) => if !goes_on { return },
            Some(outcome) = requests.join_next() => {
                let Ok(outcome) = outcome else { continue };
                let mut outcomes = vec![outcome];
                while let Some(Ok(more)) = requests.try_join_next() {
                    outcomes.push(more);
                }
                answered(&mut announcer, &mut speaker, &mut fence, outcomes).await;
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

/// Takes over what the inputs say now. False while something is not known yet.
fn take_in(announcer: &mut Announcer, inputs: &mut Inputs) -> bool {
    let now = Instant::now();
    let (wanted, nodes, leases) = (
        inputs.wanted.borrow_and_update(),
        inputs.nodes.borrow_and_update(),
        inputs.leases.borrow_and_update(),
    );
    let (Some(wanted), Some(nodes), Some(leases)) = (&*wanted, &*nodes, &*leases) else { return false };
    announcer.set_nodes(nodes);
    announcer.set_wanted(wanted, now);
    announcer.see(leases, now);
    true
}

async fn changed(inputs: &mut Inputs) -> bool {
    tokio::select! {
        changed = inputs.wanted.changed() => changed.is_ok(),
        changed = inputs.nodes.changed() => changed.is_ok(),
        changed = inputs.leases.changed() => changed.is_ok(),
    }
}

async fn ask(store: impl LeaseStore, me: String, request: Request) -> Outcome {
    let (address, sent) = match &request {
        // The time counts from before the request leaves.
        Request::Take { address, .. } | Request::Give { address, .. } => (*address, Instant::now()),
    };
    let duration = Terms::ADDRESS.duration;
    let work = async {
        match request {
            Request::Take { before, .. } => {
                let lease = store.put(lease_name(address), before, Some(me), duration).await?;
                Ok(Outcome::Taken(address, lease, sent))
            }
            Request::Give { lease, delete: true, .. } => {
                store.delete(lease).await.map(|()| Outcome::Given(address, None))
            }
            Request::Give { lease, delete: false, .. } => {
                let lease = store.put(lease.name.clone(), Some(lease), None, duration).await?;
                Ok(Outcome::Given(address, Some(lease)))
            }
        }
    };
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(Refused::Conflict(current))) => Outcome::Failed(address, current),
        Ok(Err(Refused::Failed(why))) => {
            tracing::warn!(%address, "the Lease of an announced address cannot be written: {why}");
            Outcome::Failed(address, None)
        }
        Err(_) => {
            tracing::warn!(%address, "the Lease of an announced address: no answer within {PATIENCE:?}");
            Outcome::Failed(address, None)
        }
    }
}

async fn answered(
    announcer: &mut Announcer,
    speaker: &mut Speaker,
    fence: &mut impl Fence,
    outcomes: Vec<Outcome>,
) {
    let now = Instant::now();
    let mut news = Vec::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Taken(address, lease, sent) => {
                if announcer.taken(address, lease, sent, now) {
                    news.push(address);
                }
            }
            Outcome::Given(address, lease) => announcer.given(address, lease, now),
            Outcome::Failed(address, current) => announcer.failed(address, current.as_ref(), now),
        }
    }
    let held = announcer.held(now);
    let addresses: Vec<IpAddr> = held.iter().map(|(address, _)| *address).collect();
    if !fence.set(held).await {
        tracing::warn!("the data plane cannot be told what to answer for");
    }
    speaker.follow(fence.uplink().await, &addresses, &news);
}

/// Tells the link what came here, several times.
#[derive(Default)]
struct Speaker {
    link: Option<Link>,
    /// What is to be told, and when.
    due: Vec<(Instant, IpAddr)>,
    complained: bool,
}

impl Speaker {
    /// These addresses are held; those in `news` have just come here.
    fn follow(&mut self, uplink: Option<(u32, crate::link::Mac)>, held: &[IpAddr], news: &[IpAddr]) {
        let same = self.link.as_ref().map(Link::interface) == uplink;
        if !same {
            self.link = uplink.and_then(|(index, mac)| {
                let opened = Link::open(index, mac);
                opened.inspect_err(|error| tracing::error!("addresses cannot be announced: {error}")).ok()
            });
        }
        let now = Instant::now();
        for address in if same { news } else { held } {
            tracing::info!(%address, "this node answers for it");
            self.due.extend(TELL.iter().map(|after| (now + *after, *address)));
        }
    }

    /// Tells what is due of what is still held; returns when to go on.
    fn speak(&mut self, announcer: &Announcer) -> Option<Instant> {
        let now = Instant::now();
        if self.due.is_empty() {
            return None;
        }
        let held: Vec<IpAddr> = announcer.held(now).into_iter().map(|(address, _)| address).collect();
        self.due.retain(|(_, address)| held.contains(address));
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        let due: Vec<(Instant, IpAddr)> = due;
        for (_, address) in due {
            let told = self.link.as_ref().map_or(Ok(()), |link| link.tell(address));
            self.note(told);
        }
        self.due.iter().map(|(at, _)| *at).min()
    }

    fn note(&mut self, done: std::io::Result<()>) {
        if let Err(error) = &done
            && !self.complained
        {
            tracing::warn!("the link does not hear of an announced address: {error}");
        }
        self.complained = done.is_err();
    }
}
