//! All addresses that nodes answer for, as one node sees them: which it holds, and what to do next. Without I/O and
//! without a clock. docs/decisions/0004-announcers.md says why two nodes never answer for one address.

pub mod ballot;
mod claim;
pub mod message;
mod revocation;
mod standing;

use std::{
    collections::{BTreeMap, VecDeque},
    hash::Hasher,
    net::IpAddr,
    time::{Duration, Instant},
};

use weft_model::{Lease, LeaseWrite};

use crate::hash::Fnv;
use ballot::Ballot;
use claim::{Claim, Whose};
use message::{Kind, Message};
use revocation::Holder;
use standing::Standing;

/// Leases of addresses, and of the nodes that announce them, carry this label.
pub const LABEL: &str = "weft.network/announces";
/// How long a proof lasts, counted from before it was asked for.
pub const DURATION: Duration = Duration::from_secs(2);
/// How much longer others wait: clocks do not run at quite the same speed.
pub const MARGIN: Duration = Duration::from_millis(100);
/// Voters of a holder, maximum.
pub const VOTERS: usize = 5;

/// Names of the Leases of addresses begin so.
const ADDRESS_PREFIX: &str = "weft-address-";
/// Names of the Leases of nodes begin so.
const NODE_PREFIX: &str = "weft-announcer-";
/// Who is next best waits so much longer for a free address, or to vote a holder out.
const RANK_STEP: Duration = Duration::from_millis(50);
/// And nobody longer than this.
const MOST_PATIENCE: Duration = Duration::from_millis(500);
/// What Leases say of their duration, so that agents which renew each address's Lease themselves leave them alone.
const LASTING: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long ago a node must have been seen to go before it is voted out without its voters' votes.
const GONE: Duration = Duration::from_secs(60);
/// The same of a holder that was never seen among the nodes: it may be new, and this node's view of nodes late.
const UNSEEN: Duration = Duration::from_secs(600);
/// Voters of one zone, maximum, as long as there are others.
const VOTERS_OF_ZONE: usize = 2;
/// Questions for promises that are remembered.
const ASKED: usize = 16;

/// Name of the Lease of an address.
pub fn lease_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{ADDRESS_PREFIX}{}", v4.to_string().replace('.', "-")),
        IpAddr::V6(v6) => {
            let parts: Vec<String> = v6.segments().iter().map(|part| format!("{part:x}")).collect();
            format!("{ADDRESS_PREFIX}{}", parts.join("-"))
        }
    }
}

/// Name of the Lease of a node that announces addresses.
pub fn announcer_name(node: &str) -> String {
    format!("{NODE_PREFIX}{node}")
}

/// Whether this is the name of an address's Lease.
pub fn is_address_lease(name: &str) -> bool {
    name.starts_with(ADDRESS_PREFIX)
}

/// Whether somebody may still answer for the address of this Lease, among all Leases by name.
pub fn may_be_held(lease: &Lease, leases: &BTreeMap<String, Lease>) -> bool {
    let Some(holder) = &lease.holder else { return false };
    let standing = leases.get(&announcer_name(holder));
    standing.is_none_or(|standing| {
        standing.holder.as_deref() == Some(holder) && (lease.epoch.is_none() || standing.epoch == lease.epoch)
    })
}

/// Promises that a holder needs of so many voters to go on without the API server.
pub const fn promises_needed(voters: usize) -> usize {
    voters.div_ceil(2)
}

/// Votes that are needed of so many voters to vote a holder out. One of them at least is missing among any promises that suffice.
pub const fn votes_needed(voters: usize) -> usize {
    voters / 2 + 1
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where its agent listens.
    pub addresses: Vec<IpAddr>,
    /// It may be a voter: it could take addresses over.
    pub votes: bool,
    /// The API says that it is well.
    pub ready: bool,
    /// Its zone.
    pub zone: Option<String>,
}

