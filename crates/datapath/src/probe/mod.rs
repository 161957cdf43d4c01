//! Paths between nodes by proof: what carries Pod addresses is found out by sending from one, not assumed.
//!
//! Every node has two addresses in its Pod range ([`weft_model::PodRange`]): the plain address is always routed over the
//! underlay as it is, the path address the way that Pods take now. A probe between plain addresses that comes back
//! proves the native path in both directions; one between path addresses, as large as a packet may be and with
//! don't-fragment, proves the path in use and its MTU.
//!
//! An answer carries the request's 64-bit nonce and is as large as the request, so nobody off the path can forge one or
//! use a node to amplify; requests from anything but a known node's address are ignored.

mod socket;
mod state;
mod wire;

use std::{
    collections::BTreeMap,
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
use socket::Sockets;
use state::{Peer, Probe};

/// UDP port of the probes.
pub const PORT: u16 = 8473;

/// How long the thread sleeps at most before it looks at its peers and its timers again.
const TICK: Duration = Duration::from_millis(50);

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
    peers: BTreeMap<NodeName, Vec<Pair>>,
    overlay_mtu: u32,
    uplink_mtu: u32,
}

/// The addresses of one family between which two nodes probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    own: PodRange,
    other: PodRange,
}

impl Prober {
    /// Starts probing from this node's addresses, which must be there already, in the calling thread's namespace.
    /// `report` is called with every node's health whenever any changes.
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
            peers: BTreeMap::new(),
            by_address: BTreeMap::new(),
            targets: Targets::default(),
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
    peers: BTreeMap<NodeName, Peer>,
    /// Whose a probe address is: requests from elsewhere are ignored.
    by_address: BTreeMap<IpAddr, NodeName>,
    targets: Targets,
}

impl Worker {
    fn run(mut self, new_targets: &Mutex<Option<Targets>>, ended: &AtomicBool) {
        let mut last = BTreeMap::new();
        while !ended.load(Ordering::Relaxed) {
            let new = new_targets.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(new) = new.filter(|new| *new != self.targets) {
                self.retarget(new);
            }
            self.send_due();
            self.receive();
            let health: BTreeMap<NodeName, Health> =
                self.peers.iter().map(|(name, peer)| (name.clone(), peer.health())).collect();
            if health != last {
                (self.report)(&health);
                last = health;
            }
        }
    }

    fn retarget(&mut self, new: Targets) {
        self.peers.retain(|name, _| new.peers.get(name) == self.targets.peers.get(name));
        for (name, pairs) in &new.peers {
            self.peers
                .entry(name.clone())
                .or_insert_with(|| Peer::new(self.routing, pairs.len(), Instant::now()))
                .set_mtu(new.overlay_mtu, new.uplink_mtu);
        }
        let addresses = |pair: &Pair| [pair.other.plain_address(), pair.other.path_address()];
        self.by_address = (new.peers.iter())
            .flat_map(|(name, pairs)| pairs.iter().flat_map(addresses).map(|address| (address, name.clone())))
            .collect();
        self.targets = new;
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        for (name, peer) in &mut self.peers {
            let Some(pairs) = self.targets.peers.get(name) else { continue };
            for request in peer.due(now) {
                let Some(pair) = pairs.get(request.family) else { continue };
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
        }
    }

    fn receive(&mut self) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        if !self.sockets.wait(TICK) {
            return;
        }
        while let Some((socket, length, from)) = self.sockets.receive(&mut buffer) {
            let Some(name) = self.by_address.get(&from.ip()) else { continue };
            let Some(bytes) = buffer.get_mut(..length) else { continue };
            match wire::read(bytes) {
                Some(wire::Kind::Request) => {
                    wire::turn_into_answer(bytes);
                    if let Err(error) = self.sockets.answer(socket, from, bytes) {
                        tracing::trace!(node = %name, %from, %error, "probe not answered");
                    }
                }
                Some(wire::Kind::Answer(nonce)) => {
                    if let Some(peer) = self.peers.get_mut(name) {
                        peer.answered(nonce, Instant::now());
                    }
                }
                None => {}
            }
        }
    }
}

/// The path of every node, for [`crate::Datapath::apply`].
pub fn paths(health: &BTreeMap<NodeName, Health>) -> BTreeMap<NodeName, Path> {
    health.iter().map(|(name, health)| (name.clone(), health.path)).collect()
}
