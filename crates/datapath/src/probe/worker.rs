//! The thread that probes: what it sends, what arrives, and what it tells.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use weft_model::NodeName;

use super::{
    PORT, Pair, Report, Routing, Targets,
    jury::{Jury, Standings},
    pace::Pace,
    socket::Sockets,
    state::{Health, Peer, Probe, Request},
    wire,
};

/// How long the thread sleeps at most before it looks whom to probe.
const TICK: Duration = Duration::from_millis(50);
/// How long it sleeps at least, unless something arrives: among many nodes something is due all the time, and a thread that wakes up for
/// each does little else.
const GATHER: Duration = Duration::from_millis(5);
/// Nodes that are sent to in one tick: when many are to be proved at once, they wait for their turn.
const AT_ONCE: usize = 256;
/// Messages that are taken before timers are looked at.
const TAKEN: usize = 1024;
/// Other nodes that are told of a suspected one, maximum. They are asked as well: if none of them answers, this node is cut off itself.
/// All nodes that notice tell so many at random: one that nobody tells, of which there are e^-20, finds out by its own probe.
pub(super) const TOLD: usize = 20;
/// Reports are at least so long apart for each node that they are about: whoever hears one looks at all of them.
const REPORT: Duration = Duration::from_micros(100);

/// What the thread knows.
pub(super) struct Worker {
    sockets: Sockets,
    routing: Routing,
    report: Report,
    targets: Targets,
    /// What is known of each target, in their order.
    peers: Vec<Peer>,
    /// Whose a probe address is, by its place: requests from elsewhere are ignored.
    by_address: HashMap<IpAddr, usize>,
    pace: Pace,
    /// When there is something to do for whom. Entries that `queued` does not name are left over.
    queue: BinaryHeap<Reverse<(Instant, usize)>>,
    /// The entry of each peer.
    queued: Vec<Option<Instant>>,
    /// Room for a message.
    buffer: Box<[u8]>,
    /// Nobody is sent to before.
    send_again: Instant,
    /// Which of the peers are silent.
    jury: Jury,
    hash: RandomState,
    drawn: u64,
    /// The health of each peer as it is told.
    health: Vec<Health>,
    /// It has changed since the last report.
    is_news: bool,
}

impl Worker {
    pub(super) fn new(sockets: Sockets, routing: Routing, report: Report) -> Worker {
        Worker {
            sockets,
            routing,
            report,
            targets: Targets::default(),
            peers: Vec::new(),
            by_address: HashMap::new(),
            pace: Pace::of(0),
            queue: BinaryHeap::new(),
            queued: Vec::new(),
            buffer: vec![0; usize::from(u16::MAX)].into(),
            send_again: Instant::now(),
            jury: Jury::default(),
            hash: RandomState::new(),
            drawn: 0,
            health: Vec::new(),
            is_news: false,
        }
    }

    pub(super) fn run(mut self, new_targets: &Mutex<Option<Targets>>, ended: &AtomicBool) {
        let mut report_again = Instant::now();
        while !ended.load(Ordering::Relaxed) {
            let new = new_targets.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(new) = new.filter(|new| *new != self.targets) {
                self.retarget(new);
            }
            let arrived = self.sockets.wait(self.idle());
            // What has arrived by now is heard before anything counts as late: the thread may have waited for a core.
            let now = Instant::now();
            if arrived {
                self.receive();
            }
            self.send_due(now);
            let now = Instant::now();
            if self.is_news && now >= report_again {
                let names = self.targets.peers.iter().map(|(name, _)| name.clone());
                (self.report)(names.zip(self.health.iter().copied()).collect());
                self.is_news = false;
                report_again = now + REPORT * u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
            }
        }
    }

