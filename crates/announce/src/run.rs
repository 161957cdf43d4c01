//! Holds what this node may, until it is told to end: the announcer's hands.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, task::JoinSet};
use weft_model::{Lease, LeaseWrite};

use crate::{
    announcer::{
        About, Announcer, Peer, Request,
        message::{Kind, Message},
    },
    link::Link,
};

/// A request that has no answer by then has failed; the next one is due before the Lease lapses.
const PATIENCE: Duration = Duration::from_millis(900);
/// After the data plane could not be told to stop, or votes could not be kept.
const AGAIN: Duration = Duration::from_millis(250);
/// The data plane is told of a later deadline only if it is later by this much.
const WORTH_TELLING: Duration = Duration::from_millis(300);
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
    /// Writes the Lease `name` in place of `before`.
    fn put(
        &self,
        name: String,
        before: Option<Lease>,
        write: LeaseWrite,
    ) -> impl Future<Output = Result<Lease, Refused>> + Send;
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

/// What outlives the process: how this node voted.
pub trait Votes: Send + 'static {
    /// What was kept; absent: it is not known.
    fn load(&mut self) -> Option<BTreeMap<String, u64>>;

    /// Keeps it, on the medium when this returns.
    ///
    /// # Errors
    /// It is not kept: then nobody may hear of it.
    fn save(&mut self, voted: &BTreeMap<String, u64>) -> std::io::Result<()>;
}

/// Messages from and to other nodes' agents. They may be lost.
pub trait Wire: Send + 'static {
    /// Listens at these addresses of this node, and no others.
    fn listen(&mut self, own: &[IpAddr]);

    /// Sends to one of these addresses.
    fn send(&mut self, to: &[IpAddr], octets: &[u8]);

    /// The next message, and where it is from. Cancelling loses nothing.
    fn receive(&mut self) -> impl Future<Output = (IpAddr, Vec<u8>)> + Send;
}

/// What decides about addresses.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// This node's name.
    pub me: String,
    /// Addresses of Services, and whether this node can serve each; `None` before that is known.
    pub wanted: watch::Receiver<Option<BTreeMap<IpAddr, bool>>>,
    /// Names of the nodes that may answer; `None` before that is known.
    pub candidates: watch::Receiver<Option<Vec<String>>>,
    /// All nodes; `None` before they are known.
    pub peers: watch::Receiver<Option<BTreeMap<String, Peer>>>,
    /// Leases by name; `None` before that is known.
    pub leases: watch::Receiver<Option<BTreeMap<String, Lease>>>,
}

/// What became of a request.
struct Outcome {
    about: About,
    sent: Instant,
    result: Result<Lease, Option<Option<Lease>>>,
}

/// The parts that touch the world.
struct Parts<S, F, V, W> {
    store: S,
    fence: F,
    votes: V,
    wire: W,
    /// What the data plane was told last.
    told: Vec<(IpAddr, Instant)>,
    requests: JoinSet<Outcome>,
    speaker: Speaker,
}

