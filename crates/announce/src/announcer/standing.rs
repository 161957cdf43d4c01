//! Whether this node may act on what it holds: for how long nobody can have taken it over.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use weft_model::Lease;

use super::{DURATION, promises_needed};

/// After how long promises, and proofs by the API server, are renewed.
pub const RENEW: Duration = Duration::from_millis(500);
/// A promise that is older than this does not replace a proof by the API server: that is asked for then.
const LATE: Duration = Duration::from_millis(1100);
/// After a request that failed.
const AGAIN: Duration = Duration::from_millis(200);
/// The same while promises stand in for it.
const PAUSE: Duration = Duration::from_secs(2);

/// This node's own Lease, and what proves that it still has it.
#[derive(Debug)]
pub struct Standing {
    me: String,
    /// The own Lease, as it was last seen or written.
    lease: Option<Lease>,
    /// The API server has shown the own Lease since it was last written: if it is absent now, somebody has deleted it.
    is_shown: bool,
    /// Voters that the Lease may name beside those that it was seen with: of writes in place of a version of it whose end is not
    /// known.
    unsure: Vec<(Option<String>, Vec<String>)>,
    is_writing: bool,
    not_before: Option<Instant>,
    /// Until when a write of the own Lease proves it.
    proved_until: Option<Instant>,
    /// Until when each voter has promised.
    promised: HashMap<String, Instant>,
    asked_at: Option<Instant>,
}

impl Standing {
    pub fn new(me: &str) -> Self {
        Self {
            me: me.to_owned(),
            lease: None,
            is_shown: false,
            unsure: Vec::new(),
            is_writing: false,
            not_before: None,
            proved_until: None,
            promised: HashMap::new(),
            asked_at: None,
        }
    }

    /// The epoch under which this node holds addresses; absent while it has none, or has been voted out.
    pub fn epoch(&self) -> Option<u64> {
        self.lease.as_ref().filter(|lease| lease.holder.as_deref() == Some(&self.me))?.epoch
    }

    /// The voters that the own Lease names.
    pub fn voters(&self) -> &[String] {
        self.lease.as_ref().map_or(&[], |lease| &lease.voters)
    }

    /// The API server shows the own Lease like this; what it shows may be older than what is known.
    pub fn see(&mut self, lease: Option<&Lease>) {
        let is_news = match (&self.lease, lease) {
            (_, None) => self.is_shown,
            (Some(known), Some(shown)) => !is_newer(&known.version, &shown.version),
            (None, Some(_)) => true,
        };
        if is_news {
            self.is_shown = lease.is_some();
            self.set(lease.cloned());
        }
    }

    fn set(&mut self, lease: Option<Lease>) {
        let before = self.epoch();
        self.lease = lease;
        // A write in place of another version than this one is over: it is this one, or it was refused.
        let version = self.lease.as_ref().map(|lease| &lease.version);
        self.unsure.retain(|(base, _)| base.as_ref() == version);
        if self.epoch() != before {
            self.proved_until = None;
            self.promised.clear();
            self.asked_at = None;
        }
    }