/// Something to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Write a Lease; answered by [`Announcer::written`] or [`Announcer::failed`]. Before an address is given up, the data plane
    /// is to stop answering for it.
    Write {
        /// What it is about.
        about: About,
        /// Name of the Lease.
        name: String,
        /// The Lease that is replaced; `None` makes it.
        before: Option<Lease>,
        /// What is written.
        write: LeaseWrite,
    },
    /// Say this to another node's agent. Votes are to be kept before ([`Announcer::unsaved`]).
    Send(String, Message),
}

/// What a Lease that is written is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// This node's own standing.
    Standing,
    /// Another node's, which is voted out.
    Revocation(String),
    /// An address that this node takes.
    Take(IpAddr),
    /// An address that this node gives up.
    Give(IpAddr),
}

/// This node's view of all addresses.
#[derive(Debug)]
pub struct Announcer {
    me: String,
    candidates: Vec<String>,
    peers: BTreeMap<String, Peer>,
    /// Nodes that have gone, and from when on they count as gone for good.
    gone: BTreeMap<String, Instant>,
    claims: BTreeMap<IpAddr, Claim>,
    standing: Standing,
    holders: BTreeMap<String, Holder>,
    ballot: Ballot,
    has_unsaved: bool,
    /// Questions for promises: their number, the epoch, and when they were sent.
    asked: VecDeque<(u64, u64, Instant)>,
    nonce: u64,
}

impl Announcer {
    /// Of the node `me`, whose processes before this one voted `voted`; absent: nobody knows. Questions are numbered from `nonce`.
    pub fn new(me: &str, voted: Option<BTreeMap<String, u64>>, nonce: u64, now: Instant) -> Self {
        Self {
            me: me.to_owned(),
            candidates: Vec::new(),
            peers: BTreeMap::new(),
            gone: BTreeMap::new(),
            claims: BTreeMap::new(),
            standing: Standing::new(me),
            holders: BTreeMap::new(),
            ballot: Ballot::new(voted, now),
            has_unsaved: false,
            asked: VecDeque::new(),
            nonce,
        }
    }

    /// These addresses have Services, and this node can serve those that are true.
    pub fn set_wanted(&mut self, wanted: &BTreeMap<IpAddr, bool>, now: Instant) {
        for (address, claim) in &mut self.claims {
            claim.wanted = wanted.contains_key(address);
            claim.eligible = wanted.get(address) == Some(&true);
        }
        for (address, eligible) in wanted {
            let patience = patience(&self.candidates, &self.me, *address);
            let claim = self.claims.entry(*address).or_insert_with(|| Claim::new(patience, now));
            claim.eligible = *eligible;
        }
    }

    /// These nodes may answer; who is not among them gives up what it holds.
    pub fn set_candidates(&mut self, nodes: &[String]) {
        self.candidates = nodes.to_vec();
        for (address, claim) in &mut self.claims {
            claim.patience = patience(nodes, &self.me, *address);
        }
    }

    /// These are the nodes of the cluster, this one included.
    pub fn set_peers(&mut self, peers: &BTreeMap<String, Peer>, now: Instant) {
        for name in self.peers.keys().filter(|name| !peers.contains_key(*name)) {
            self.gone.entry(name.clone()).or_insert(now + GONE);
        }
        self.gone.retain(|name, _| !peers.contains_key(name));
        self.peers.clone_from(peers);
    }

    /// The API server shows these Leases, by name.
    pub fn see(&mut self, leases: &BTreeMap<String, Lease>, now: Instant) {
        self.standing.see(leases.get(&announcer_name(&self.me)));
        for (address, claim) in &mut self.claims {
            claim.see(leases.get(&lease_name(*address)), now);
        }
        let named =
            self.claims.values().filter_map(|claim| claim.named(now)).map(|(node, _)| node.to_owned());
        let named: Vec<String> = named.filter(|node| *node != self.me).collect();
        for node in named {
            if !self.peers.contains_key(&node) {
                self.gone.entry(node.clone()).or_insert(now + UNSEEN);
            }
            self.holders.entry(node).or_insert_with(|| Holder::new(now));
        }
        for (node, holder) in &mut self.holders {
            holder.see(leases.get(&announcer_name(node)), now);
        }
    }

