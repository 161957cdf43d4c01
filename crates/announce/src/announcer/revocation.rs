//! Another node that holds addresses, and whether it is to be voted out.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use weft_model::Lease;

use super::{
    DURATION, MARGIN, RANK_STEP,
    standing::{is_newer, number},
    votes_needed,
};

/// Votes that are missing are asked for again after this.
const AGAIN: Duration = Duration::from_millis(250);

/// What is known of another node's standing.
#[derive(Debug)]
pub struct Holder {
    lease: Option<Lease>,
    is_shown: bool,
    /// Since when its Lease is as it is.
    since: Instant,
    attempt: Option<Attempt>,
    is_writing: bool,
    not_before: Option<Instant>,
}

/// Votes against a version of its Lease.
#[derive(Debug)]
struct Attempt {
    version: u64,
    votes: BTreeSet<String>,
    asked_at: Option<Instant>,
}

/// What is to be done about a holder.
#[derive(Debug)]
pub enum Step {
    /// Nothing before this time, unless something changes.
    Wait(Option<Instant>),
    /// This node's own vote is asked for, against this version of its Lease.
    Vote(u64),
    /// These voters are asked for their votes against this version of its Lease.
    Ask(u64, Vec<String>),
    /// Its Lease is to be written without a holder, in place of this one.
    Revoke(Lease),
}

impl Holder {
    pub fn new(now: Instant) -> Self {
        Self { lease: None, is_shown: false, since: now, attempt: None, is_writing: false, not_before: None }
    }

    /// The API server shows its Lease like this.
    pub fn see(&mut self, lease: Option<&Lease>, now: Instant) {
        let is_news = match (&self.lease, lease) {
            (None, None) => false,
            (Some(_), None) => self.is_shown,
            (Some(known), Some(shown)) => known != shown && !is_newer(&known.version, &shown.version),
            (None, Some(_)) => true,
        };
        if is_news {
            self.set(lease.cloned(), now);
        }
        self.is_shown |= lease.is_some() && self.lease.as_ref() == lease;
    }

    fn set(&mut self, lease: Option<Lease>, now: Instant) {
        (self.lease, self.since, self.is_shown) = (lease, now, false);
        self.attempt = None;
    }

    /// Whether it may hold something under this epoch. While its Lease is absent nobody knows.
    pub fn may_hold(&self, node: &str, epoch: u64) -> bool {
        let Some(lease) = &self.lease else { return true };
        lease.holder.as_deref() == Some(node) && lease.epoch == Some(epoch)
    }

    /// Whether anything is known of it.
    pub fn is_known(&self) -> bool {
        self.lease.is_some() || self.is_writing
    }

    /// What to do about the holder `node`, which is in somebody's way. `quiet_from` is when this node's own promise to it is over;
    /// `is_gone`: it is no node of the cluster any more.
    pub fn next(&mut self, node: &str, me: &str, quiet_from: Instant, is_gone: bool, now: Instant) -> Step {
        let Some(lease) = self.lease.as_ref().filter(|lease| lease.holder.as_deref() == Some(node)) else {
            return Step::Wait(None);
        };
        let version = number(&lease.version);
        let rank = lease.voters.iter().position(|voter| voter == me);
        if self.is_writing || rank.is_none() && !is_gone {
            return Step::Wait(None);
        }
        // Those in front go first.
        let patience = RANK_STEP * u32::try_from(rank.unwrap_or_default()).unwrap_or(u32::MAX);
        let due = (self.since + DURATION + MARGIN).max(quiet_from) + patience;
        let due = self.not_before.map_or(due, |at| due.max(at));
        if now < due {
            return Step::Wait(Some(due));
        }
        let attempt = self.attempt.get_or_insert(Attempt { version, votes: BTreeSet::new(), asked_at: None });
        if rank.is_some() && !attempt.votes.contains(me) {
            return Step::Vote(version);
        }
        let votes = lease.voters.iter().filter(|voter| attempt.votes.contains(*voter)).count();
        if is_gone || votes >= votes_needed(lease.voters.len()) {
            self.is_writing = true;
            return Step::Revoke(lease.clone());
        }
        let again = attempt.asked_at.map_or(now, |at| at + AGAIN);
        if now < again {
            return Step::Wait(Some(again));
        }
        attempt.asked_at = Some(now);
        let missing = lease.voters.iter().filter(|voter| !attempt.votes.contains(*voter)).cloned();
        Step::Ask(version, missing.collect())
    }

    /// A voter has voted against this version of its Lease.
    pub fn voted(&mut self, voter: &str, version: u64) {
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.version == version) {
            attempt.votes.insert(voter.to_owned());
        }
    }

    /// This node does not give its own vote now.
    pub fn not_voted(&mut self, now: Instant) {
        self.not_before = Some(now + AGAIN);
    }

    /// The Lease was written as [`Step::Revoke`] asked.
    pub fn revoked(&mut self, lease: Lease, now: Instant) {
        (self.is_writing, self.not_before) = (false, None);
        if !self.lease.as_ref().is_some_and(|known| is_newer(&known.version, &lease.version)) {
            self.set(Some(lease), now);
        }
    }

    /// It could not be written. `current` is what the API server has, if it said so.
    pub fn failed(&mut self, current: Option<&Lease>, now: Instant) {
        (self.is_writing, self.not_before) = (false, Some(now + AGAIN));
        if current.is_some() {
            self.see(current, now);
        }
    }
}
