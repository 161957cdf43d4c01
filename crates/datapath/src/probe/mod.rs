//! Paths between nodes by proof: what carries Pod addresses is found out by sending from one, not assumed.
//!
//! Every node has two addresses in its Pod range ([`weft_model::PodRange`]): the plain address is always routed over the
//! underlay as it is, the path address the way that Pods take now. A probe between plain addresses that comes back
//! proves the native path in both directions; one between path addresses, as large as a packet may be and with
//! don't-fragment, proves the path in use and its MTU.
//!
//! An answer carries the request's 64-bit nonce and is as large as the request, so nobody off the path can forge one or
//! use a node to amplify; requests from anything but a known node's address are ignored.
//!
//! What one node sends is bounded, so that thousands of nodes do not spend themselves on probes: the more there are, the less often
//! each is asked ([`pace`]), and what is lost is asked for again at once.

mod pace;
mod socket;
mod state;
mod wire;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft_abi::Path;
use weft_model::{NodeName, NodePlan, PodRange};

pub use state::{Health, MtuProof};

use crate::Mtu;
use pace::Pace;
use socket::Sockets;
use state::{Peer, Probe, Request};

pub use weft_abi::PROBE_PORT as PORT;

/// How long the thread sleeps at most before it looks whom to probe.
const TICK: Duration = Duration::from_millis(50);
/// How long it sleeps at least, unless something arrives: among many nodes something is due all the time, and a thread that wakes up for
/// each does little else.
const GATHER: Duration = Duration::from_millis(5);
/// Nodes that are sent to in one tick: when many are to be proved at once, they wait for their turn.
const AT_ONCE: usize = 256;
/// Messages that are taken before timers are looked at.
const TAKEN: usize = 1024;
/// Reports are at least so long apart for each node that they are about: whoever hears one looks at all of them.
const REPORT: Duration = Duration::from_micros(100);

/// Which paths may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Native where it is proved, else the overlay.
    #[default]
    Auto,
    /// The overlay everywhere.
    Overlay,
    /// Native everywhere.
    Native,
}

/// The thread that probes. Dropping it ends the thread.
#[derive(Debug)]
pub struct Prober {
    targets: Arc<Mutex<Option<Targets>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Report = Box<dyn FnMut(&BTreeMap<NodeName, Health>) + Send>;

/// Whom to probe and how large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Targets {
    peers: Vec<(NodeName, Vec<Pair>)>,
    overlay_mtu: u32,
    uplink_mtu: u32,
}

/// The addresses of one family between which two nodes probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pair {
    own: PodRange,
    other: PodRange,
}

impl Prober {
    /// Starts probing from this node's addresses, which must be there already, in the calling thread's namespace.
    /// `report` is called with every node's health when any has changed.
    ///
    /// # Errors
    /// When the sockets cannot be made.
    pub fn start(
        own_ranges: &[IpNet],
        routing: Routing,
        report: impl FnMut(&BTreeMap<NodeName, Health>) + Send + 'static,
    ) -> io::Result<Prober> {
        let sockets = Sockets::open(own_ranges)?;
        let targets = Arc::new(Mutex::new(None));
        let ended = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            sockets,
            routing,
            report: Box::new(report),
            targets: Targets::default(),
            peers: Vec::new(),
            by_address: HashMap::new(),
            pace: Pace::of(0),
            queue: BinaryHeap::new(),
            queued: Vec::new(),
            buffer: vec![0; usize::from(u16::MAX)].into(),
            send_again: Instant::now(),
            health: BTreeMap::new(),
            is_news: false,
        };
        let (new_targets, end) = (Arc::clone(&targets), Arc::clone(&ended));
        let thread =
            thread::Builder::new().name("probe".to_owned()).spawn(move || worker.run(&new_targets, &end))?;
        Ok(Prober { targets, ended, thread: Some(thread) })
    }

    /// Probes the nodes of this plan from now on.
    pub fn set_peers(&self, plan: &NodePlan, mtu: Mtu) {
        let layouts = |ranges: &[IpNet]| -> Vec<PodRange> {
            ranges.iter().filter_map(|range| PodRange::new(*range).ok()).collect()
        };
        let own = layouts(&plan.pod_ranges);
        let pairs = |other: PodRange| {
            let same_family = |own: &&PodRange| own.net().addr().is_ipv4() == other.net().addr().is_ipv4();
            own.iter().find(same_family).map(|own| Pair { own: *own, other })
        };
        let peers = plan
            .peers
            .iter()
            .map(|peer| {
                (peer.name.clone(), layouts(&peer.pod_ranges).into_iter().filter_map(pairs).collect())
            })
            .collect();
        let targets = Targets { peers, overlay_mtu: mtu.overlay, uplink_mtu: mtu.uplink };
        *self.targets.lock().unwrap_or_else(PoisonError::into_inner) = Some(targets);
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there is in the log already.
            let _ = thread.join();
        }
    }
}