    /// What to do now, and when to ask again although nothing changed. `seconds` is the time of day, in seconds since 1970.
    pub fn next(&mut self, seconds: u64, now: Instant) -> (Vec<Request>, Option<Instant>) {
        let mut turn = Turn { requests: Vec::new(), soonest: None };
        let is_candidate = self.candidates.contains(&self.me);
        let whose: BTreeMap<IpAddr, Whose> =
            self.claims.iter().map(|(address, claim)| (*address, self.whose(claim, now))).collect();
        let interest =
            self.claims.iter().any(|(address, claim)| claim.is_of_interest(&whose[address], is_candidate));
        self.stand(interest, seconds, now, &mut turn);
        let may_take = self.standing.until(now).is_some();
        for (address, claim) in &mut self.claims {
            let write = LeaseWrite { duration: LASTING, ..LeaseWrite::default() };
            let name = lease_name(*address);
            match claim.next(&whose[address], may_take, is_candidate, now) {
                claim::Step::Wait(at) => turn.at(at),
                claim::Step::Take(before) => {
                    let write =
                        LeaseWrite { holder: Some(self.me.clone()), epoch: self.standing.epoch(), ..write };
                    turn.requests.push(Request::Write { about: About::Take(*address), name, before, write });
                }
                claim::Step::Give(lease) => turn.requests.push(Request::Write {
                    about: About::Give(*address),
                    name,
                    before: Some(lease),
                    write,
                }),
            }
        }
        self.claims.retain(|address, claim| {
            claim.wanted || claim.is_asking() || matches!(whose[address], Whose::Mine | Whose::GivenUp)
        });
        self.revoke(now, &mut turn);
        (turn.requests, turn.soonest)
    }

    /// Votes that are to be kept before anything is sent, if there are new ones.
    pub fn unsaved(&mut self) -> Option<&BTreeMap<String, u64>> {
        std::mem::take(&mut self.has_unsaved).then(|| self.ballot.voted())
    }

    /// The agent of the node `from` says this; what is to be answered.
    pub fn hear(&mut self, from: &str, message: &Message, now: Instant) -> Option<Request> {
        let kind = match message.kind {
            // Promises are for holders alone, and nobody asks for another.
            Kind::MayI if message.holder != from => return None,
            Kind::MayI if self.ballot.promise(from, message.lease, now) => Kind::YouMay,
            Kind::IsItOut if message.holder == self.me => Kind::No,
            Kind::IsItOut if self.ballot.vote(&message.holder, message.lease, now) => {
                self.has_unsaved = true;
                Kind::ItIsOut
            }
            Kind::MayI | Kind::IsItOut => Kind::No,
            Kind::YouMay => {
                let asked = self.asked.iter().find(|(nonce, ..)| *nonce == message.nonce);
                if let Some((_, epoch, sent)) = asked.filter(|_| message.holder == self.me) {
                    self.standing.promised(from, *epoch, *sent);
                }
                return None;
            }
            Kind::ItIsOut => {
                if let Some(holder) = self.holders.get_mut(&message.holder) {
                    holder.voted(from, message.lease);
                }
                return None;
            }
            Kind::No => return None,
        };
        Some(Request::Send(from.to_owned(), message.answer(kind)))
    }

