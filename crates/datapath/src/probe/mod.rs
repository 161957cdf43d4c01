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
//! A node that stops giving signs of life is given no new connections while others can have them ([`Health::silent`]). An answer is such a
//! sign, also a late one, and so is its kernel's word that nobody answers probes there: then only its agent is away. A node that suspects
//! another tells a few more, which see for themselves: so all know soon, however seldom each asks. If most others give no sign either,
//! it is this node that is cut off, and it says so of nobody.
//!
//! What one node sends is bounded, so that thousands of nodes do not spend themselves on probes: the more there are, the less often
//! each is asked ([`pace`]), and what is lost is asked for again at once.

mod jury;
mod pace;
mod silence;
mod socket;
mod state;
mod wire;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use ipnet::IpNet;
use weft_abi::Path;
use weft_model::{NodeName, NodePlan, PodRange};

pub use state::{Families, Health, MtuProof};

use crate::Mtu;
use socket::Sockets;
use worker::Worker;

pub use weft_abi::PROBE_PORT as PORT;

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

type Report = Box<dyn FnMut(BTreeMap<NodeName, Health>) + Send>;

/// Whom to probe and how large.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Targets {
    peers: Vec<(NodeName, Vec<Pair>)>,
    /// That these are gone is known already: their silence says nothing of this node.
    away: BTreeSet<NodeName>,
    overlay_mtu: u32,
    uplink_mtu: u32,
}

/// The addresses of one family between which two nodes probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pair {
    own: PodRange,
    other: PodRange,
}

impl Pair {
    fn is_ipv6(&self) -> bool {
        self.own.net().addr().is_ipv6()
    }
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
        report: impl FnMut(BTreeMap<NodeName, Health>) + Send + 'static,
    ) -> io::Result<Prober> {
        let worker = Worker::new(Sockets::open(own_ranges)?, routing, Box::new(report));
        let targets = Arc::new(Mutex::new(None));
        let ended = Arc::new(AtomicBool::new(false));
        let (new_targets, end) = (Arc::clone(&targets), Arc::clone(&ended));
        let thread =
            thread::Builder::new().name("probe".to_owned()).spawn(move || worker.run(&new_targets, &end))?;
        Ok(Prober { targets, ended, thread: Some(thread) })
    }

    /// Probes the nodes of this plan from now on. `away` are those that the API says are gone.
    pub fn set_peers(&self, plan: &NodePlan, away: BTreeSet<NodeName>, mtu: Mtu) {
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
        let targets = Targets { peers, away, overlay_mtu: mtu.overlay, uplink_mtu: mtu.uplink };
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

/// The path of every node, for [`crate::Datapath::apply`].
pub fn paths(health: &BTreeMap<NodeName, Health>) -> BTreeMap<NodeName, Path> {
    health.iter().map(|(name, health)| (name.clone(), health.path)).collect()
}
