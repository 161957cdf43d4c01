//! One address, as one node sees it: whose it is, and what to do next.

use std::time::{Duration, Instant};

use weft_model::Lease;

use super::{DURATION, MARGIN, standing::is_newer};

/// After a request that failed.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the holder of a Lease that somebody deleted is taken to hold it all the same: it hears of it by then, and writes it anew
/// or stops.
const DELETED: Duration = Duration::from_secs(10);

/// What is known of an address.
#[derive(Debug)]
pub struct Claim {
    /// A Service has it.
    pub wanted: bool,
    /// This node could serve it.
    pub eligible: bool,
    /// How long better placed nodes go first.
    pub patience: Duration,
    lease: Option<Lease>,
    is_shown: bool,
    /// Since when the Lease is as it is.
    since: Instant,
    /// Who held it when it was deleted.
    deleted: Option<Lease>,
    free_since: Option<Instant>,
    is_asking: bool,
    /// The data plane has stopped for a request that gives it up, and whose end is not known: it is to be taken again first.
    is_given_up: bool,
    not_before: Option<Instant>,
}

/// Whose an address is.
#[derive(Debug, PartialEq, Eq)]
pub enum Whose {
    /// This node's.
    Mine,
    /// The Lease names this node, which may not act on it any more.
    GivenUp,
    /// That node's, under that epoch.
    Others(String, u64),
    /// Somebody's who renews it, until then at least.
    Old(Instant),
    /// Nobody's.
    Free,
}

/// What is to be done about an address.
#[derive(Debug)]
pub enum Step {
    /// Nothing before this time, unless something changes.
    Wait(Option<Instant>),
    /// Its Lease is to be written with this node as the holder, in place of this one.
    Take(Option<Lease>),
    /// Its Lease is to be written without a holder, once the data plane has stopped.
    Give(Lease),
}

impl Claim {
    /// An address that a Service has, and of whose Lease nothing was seen.
    pub fn new(patience: Duration, now: Instant) -> Self {
        Self {
            wanted: true,
            eligible: false,
            patience,
            lease: None,
            is_shown: false,
            since: now,
            deleted: None,
            free_since: None,
            is_asking: false,
            is_given_up: false,
            not_before: None,
        }
    }

    /// The API server shows its Lease like this; what it shows may be older than what is known.
    pub fn see(&mut self, lease: Option<&Lease>, now: Instant) {
        let is_news = match (&self.lease, lease) {
            (None, None) => false,
            (Some(_), None) => self.is_shown,
            (Some(known), Some(shown)) => known != shown && !is_newer(&known.version, &shown.version),
            (None, Some(_)) => true,
        };
        if is_news {
            self.deleted = if lease.is_none() { self.lease.take() } else { None };
            self.set(lease.cloned(), now);
        }
        self.is_shown |= lease.is_some() && self.lease.as_ref() == lease;
    }

    fn set(&mut self, lease: Option<Lease>, now: Instant) {
        (self.lease, self.since, self.is_shown) = (lease, now, false);
    }

    /// The holder that the Lease names, and its epoch.
    pub fn named(&self, now: Instant) -> Option<(&str, u64)> {
        let deleted = self.deleted.as_ref().filter(|_| now < self.since + DELETED);
        let lease = self.lease.as_ref().or(deleted)?;
        Some((lease.holder.as_deref()?, lease.epoch?))
    }

    /// Whose it is. `may_hold` says whether a node may hold something under an epoch.
    pub fn whose(
        &self,
        me: &str,
        epoch: Option<u64>,
        may_hold: impl Fn(&str, u64) -> bool,
        now: Instant,
    ) -> Whose {
        if let Some((node, of)) = self.named(now) {
            return match node == me {
                true if Some(of) == epoch && self.lease.is_some() => {
                    if self.is_given_up {
                        Whose::GivenUp
                    } else {
                        Whose::Mine
                    }
                }
                true => Whose::Free,
                false if may_hold(node, of) => Whose::Others(node.to_owned(), of),
                false => Whose::Free,
            };
        }
        match &self.lease {
            // Written by an agent that renews each Lease.
            Some(lease) if lease.holder.is_some() => {
                let until = self.since + lease.duration.max(DURATION) + MARGIN;
                if now < until { Whose::Old(until) } else { Whose::Free }
            }
            _ => Whose::Free,
        }
    }

    /// What to do. `may_take`: this node can prove its standing, and is one that may answer.
    pub fn next(&mut self, whose: &Whose, may_take: bool, is_node_eligible: bool, now: Instant) -> Step {
        let is_eligible = self.wanted && self.eligible && is_node_eligible;
        if !matches!(whose, Whose::Free | Whose::GivenUp) {
            self.free_since = None;
        }
        if self.is_asking {
            return Step::Wait(None);
        }
        match whose {
            Whose::Mine | Whose::GivenUp if !is_eligible => {
                match (&self.lease, self.not_before.filter(|at| now < *at)) {
                    (Some(_), Some(at)) => Step::Wait(Some(at)),
                    (Some(lease), None) => {
                        (self.is_asking, self.is_given_up) = (true, true);
                        Step::Give(lease.clone())
                    }
                    (None, _) => Step::Wait(None),
                }
            }
            Whose::Mine => Step::Wait(None),
            Whose::Others(..) => {
                // A Lease that was deleted is looked at again when its holder has had its time.
                Step::Wait(self.deleted.as_ref().map(|_| self.since + DELETED).filter(|at| *at > now))
            }
            Whose::Old(until) => Step::Wait(Some(*until)),
            Whose::Free if !is_eligible => Step::Wait(None),
            Whose::Free | Whose::GivenUp => {
                let patience = if *whose == Whose::Free { self.patience } else { Duration::ZERO };
                let due = *self.free_since.get_or_insert(now) + patience;
                let due = self.not_before.map_or(due, |at| due.max(at));
                if now < due {
                    return Step::Wait(Some(due));
                }
                if !may_take {
                    return Step::Wait(None);
                }
                self.is_asking = true;
                Step::Take(self.lease.clone())
            }
        }
    }

    /// Whether this node would have it: it is nobody's, or this node's already.
    pub fn is_of_interest(&self, whose: &Whose, is_node_eligible: bool) -> bool {
        let may = self.wanted && self.eligible && is_node_eligible;
        matches!(whose, Whose::Mine | Whose::GivenUp) || may && *whose == Whose::Free
    }

    /// A request is under way.
    pub fn is_asking(&self) -> bool {
        self.is_asking
    }

    /// The Lease was written as asked.
    pub fn written(&mut self, lease: Lease, now: Instant) {
        (self.is_asking, self.is_given_up, self.not_before) = (false, false, None);
        if !self.lease.as_ref().is_some_and(|known| is_newer(&known.version, &lease.version)) {
            self.deleted = None;
            self.set(Some(lease), now);
        }
    }

    /// It could not be written. `current` is what the API server has, if it said so.
    pub fn failed(&mut self, current: Option<&Lease>, now: Instant) {
        (self.is_asking, self.not_before) = (false, Some(now + AGAIN));
        if current.is_some() {
            self.see(current, now);
        }
    }
}