    /// Probes these from now on. Of nodes that have the same addresses as before, all that is known stays known.
    fn retarget(&mut self, new: Targets) {
        let now = Instant::now();
        let mut known: HashMap<(NodeName, Vec<Pair>), Peer> =
            std::mem::take(&mut self.targets.peers).into_iter().zip(self.peers.drain(..)).collect();
        self.pace = Pace::of(new.peers.iter().map(|(_, pairs)| pairs.len()).sum());
        for target in &new.peers {
            let mut peer =
                known.remove(target).unwrap_or_else(|| Peer::new(self.routing, target.1.len(), now));
            peer.set_mtu(new.overlay_mtu, new.uplink_mtu);
            self.peers.push(peer);
        }
        let addresses = |pair: &Pair| [pair.other.plain_address(), pair.other.path_address()];
        self.by_address = (new.peers.iter().enumerate())
            .flat_map(|(place, (_, pairs))| {
                pairs.iter().flat_map(addresses).map(move |address| (address, place))
            })
            .collect();
        self.queued = self.peers.iter().map(Peer::next).collect();
        let entry = |(place, due): (usize, &Option<Instant>)| due.map(|due| Reverse((due, place)));
        self.queue = self.queued.iter().enumerate().filter_map(entry).collect();
        let away = new.peers.iter().map(|(name, _)| new.away.contains(name));
        self.jury = Jury::new(away.collect());
        self.targets = new;
        for place in 0..self.peers.len() {
            self.judge(place, now);
        }
        self.tell_all();
    }

    /// Everybody's health is told anew.
    fn tell_all(&mut self) {
        let peers = self.peers.iter().enumerate();
        self.health = peers.map(|(place, peer)| self.health_of(place, peer)).collect();
        self.is_news = true;
    }

    fn health_of(&self, place: usize, peer: &Peer) -> Health {
        Health { silent: self.jury.silent(place), ..peer.health() }
    }

    fn send_due(&mut self, now: Instant) {
        if now < self.send_again {
            return;
        }
        let mut peers = 0;
        while let Some(&Reverse((due, place))) = self.queue.peek().filter(|Reverse((due, _))| *due <= now) {
            if peers == AT_ONCE {
                self.send_again = now + TICK;
                return;
            }
            self.queue.pop();
            let (Some(peer), Some(queued)) = (self.peers.get_mut(place), self.queued.get_mut(place)) else {
                continue;
            };
            if queued.take_if(|queued| *queued == due).is_none() {
                continue;
            }
            let (requests, suspected) = (peer.due(now, &self.pace), peer.suspected());
            requests.iter().for_each(|request| self.send(place, request));
            self.touched(place);
            for family in suspected {
                self.tell_others(place, family, now);
            }
            peers += 1;
        }
    }

    fn send(&self, place: usize, request: &Request) {
        let Some(pair) = self.pair(place, request.family) else { return };
        let (from, to) = match request.probe {
            Probe::Plain => (pair.own.plain_address(), pair.other.plain_address()),
            Probe::Path | Probe::FullSize => (pair.own.path_address(), pair.other.path_address()),
        };
        let bytes = wire::request(request.nonce, request.packet_size, to.is_ipv4());
        // A probe that cannot be sent (no route, no neighbour) is one that does not come back.
        if let Err(error) = self.sockets.send(from, SocketAddr::new(to, PORT), &bytes) {
            tracing::trace!(%from, %to, %error, "probe not sent");
        }
    }

    fn pair(&self, place: usize, family: usize) -> Option<&Pair> {
        self.targets.peers.get(place)?.1.get(family)
    }

    /// A few other nodes are told that this one may be gone, and are asked whether they are there.
    fn tell_others(&mut self, place: usize, family: usize, now: Instant) {
        let Some(of) = self.pair(place, family).copied() else { return };
        let doubt = wire::doubt(of.other.path_address());
        let nodes = self.peers.len();
        for number in 0..TOLD.min(nodes) {
            // Few nodes are all told; among many it hardly ever comes to the same one twice.
            let other = if nodes <= TOLD { number } else { self.random() % nodes };
            let pairs = self.targets.peers.get(other).into_iter().flat_map(|(_, pairs)| pairs).enumerate();
            let pair = pairs.filter(|_| other != place).find(|(_, pair)| pair.is_ipv6() == of.is_ipv6());
            let Some((family, pair)) = pair else { continue };
            let to = SocketAddr::new(pair.other.path_address(), PORT);
            if let Err(error) = self.sockets.send(pair.own.path_address(), to, &doubt) {
                tracing::trace!(%to, %error, "doubt not sent");
            }
            self.ask(other, family, now);
        }
    }