    /// Until when nobody can have taken over what this node holds, given that no proof comes any more.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.epoch()?;
        let proved = self.proved_until.max(self.promised_until(now));
        proved.filter(|until| *until > now)
    }

    /// Until when enough voters have promised, whichever of the possible sets of voters the Lease names.
    fn promised_until(&self, now: Instant) -> Option<Instant> {
        let of = |voters: &[String]| {
            let needed = promises_needed(voters.len());
            if needed == 0 {
                return Some(now + DURATION);
            }
            let mut promised: Vec<Instant> =
                voters.iter().filter_map(|voter| self.promised.get(voter).copied()).collect();
            promised.sort_unstable_by(|one, other| other.cmp(one));
            promised.get(needed - 1).copied()
        };
        let unsure = self.unsure.iter().map(|(_, voters)| voters);
        unsure.chain([&self.lease.as_ref()?.voters]).map(|voters| of(voters)).min().flatten()
    }

    /// Whom to ask for a promise now, under which epoch, and the version of the own Lease to name; each is answered by [`Standing::promised`], if at all.
    pub fn ask(&mut self, now: Instant) -> Option<(u64, u64, Vec<String>)> {
        let epoch = self.epoch()?;
        if self.asked_at.is_some_and(|at| now < at + RENEW) {
            return None;
        }
        let mut voters: Vec<String> = self.unsure.iter().flat_map(|(_, voters)| voters).cloned().collect();
        voters.extend(self.lease.as_ref().map(|lease| lease.voters.clone()).unwrap_or_default());
        voters.sort_unstable();
        voters.dedup();
        self.asked_at = Some(now);
        let version = self.lease.as_ref().map_or(0, |lease| number(&lease.version));
        (!voters.is_empty()).then_some((epoch, version, voters))
    }

    /// A voter has promised, asked at `sent`.
    pub fn promised(&mut self, voter: &str, epoch: u64, sent: Instant) {
        if self.epoch() == Some(epoch) {
            let until = self.promised.entry(voter.to_owned()).or_insert(sent + DURATION);
            *until = (*until).max(sent + DURATION);
        }
    }

    /// Whether the own Lease is to be written now: it is not this node's, its voters are not `voters`, or nothing else proves it.
    /// Returns the Lease to be replaced and the epoch to be written; answered by [`Standing::written`] or [`Standing::failed`].
    pub fn write(
        &mut self,
        voters: &[String],
        is_wanted: bool,
        seconds: u64,
        now: Instant,
    ) -> Option<(Option<Lease>, u64)> {
        if self.is_writing || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let epoch = match self.epoch() {
            Some(epoch) => {
                let named = self.lease.as_ref().is_some_and(|lease| lease.voters == voters);
                let is_proved = self.until(now).is_some_and(|until| until > now + DURATION - LATE);
                if !is_wanted || named && is_proved {
                    return None;
                }
                epoch
            }
            None if is_wanted => {
                let before = self.lease.as_ref().and_then(|lease| lease.epoch).unwrap_or_default();
                // Also above one that was deleted.
                (before + 1).max(seconds)
            }
            None => return None,
        };
        self.is_writing = true;
        let unsure = (self.lease.as_ref().map(|lease| lease.version.clone()), voters.to_vec());
        if !self.unsure.contains(&unsure) {
            self.unsure.push(unsure);
        }
        Some((self.lease.clone(), epoch))
    }

    /// When to ask, or to write, again although nothing changes.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let asks = self.epoch().map(|_| self.asked_at.map_or(now, |at| at + RENEW));
        [asks, self.not_before.filter(|at| *at > now)].into_iter().flatten().min()
    }

    /// The own Lease was written as asked, in a request that was sent at `sent`.
    pub fn written(&mut self, lease: Lease, sent: Instant) {
        (self.is_writing, self.not_before) = (false, None);
        if self.lease.as_ref().is_some_and(|known| is_newer(&known.version, &lease.version)) {
            // It has changed again since.
            return;
        }
        self.is_shown = false;
        self.set(Some(lease));
        if self.epoch().is_some() {
            self.proved_until = self.proved_until.max(Some(sent + DURATION));
        }
    }

    /// The own Lease could not be written, or nobody knows whether it was. `current` is what the API server has, if it said so.
    pub fn failed(&mut self, current: Option<Option<&Lease>>, now: Instant) {
        let is_proved = self.until(now).is_some_and(|until| until > now + DURATION - LATE);
        (self.is_writing, self.not_before) = (false, Some(now + if is_proved { PAUSE } else { AGAIN }));
        if let Some(current) = current
            && (current.is_none()
                || self
                    .lease
                    .as_ref()
                    .zip(current)
                    .is_none_or(|(known, now)| !is_newer(&known.version, &now.version)))
        {
            self.is_shown = current.is_some();
            self.set(current.cloned());
        }
    }
}

/// The version of a Lease as a number; 0 where it is none, and then votes against it stay for ever.
pub fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

/// Versions are numbers with every server that there is; where they are not, what comes later is newer.
pub fn is_newer(one: &str, other: &str) -> bool {
    match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one > other,
        _ => false,
    }
}