    /// A [`Request::Write`] that was sent at `sent` was granted; the Lease is like this now.
    pub fn written(&mut self, about: &About, lease: Lease, sent: Instant, now: Instant) {
        match about {
            About::Standing => self.standing.written(lease, sent),
            About::Revocation(node) => {
                if let Some(holder) = self.holders.get_mut(node) {
                    holder.revoked(lease, now);
                }
            }
            About::Take(address) | About::Give(address) => {
                if let Some(claim) = self.claims.get_mut(address) {
                    claim.written(lease, now);
                }
            }
        }
    }

    /// Where the agent of a node listens.
    pub fn addresses_of(&self, node: &str) -> &[IpAddr] {
        self.peers.get(node).map_or(&[], |peer| &peer.addresses)
    }

    /// A [`Request::Write`] failed. `current` is what the API server has instead, if it said so.
    pub fn failed(&mut self, about: &About, current: Option<Option<&Lease>>, now: Instant) {
        match about {
            About::Standing => self.standing.failed(current, now),
            About::Revocation(node) => {
                if let Some(holder) = self.holders.get_mut(node) {
                    holder.failed(current.flatten(), now);
                }
            }
            About::Take(address) | About::Give(address) => {
                if let Some(claim) = self.claims.get_mut(address) {
                    claim.failed(current.flatten(), now);
                }
            }
        }
    }

    /// What this node answers for, each until when.
    pub fn held(&self, now: Instant) -> Vec<(IpAddr, Instant)> {
        let Some(until) = self.standing.until(now) else { return Vec::new() };
        let is_candidate = self.candidates.contains(&self.me);
        let mine = |claim: &Claim| {
            is_candidate
                && claim.wanted
                && claim.eligible
                && !claim.is_asking()
                && self.whose(claim, now) == Whose::Mine
        };
        self.claims.iter().filter(|(_, claim)| mine(claim)).map(|(address, _)| (*address, until)).collect()
    }

    fn whose(&self, claim: &Claim, now: Instant) -> Whose {
        let may_hold = |node: &str, epoch| match self.holders.get(node) {
            Some(holder) if holder.is_known() => holder.may_hold(node, epoch),
            // Without its Lease nobody can vote it out; a node that has gone for good holds nothing.
            _ => !self.is_gone(node, now),
        };
        claim.whose(&self.me, self.standing.epoch(), may_hold, now)
    }

    fn is_gone(&self, node: &str, now: Instant) -> bool {
        self.gone.get(node).is_some_and(|from| now >= *from)
    }

    /// Proves this node's standing.
    fn stand(&mut self, interest: bool, seconds: u64, now: Instant, turn: &mut Turn) {
        let voters = self.voters();
        if let Some((before, epoch)) = self.standing.write(&voters, interest, seconds, now) {
            let write =
                LeaseWrite { holder: Some(self.me.clone()), duration: LASTING, epoch: Some(epoch), voters };
            let name = announcer_name(&self.me);
            turn.requests.push(Request::Write { about: About::Standing, name, before, write });
        }
        if !interest {
            return;
        }
        if let Some((epoch, version, voters)) = self.standing.ask(now) {
            self.nonce = self.nonce.wrapping_add(1);
            self.asked.push_back((self.nonce, epoch, now));
            if self.asked.len() > ASKED {
                self.asked.pop_front();
            }
            for voter in voters {
                let message = Message::new(Kind::MayI, &self.me, version, self.nonce);
                turn.requests.push(Request::Send(voter, message));
            }
        }
        turn.at(self.standing.due(now));
    }