/// Runs until the task is dropped, or a sender of the inputs is.
pub async fn run(
    mut inputs: Inputs,
    store: impl LeaseStore,
    fence: impl Fence,
    mut votes: impl Votes,
    wire: impl Wire,
) {
    let nonce = RandomState::new().hash_one(&inputs.me);
    let mut announcer = Announcer::new(&inputs.me, votes.load(), nonce, Instant::now());
    let (told, requests, speaker) = (Vec::new(), JoinSet::new(), Speaker::default());
    let mut parts = Parts { store, fence, votes, wire, told, requests, speaker };
    while !take_in(&mut announcer, &mut inputs, &mut parts.wire) {
        if !changed(&mut inputs).await {
            return;
        }
    }
    loop {
        let (requests, due) = announcer.next(seconds(), Instant::now());
        let again = parts.carry_out(&mut announcer, requests).await;
        let due = [due, again, parts.speaker.speak()].into_iter().flatten().min();
        let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        tokio::select! {
            goes_on = changed(&mut inputs) => {
                if !goes_on {
                    return;
                }
                take_in(&mut announcer, &mut inputs, &mut parts.wire);
            }
            (from, octets) = parts.wire.receive() => parts.hear(&mut announcer, &inputs, from, &octets).await,
            Some(outcome) = parts.requests.join_next() => {
                let Ok(outcome) = outcome else { continue };
                note(&mut announcer, outcome);
                while let Some(Ok(more)) = parts.requests.try_join_next() {
                    note(&mut announcer, more);
                }
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

fn note(announcer: &mut Announcer, Outcome { about, sent, result }: Outcome) {
    let now = Instant::now();
    match result {
        Ok(lease) => announcer.written(&about, lease, sent, now),
        Err(current) => announcer.failed(&about, current.as_ref().map(Option::as_ref), now),
    }
}

/// Seconds since 1970.
fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Takes over what the inputs say now. False while something is not known yet.
fn take_in(announcer: &mut Announcer, inputs: &mut Inputs, wire: &mut impl Wire) -> bool {
    let now = Instant::now();
    let (wanted, candidates, peers, leases) = (
        inputs.wanted.borrow_and_update(),
        inputs.candidates.borrow_and_update(),
        inputs.peers.borrow_and_update(),
        inputs.leases.borrow_and_update(),
    );
    let (Some(wanted), Some(candidates), Some(peers), Some(leases)) =
        (&*wanted, &*candidates, &*peers, &*leases)
    else {
        return false;
    };
    wire.listen(peers.get(&inputs.me).map_or(&[], |me| &me.addresses));
    announcer.set_peers(peers, now);
    announcer.set_candidates(candidates);
    announcer.set_wanted(wanted, now);
    announcer.see(leases, now);
    true
}

async fn changed(inputs: &mut Inputs) -> bool {
    tokio::select! {
        changed = inputs.wanted.changed() => changed.is_ok(),
        changed = inputs.candidates.changed() => changed.is_ok(),
        changed = inputs.peers.changed() => changed.is_ok(),
        changed = inputs.leases.changed() => changed.is_ok(),
    }
}

// === impl Parts ===

impl<S: LeaseStore, F: Fence, V: Votes, W: Wire> Parts<S, F, V, W> {
    /// Does what is to be done, in this order: votes are kept before anybody hears of them, and the data plane stops before an
    /// address is given up. Returns when to look again because something could not be done.
    async fn carry_out(&mut self, announcer: &mut Announcer, requests: Vec<Request>) -> Option<Instant> {
        let is_kept = self.keep_votes(announcer);
        let gives = requests.iter().any(|one| matches!(one, Request::Write { about: About::Give(_), .. }));
        let has_stopped = self.fence(announcer, gives).await;
        let mut again = None;
        for request in requests {
            let (about, name, before, write) = match request {
                Request::Send(to, message) => {
                    self.send(announcer, &to, &message, is_kept);
                    continue;
                }
                Request::Write { about, name, before, write } => (about, name, before, write),
            };
            let is_held_back = !has_stopped && matches!(about, About::Give(_))
                || !is_kept && matches!(about, About::Revocation(_));
            if is_held_back {
                announcer.failed(&about, None, Instant::now());
                again = Some(Instant::now() + AGAIN);
                continue;
            }
            self.requests.spawn(ask(self.store.clone(), about, name, before, write));
        }
        again
    }

    /// Tells the data plane what to answer for, if that is another set, or lasts notably longer than it was told. Whether it does so.
    async fn fence(&mut self, announcer: &Announcer, must: bool) -> bool {
        let held = announcer.held(Instant::now());
        let is_news = held.len() != self.told.len()
            || held.iter().zip(&self.told).any(|((address, until), (told, told_until))| {
                address != told || *until >= *told_until + WORTH_TELLING || until < told_until
            });
        if !is_news && !must {
            return true;
        }
        if !self.fence.set(held.clone()).await {
            tracing::warn!(
                "the data plane cannot be told which LoadBalancer addresses to answer for; it is told again"
            );
            self.told = Vec::new();
            return false;
        }
        let addresses = held.iter().map(|(address, _)| *address).collect();
        self.told = held;
        self.speaker.follow(self.fence.uplink().await, addresses);
        true
    }

    fn keep_votes(&mut self, announcer: &mut Announcer) -> bool {
        let Some(voted) = announcer.unsaved() else { return true };
        match self.votes.save(voted) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("votes about announcers cannot be kept, and are not given: {error}");
                false
            }
        }
    }

    async fn hear(&mut self, announcer: &mut Announcer, inputs: &Inputs, from: IpAddr, octets: &[u8]) {
        let Some(message) = Message::read(octets) else { return };
        let from = {
            let peers = inputs.peers.borrow();
            let is_it = |peer: &Peer| peer.addresses.contains(&from);
            // Only nodes have a say, each for itself.
            match peers.iter().flatten().find(|(_, peer)| is_it(peer)) {
                Some((name, _)) => name.clone(),
                None => return,
            }
        };
        if let Some(answer) = announcer.hear(&from, &message, Instant::now()) {
            self.carry_out(announcer, vec![answer]).await;
        }
    }

    fn send(&mut self, announcer: &Announcer, to: &str, message: &Message, is_kept: bool) {
        if !is_kept && message.kind == Kind::ItIsOut {
            return;
        }
        self.wire.send(announcer.addresses_of(to), &message.write());
    }
}

async fn ask(
    store: impl LeaseStore,
    about: About,
    name: String,
    before: Option<Lease>,
    write: LeaseWrite,
) -> Outcome {
    // The time counts from before the request leaves.
    let sent = Instant::now();
    let result = match tokio::time::timeout(PATIENCE, store.put(name.clone(), before, write)).await {
        Ok(Ok(lease)) => Ok(lease),
        Ok(Err(Refused::Conflict(current))) => Err(Some(current)),
        Ok(Err(Refused::Failed(why))) => {
            tracing::debug!("the Lease kube-system/{name} cannot be written: {why}");
            Err(None)
        }
        Err(_) => {
            tracing::debug!("the Lease kube-system/{name} cannot be written: no answer within {PATIENCE:?}");
            Err(None)
        }
    };
    Outcome { about, sent, result }
}

/// Tells the link what came here, several times.
#[derive(Default)]
struct Speaker {
    link: Option<Link>,
    held: BTreeSet<IpAddr>,
    /// What is to be told, and when.
    due: Vec<(Instant, IpAddr)>,
    complained: bool,
}

impl Speaker {
    /// These addresses are held, on this link; those that have just come here, or all on another link, are told.
    fn follow(&mut self, uplink: Option<(u32, crate::link::Mac)>, held: BTreeSet<IpAddr>) {
        let same = self.link.as_ref().map(Link::interface) == uplink;
        if !same {
            self.link = uplink.and_then(|(index, mac)| {
                let opened = Link::open(index, mac);
                opened.inspect_err(|error| tracing::error!("addresses cannot be announced: {error}")).ok()
            });
        }
        let now = Instant::now();
        for address in held.iter().filter(|address| !same || !self.held.contains(address)) {
            tracing::info!(%address, "this node answers for it");
            self.due.extend(TELL.iter().map(|after| (now + *after, *address)));
        }
        for address in self.held.difference(&held) {
            tracing::info!(%address, "this node no longer answers for it");
        }
        self.held = held;
    }

    /// Tells what is due of what is still held; returns when to go on.
    fn speak(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.due.retain(|(_, address)| self.held.contains(address));
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
