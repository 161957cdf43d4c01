//! All addresses that nodes answer for, as one node sees them: which it holds, and what to do next. Without I/O and
//! without a clock.

use std::{
    collections::BTreeMap,
    hash::Hasher,
    net::IpAddr,
    time::{Duration, Instant},
};

use weft_model::Lease;

use crate::{
    election::{Election, Step, Terms},
    hash::Fnv,
};

/// Leases of addresses carry this label.
pub const LABEL: &str = "weft.network/announces";
/// Names of their Leases begin so.
const PREFIX: &str = "weft-address-";
/// Who is next best waits so much longer for a free address.
const RANK_STEP: Duration = Duration::from_millis(50);
/// And nobody longer than this.
const MOST_PATIENCE: Duration = Duration::from_millis(500);

/// Name of the Lease of an address.
pub fn lease_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{PREFIX}{}", v4.to_string().replace('.', "-")),
        IpAddr::V6(v6) => {
            let parts: Vec<String> = v6.segments().iter().map(|part| format!("{part:x}")).collect();
            format!("{PREFIX}{}", parts.join("-"))
        }
    }
}

/// Something to ask the API for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make this node the holder.
    Take {
        /// The address.
        address: IpAddr,
        /// The Lease that is replaced; `None` makes it.
        before: Option<Lease>,
    },
    /// The data plane is to stop answering, then the Lease loses its holder, or is deleted when nobody wants the address.
    Give {
        /// The address.
        address: IpAddr,
        /// The Lease.
        lease: Lease,
        /// No Service has the address any more.
        delete: bool,
    },
}

/// This node's view of all addresses.
#[derive(Debug)]
pub struct Announcer {
    me: String,
    nodes: Vec<String>,
    addresses: BTreeMap<IpAddr, Address>,
}

#[derive(Debug)]
struct Address {
    election: Election,
    /// This node could serve it.
    eligible: bool,
    /// A Service has it.
    wanted: bool,
    patience: Duration,
}

impl Announcer {
    /// Of the node `me`.
    pub fn new(me: &str) -> Self {
        Self { me: me.to_owned(), nodes: Vec::new(), addresses: BTreeMap::new() }
    }

    /// These addresses have Services, and this node can serve those that are true.
    pub fn set_wanted(&mut self, wanted: &BTreeMap<IpAddr, bool>, now: Instant) {
        for (address, known) in &mut self.addresses {
            known.wanted = wanted.contains_key(address);
            known.eligible = wanted.get(address) == Some(&true);
        }
        for (address, eligible) in wanted {
            self.addresses.entry(*address).or_insert_with(|| Address {
                election: Election::new(&self.me, Terms::ADDRESS, now),
                eligible: *eligible,
                wanted: true,
                patience: patience(&self.nodes, &self.me, *address),
            });
        }
    }

    /// These nodes may answer; who is not among them gives up what it holds.
    pub fn set_nodes(&mut self, nodes: &[String]) {
        self.nodes = nodes.to_vec();
        for (address, known) in &mut self.addresses {
            known.patience = patience(nodes, &self.me, *address);
        }
    }

    /// The API has these Leases now, by name.
    pub fn see(&mut self, leases: &BTreeMap<String, Lease>, now: Instant) {
        for (address, known) in &mut self.addresses {
            known.election.see(leases.get(&lease_name(*address)), now);
        }
    }

    /// What to ask for now; each is answered by [`Announcer::taken`], [`Announcer::given`] or [`Announcer::failed`]. And
    /// when to ask again although nothing changed.
    pub fn next(&mut self, now: Instant) -> (Vec<Request>, Option<Instant>) {
        let (mut requests, mut soonest) = (Vec::new(), None::<Instant>);
        let mut over = Vec::new();
        for (address, known) in &mut self.addresses {
            let eligible = known.wanted && known.eligible && self.nodes.contains(&self.me);
            match known.election.next(eligible, known.patience, now) {
                Step::Take(before) => requests.push(Request::Take { address: *address, before }),
                Step::Give(lease) => {
                    requests.push(Request::Give { address: *address, lease, delete: !known.wanted });
                }
                Step::Wait(None) if !known.wanted && !known.election.is_asking() => over.push(*address),
                Step::Wait(at) => soonest = [soonest, at].into_iter().flatten().min(),
            }
        }
        for address in over {
            self.addresses.remove(&address);
        }
        (requests, soonest)
    }

    /// A [`Request::Take`] was granted. True when the address is news here.
    pub fn taken(&mut self, address: IpAddr, lease: Lease, sent: Instant, now: Instant) -> bool {
        self.addresses.get_mut(&address).is_some_and(|known| known.election.taken(lease, sent, now))
    }

    /// A [`Request::Give`] was granted; the Lease is like this now.
    pub fn given(&mut self, address: IpAddr, lease: Option<Lease>, now: Instant) {
        if let Some(known) = self.addresses.get_mut(&address) {
            known.election.given(lease, now);
        }
    }

    /// A request failed. `current` is what the API has instead, if it said so.
    pub fn failed(&mut self, address: IpAddr, current: Option<&Lease>, now: Instant) {
        if let Some(known) = self.addresses.get_mut(&address) {
            known.election.failed(now);
            if current.is_some() {
                known.election.see(current, now);
            }
        }
    }

    /// What this node answers for, each until when.
    pub fn held(&self, now: Instant) -> Vec<(IpAddr, Instant)> {
        let until = |(address, known): (&IpAddr, &Address)| Some((*address, known.election.held_until(now)?));
        self.addresses.iter().filter_map(until).collect()
    }
}

/// How long this node lets better ones go first: rendezvous hashing ranks the nodes for each address differently.
fn patience(nodes: &[String], me: &str, address: IpAddr) -> Duration {
    let score = |node: &str| {
        let mut hasher = Fnv::default();
        hasher.write(node.as_bytes());
        hasher.write(address.to_string().as_bytes());
        hasher.finish()
    };
    let mine = score(me);
    let better = nodes.iter().filter(|node| node.as_str() != me && score(node) > mine).count();
    (RANK_STEP * u32::try_from(better).unwrap_or(u32::MAX)).min(MOST_PATIENCE)
}

#[cfg(test)]
mod tests;