    /// Votes out who holds what this node could have, and proves it no longer.
    fn revoke(&mut self, now: Instant, turn: &mut Turn) {
        let named: Vec<(String, u64)> = (self.claims.values().filter(|claim| claim.wanted))
            .filter_map(|claim| claim.named(now))
            .map(|(node, epoch)| (node.to_owned(), epoch))
            .collect();
        self.holders.retain(|node, holder| holder.is_known() || named.iter().any(|(name, _)| name == node));
        let gone: Vec<String> = self.gone.keys().filter(|node| self.is_gone(node, now)).cloned().collect();
        for (node, holder) in &mut self.holders {
            if !named.iter().any(|(name, epoch)| name == node && holder.may_hold(node, *epoch)) {
                continue;
            }
            let quiet_from = self.ballot.quiet_from(node);
            let is_gone = gone.contains(node);
            let mut step = holder.next(node, &self.me, quiet_from, is_gone, now);
            if let revocation::Step::Vote(version) = step {
                if self.ballot.vote(node, version, now) {
                    self.has_unsaved = true;
                    holder.voted(&self.me, version);
                } else {
                    holder.not_voted(now);
                }
                step = holder.next(node, &self.me, quiet_from, is_gone, now);
            }
            match step {
                revocation::Step::Vote(_) => {}
                revocation::Step::Wait(at) => turn.at(at),
                revocation::Step::Ask(version, voters) => {
                    self.nonce = self.nonce.wrapping_add(1);
                    for voter in voters {
                        let message = Message::new(Kind::IsItOut, node, version, self.nonce);
                        turn.requests.push(Request::Send(voter, message));
                    }
                    turn.at(Some(now + RANK_STEP));
                }
                revocation::Step::Revoke(lease) => {
                    let write = LeaseWrite {
                        holder: None,
                        duration: LASTING,
                        epoch: lease.epoch,
                        voters: lease.voters.clone(),
                    };
                    let name = announcer_name(node);
                    let about = About::Revocation(node.clone());
                    turn.requests.push(Request::Write { about, name, before: Some(lease), write });
                }
            }
        }
    }

    /// Who votes about this node: those that do so already as long as they are well, then others, of several zones.
    fn voters(&self) -> Vec<String> {
        let current = self.standing.voters();
        let mut ranked: Vec<(bool, bool, std::cmp::Reverse<u64>, &String, &Peer)> = self
            .peers
            .iter()
            .filter(|(name, peer)| **name != self.me && peer.votes)
            .map(|(name, peer)| {
                let score = score(name, &self.me);
                (!peer.ready, !current.contains(name), std::cmp::Reverse(score), name, peer)
            })
            .collect();
        ranked.sort_unstable_by_key(|(unready, new, score, name, _)| (*unready, *new, *score, *name));
        let mut chosen: Vec<String> = Vec::new();
        let mut zones: BTreeMap<&Option<String>, usize> = BTreeMap::new();
        for (ready, most_of_zone) in [(true, VOTERS_OF_ZONE), (true, VOTERS), (false, VOTERS)] {
            for (.., name, peer) in ranked.iter().filter(|(.., peer)| peer.ready == ready) {
                let of_zone = zones.entry(&peer.zone).or_default();
                if chosen.len() < VOTERS && *of_zone < most_of_zone && !chosen.contains(name) {
                    *of_zone += 1;
                    chosen.push((*name).clone());
                }
            }
        }
        chosen.sort_unstable();
        chosen
    }
}

/// What comes of one look at everything.
struct Turn {
    requests: Vec<Request>,
    soonest: Option<Instant>,
}

impl Turn {
    fn at(&mut self, at: Option<Instant>) {
        self.soonest = [self.soonest, at].into_iter().flatten().min();
    }
}

/// How well a node is placed for something: rendezvous hashing ranks the nodes for each differently.
fn score(node: &str, what: &str) -> u64 {
    let mut hasher = Fnv::default();
    hasher.write(node.as_bytes());
    hasher.write(what.as_bytes());
    hasher.finish()
}

/// How long this node lets better ones go first.
fn patience(nodes: &[String], me: &str, address: IpAddr) -> Duration {
    let address = address.to_string();
    let mine = score(me, &address);
    let better = nodes.iter().filter(|node| node.as_str() != me && score(node, &address) > mine).count();
    (RANK_STEP * u32::try_from(better).unwrap_or(u32::MAX)).min(MOST_PATIENCE)
}

#[cfg(test)]
mod tests;