    /// A number that nobody foresees.
    fn random(&mut self) -> usize {
        self.drawn += 1;
        // Of 64 bits as many as an index has.
        self.hash.hash_one(self.drawn) as usize
    }

    /// Whether this node is still there is asked at once.
    fn ask(&mut self, place: usize, family: usize, now: Instant) {
        if let Some(peer) = self.peers.get_mut(place) {
            peer.ask(family, now);
            self.touched(place);
        }
    }

    /// Something has happened to the peer: when it is due again, and whether that is news.
    fn touched(&mut self, place: usize) {
        let (Some(peer), Some(queued)) = (self.peers.get(place), self.queued.get_mut(place)) else { return };
        if let Some(next) = peer.next().filter(|next| queued.is_none_or(|queued| *next < queued)) {
            *queued = Some(next);
            self.queue.push(Reverse((next, place)));
        }
        if self.judge(place, Instant::now()) {
            return self.tell_all();
        }
        let Some(peer) = self.peers.get(place) else { return };
        let health = self.health_of(place, peer);
        if let Some(told) = self.health.get_mut(place).filter(|told| **told != health) {
            *told = health;
            self.is_news = true;
        }
    }

    /// How the peer stands is judged. Returns whether what is said of others has changed.
    fn judge(&mut self, place: usize, now: Instant) -> bool {
        let (Some(peer), Some((_, pairs))) = (self.peers.get(place), self.targets.peers.get(place)) else {
            return false;
        };
        let mut standings = Standings::default();
        for (pair, standing) in pairs.iter().zip(peer.standings()) {
            standings[usize::from(pair.is_ipv6())] = standing;
        }
        let all = || self.targets.peers.iter().zip(&self.peers);
        let fresh = |ipv6| {
            let is = |((_, pairs), peer): &(&(NodeName, Vec<Pair>), &Peer)| {
                let family = pairs.iter().position(|pair| usize::from(pair.is_ipv6()) == ipv6);
                family.is_some_and(|family| peer.is_fresh(family, now))
            };
            all().filter(is).count()
        };
        self.jury.set(place, standings, fresh)
    }

    fn receive(&mut self) {
        for _ in 0..TAKEN {
            let Some((socket, length, from)) = self.sockets.receive(&mut self.buffer) else { break };
            let Some(&place) = self.by_address.get(&from.ip()) else { continue };
            let Some(bytes) = self.buffer.get_mut(..length) else { continue };
            match wire::read(bytes) {
                Some(wire::Kind::Request(_)) => {
                    wire::turn_into_answer(bytes);
                    if let Err(error) = self.sockets.answer(socket, from, bytes) {
                        tracing::trace!(%from, %error, "probe not answered");
                    }
                }
                Some(wire::Kind::Answer(nonce)) => {
                    let Some(peer) = self.peers.get_mut(place) else { continue };
                    peer.answered(nonce, Instant::now());
                    self.touched(place);
                }
                Some(wire::Kind::Doubt(address)) => self.doubted(place, address),
                None => {}
            }
        }
        for _ in 0..TAKEN {
            let Some((length, to)) = self.sockets.refusal(&mut self.buffer) else { return };
            let request = self.buffer.get(..length).and_then(wire::read);
            let Some(&place) = self.by_address.get(&to) else { continue };
            if let (Some(wire::Kind::Request(nonce)), Some(peer)) = (request, self.peers.get_mut(place)) {
                peer.refused(nonce, Instant::now());
                self.touched(place);
            }
        }
    }

    /// One node doubts that another is there.
    fn doubted(&mut self, by: usize, address: IpAddr) {
        let Some(&place) = self.by_address.get(&address).filter(|place| **place != by) else { return };
        let pairs = self.targets.peers.get(place).into_iter().flat_map(|(_, pairs)| pairs);
        let family = pairs.into_iter().position(|pair| pair.other.path_address() == address);
        if let Some(family) = family {
            self.ask(place, family, Instant::now());
        }
    }

    /// How long there is nothing to send.
    fn idle(&self) -> Duration {
        let Some(Reverse((due, _))) = self.queue.peek() else { return TICK };
        (*due).max(self.send_again).saturating_duration_since(Instant::now()).clamp(GATHER, TICK)
    }
}
