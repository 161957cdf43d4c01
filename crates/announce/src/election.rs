//! One Lease, as one node sees it: whether this node holds it, and what to do next. Without I/O and without a clock.

use std::time::{Duration, Instant};

use weft_model::Lease;

/// How a Lease is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For how long since its last change.
    pub duration: Duration,
    /// After how long the holder renews it.
    pub renew: Duration,
    /// How much longer others wait: clocks do not run at quite the same speed.
    pub margin: Duration,
}

impl Terms {
    /// Of the one that decides: nobody waits for it.
    pub const LEADER: Self = Self {
        duration: Duration::from_secs(15),
        renew: Duration::from_secs(4),
        margin: Duration::from_secs(1),
    };
}

/// After a request that failed.
const AGAIN: Duration = Duration::from_millis(200);

/// What is to be done about a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time, unless something changes.
    Wait(Option<Instant>),
    /// Write it with this node as the holder, in place of what was seen (`None`: there is none).
    Take(Option<Lease>),
    /// Write it without a holder, once this node has stopped to act on it.
    Give(Lease),
}

/// This node's view of one Lease.
#[derive(Clone, Debug)]
pub struct Election {
    me: String,
    terms: Terms,
    seen: Option<Lease>,
    /// Since when `seen` is as it is.
    since: Instant,
    /// There was a Lease, and somebody deleted it: its holder may not know that yet.
    vanished: bool,
    /// Until when this node holds it, and when it sent the request that said so.
    held: Option<Held>,
    not_before: Option<Instant>,
    asking: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    sent: Instant,
    until: Instant,
}

impl Election {
    /// A Lease of which nothing has been seen.
    pub fn new(me: &str, terms: Terms, now: Instant) -> Self {
        Self {
            me: me.to_owned(),
            terms,
            seen: None,
            since: now,
            vanished: false,
            held: None,
            not_before: None,
            asking: false,
        }
    }

    /// The API has the Lease like this now. What is older than what is known already changes nothing.
    pub fn see(&mut self, lease: Option<&Lease>, now: Instant) {
        let newer = match (&self.seen, lease) {
            (None, None) => false,
            (Some(seen), Some(lease)) => is_newer(&lease.version, &seen.version),
            (None, Some(_)) | (Some(_), None) => true,
        };
        if newer && !(self.asking && lease.is_none()) {
            self.vanished = lease.is_none();
            (self.seen, self.since) = (lease.cloned(), now);
        }
    }

    /// Until when this node holds it, if it does.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held.map(|held| held.until).filter(|until| *until > now)
    }

    /// A request is under way.
    pub fn is_asking(&self) -> bool {
        self.asking
    }

    /// What to do. `eligible`: this node may hold it; `patience`: how long others, who are better placed, go first.
    pub fn next(&mut self, eligible: bool, patience: Duration, now: Instant) -> Step {
        if self.held.is_some_and(|held| held.until <= now) {
            self.held = None;
        }
        if self.asking {
            return Step::Wait(self.held.map(|held| held.until));
        }
        let ours = self.seen.as_ref().filter(|lease| lease.holder.as_deref() == Some(&self.me));
        if !eligible {
            return match ours {
                Some(lease) if self.not_before.is_none_or(|time| time <= now) => {
                    let lease = lease.clone();
                    (self.held, self.asking) = (None, true);
                    Step::Give(lease)
                }
                Some(_) => Step::Wait(self.not_before),
                None => Step::Wait(self.held.map(|held| held.until)),
            };
        }
        let due = match (self.held, &self.seen) {
            (Some(held), _) => held.sent + self.terms.renew,
            (None, Some(_)) if ours.is_some() => now,
            (None, Some(lease)) if lease.holder.is_some() => {
                self.since + lease.duration.max(self.terms.duration) + self.terms.margin + patience
            }
            (None, None) if self.vanished => self.since + self.terms.duration + self.terms.margin + patience,
            (None, _) => self.since + patience,
        };
        let due = self.not_before.map_or(due, |time| due.max(time));
        if due > now {
            let lapses = self.held.map(|held| held.until);
            return Step::Wait(Some(lapses.map_or(due, |lapses| lapses.min(due))));
        }
        self.asking = true;
        Step::Take(self.seen.clone())
    }

    /// The API wrote the Lease as [`Step::Take`] asked, in a request that was sent at `sent`. True when this node did not
    /// hold it before.
    pub fn taken(&mut self, lease: Lease, sent: Instant, now: Instant) -> bool {
        let before = self.held_until(now).is_some();
        (self.asking, self.not_before, self.vanished) = (false, None, false);
        (self.seen, self.since) = (Some(lease), now);
        let held = Held { sent, until: sent + self.terms.duration };
        self.held = (held.until > now).then_some(held);
        self.held.is_some() && !before
    }

    /// The Lease has no holder any more, as [`Step::Give`] asked.
    pub fn given(&mut self, lease: Option<Lease>, now: Instant) {
        (self.asking, self.vanished) = (false, false);
        (self.seen, self.since) = (lease, now);
    }

    /// The request failed, or somebody else was faster. What is held stays held until it lapses: nobody else takes it
    /// before.
    pub fn failed(&mut self, now: Instant) {
        self.asking = false;
        self.not_before = Some(now + AGAIN);
    }
}

/// Versions are numbers with every server that there is; where they are not, what comes later is newer.
fn is_newer(one: &str, other: &str) -> bool {
    match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one > other,
        _ => one != other,
    }
}