struct Worker {
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
    health: BTreeMap<NodeName, Health>,
    /// Health has changed since the last report.
    is_news: bool,
}

impl Worker {
    fn run(mut self, new_targets: &Mutex<Option<Targets>>, ended: &AtomicBool) {
        let mut report_again = Instant::now();
        while !ended.load(Ordering::Relaxed) {
            let new = new_targets.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(new) = new.filter(|new| *new != self.targets) {
                self.retarget(new);
            }
            self.send_due();
            self.receive();
            let now = Instant::now();
            if self.is_news && now >= report_again {
                (self.report)(&self.health);
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
        self.health = (new.peers.iter().zip(&self.peers))
            .map(|((name, _), peer)| (name.clone(), peer.health()))
            .collect();
        self.is_news = true;
        self.targets = new;
    }

    fn send_due(&mut self) {
        let now = Instant::now();
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
            let requests = peer.due(now, &self.pace);
            requests.iter().for_each(|request| self.send(place, request));
            self.touched(place);
            peers += 1;
        }
    }

    fn send(&self, place: usize, request: &Request) {
        let Some((name, pairs)) = self.targets.peers.get(place) else { return };
        let Some(pair) = pairs.get(request.family) else { return };
        let (from, to) = match request.probe {
            Probe::Plain => (pair.own.plain_address(), pair.other.plain_address()),
            Probe::Path | Probe::FullSize => (pair.own.path_address(), pair.other.path_address()),
        };
        let bytes = wire::request(request.nonce, request.packet_size, to.is_ipv4());
        // A probe that cannot be sent (no route, no neighbour) is one that does not come back.
        if let Err(error) = self.sockets.send(from, SocketAddr::new(to, PORT), &bytes) {
            tracing::trace!(node = %name, %from, %to, %error, "probe not sent");
        }
    }

    /// Something has happened to the peer: when it is due again, and whether that is news.
    fn touched(&mut self, place: usize) {
        let (Some(peer), Some(queued)) = (self.peers.get(place), self.queued.get_mut(place)) else { return };
        if let Some(next) = peer.next().filter(|next| queued.is_none_or(|queued| *next < queued)) {
            *queued = Some(next);
            self.queue.push(Reverse((next, place)));
        }
        let Some((name, _)) = self.targets.peers.get(place) else { return };
        let health = peer.health();
        if self.health.get(name) != Some(&health) {
            self.health.insert(name.clone(), health);
            self.is_news = true;
        }
    }

    fn receive(&mut self) {
        if !self.sockets.wait(self.idle()) {
            return;
        }
        for _ in 0..TAKEN {
            let Some((socket, length, from)) = self.sockets.receive(&mut self.buffer) else { return };
            let Some(&place) = self.by_address.get(&from.ip()) else { continue };
            let Some(bytes) = self.buffer.get_mut(..length) else { continue };
            match wire::read(bytes) {
                Some(wire::Kind::Request) => {
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
                None => {}
            }
        }
    }

    /// How long there is nothing to send.
    fn idle(&self) -> Duration {
        let Some(Reverse((due, _))) = self.queue.peek() else { return TICK };
        (*due).max(self.send_again).saturating_duration_since(Instant::now()).clamp(GATHER, TICK)
    }
}

/// The path of every node, for [`crate::Datapath::apply`].
pub fn paths(health: &BTreeMap<NodeName, Health>) -> BTreeMap<NodeName, Path> {
    health.iter().map(|(name, health)| (name.clone(), health.path)).collect()
}
