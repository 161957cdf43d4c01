//! Whether a node gives any sign of life, over one family. Finer than whether a path works: what breaks a path takes seconds to be sure
//! of, while connections to a node that is gone are to go elsewhere at once. No I/O and no clock: time comes in.

use std::time::{Duration, Instant};

/// A sign of life that takes longer is asked for again.
pub(super) const AGAIN: Duration = Duration::from_millis(400);
/// A node that gave signs before is silent when it was asked so often without any, for as many times [`AGAIN`].
const ASKED: u32 = 3;
/// A node that was silent is so no more when it gave so many signs over such a time and no request was lost meanwhile.
const STEADY: Duration = Duration::from_secs(2);
const SIGNS: u32 = 3;
/// A sign that is older says nothing of now.
const FRESH: Duration = Duration::from_millis(1500);

/// The signs of one node's life over one family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silence {
    standing: Standing,
    /// Requests since the last sign, and when the first of them was sent.
    asked: u32,
    since: Option<Instant>,
    /// When a sign is late.
    late: Option<Instant>,
    last_sign: Option<Instant>,
    /// In a row, while silent, and when the first of them came.
    signs: u32,
    steady_since: Option<Instant>,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing says otherwise.
    #[default]
    Alive,
    /// A sign is late.
    Suspected,
    /// Several are.
    Silent,
}

impl Silence {
    /// It was asked for a sign.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked = self.asked.saturating_add(1);
        self.since.get_or_insert(now);
        if self.standing != Standing::Silent {
            self.late.get_or_insert(now + AGAIN);
        }
    }

    /// Whether it is to be asked once more, because a sign is late.
    pub(super) fn is_late(&mut self, now: Instant) -> bool {
        if self.late.take_if(|late| *late <= now).is_none() {
            return false;
        }
        let enough = self.asked >= ASKED && self.since.is_some_and(|since| since + ASKED * AGAIN <= now);
        // Of a node that was never heard, nothing is known: it may not be one of ours yet.
        if self.last_sign.is_some() {
            self.standing = if enough { Standing::Silent } else { Standing::Suspected };
        }
        !enough
    }

    /// When [`Silence::is_late`] has something to say.
    pub(super) fn next(&self) -> Option<Instant> {
        self.late
    }

    /// It gave a sign, however late.
    pub(super) fn sign(&mut self, now: Instant) {
        let steady_since = *self.steady_since.get_or_insert(now);
        self.signs += 1;
        let steady = self.signs >= SIGNS && steady_since + STEADY <= now;
        if steady || self.standing != Standing::Silent {
            *self = Self { last_sign: Some(now), ..Self::default() };
        }
    }

    /// A request was not answered in the longest time that an answer may take.
    pub(super) fn lost(&mut self) {
        (self.signs, self.steady_since) = (0, None);
    }

    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether a doubt of others is news: no request is under way, and the last sign is not quite new.
    pub(super) fn may_be_asked(&self, now: Instant) -> bool {
        self.standing != Standing::Silent
            && self.late.is_none()
            && self.last_sign.is_none_or(|sign| sign + AGAIN <= now)
    }

    /// It has just given a sign.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.standing == Standing::Alive && self.last_sign.is_some_and(|sign| now < sign + FRESH)
    }

    /// On its way back: it is to be asked more often.
    pub(super) fn returns(&self) -> bool {
        self.signs > 0
    }
}
