//! What was answered before: positive and negative (RFC 2308), and for longer than it is good for (RFC 8767).

use std::{
    collections::{HashMap, VecDeque},
    mem::size_of,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};

use super::Failure;
use crate::{
    question::{Origin, Question, Reply},
    settings::CacheSettings,
};

/// TTL of what is answered after its time, in seconds (RFC 8767, section 4).
const STALE_TTL: u32 = 30;
/// Whom nobody answered is not asked for again so soon (RFC 9520, section 3.2).
pub(super) const FAILURE_LASTS: Duration = Duration::from_secs(1);
/// Asked for so often since it was fetched, it is fetched again before its time is over.
const HOT: u32 = 2;
/// Under this kind stands that there is no such name, whatever the type.
const NO_SUCH_NAME: RecordType = RecordType::ZERO;

/// Answers by question, within a limit of memory. Who was not asked for since the last round goes first (CLOCK).
pub(super) struct Cache {
    slots: HashMap<Question, Slot>,
    /// Every key of `slots` once, in the order in which they are looked at when room is needed.
    round: VecDeque<Question>,
    bytes: usize,
    settings: CacheSettings,
    evicted: u64,
}

struct Slot {
    stored: Option<Arc<Stored>>,
    failed: Option<(Instant, Failure)>,
    /// Since the last round.
    visited: bool,
    /// Since it was stored.
    hits: u32,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    /// Who said so.
    pub(super) from: SocketAddr,
    /// When.
    pub(super) at: Instant,
    /// For how long it is good.
    pub(super) ttl: Duration,
}

/// What is remembered of a question.
#[derive(Debug)]
pub(super) enum Found {
    /// An answer that is good; true: it is asked for often, and should be fetched again.
    Fresh(Arc<Stored>, bool),
    /// An answer whose time is over, and why it could not be fetched just now, if so.
    Stale(Arc<Stored>, Option<Failure>),
    /// No answer, since it could not be fetched just now.
    Failed(Failure),
    /// Nothing.
    Nothing,
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSize {
    /// Answers with records.
    pub positive: u64,
    /// Answers that there is none.
    pub negative: u64,
    /// About so much memory, in bytes.
    pub bytes: u64,
    /// What was forgotten for want of room.
    pub evicted: u64,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(settings: CacheSettings) -> Self {
        Self { slots: HashMap::new(), round: VecDeque::new(), bytes: 0, settings, evicted: 0 }
    }

    pub(super) fn set(&mut self, settings: CacheSettings) {
        self.settings = settings;
        self.make_room();
    }

    /// What is remembered of `question`.
    pub(super) fn find(&mut self, question: &Question, now: Instant) -> Found {
        let exact = self.visit(question, now);
        if matches!(exact, Found::Fresh(..)) {
            return exact;
        }
        let whatever_type = Question { kind: NO_SUCH_NAME, ..question.clone() };
        match (exact, self.visit(&whatever_type, now)) {
            (_, fresh @ Found::Fresh(..)) => fresh,
            (Found::Nothing, stale) => stale,
            (Found::Failed(failure), Found::Stale(stored, _)) => Found::Stale(stored, Some(failure)),
            (exact, _) => exact,
        }
    }

    fn visit(&mut self, question: &Question, now: Instant) -> Found {
        let Some(slot) = self.slots.get_mut(question) else { return Found::Nothing };
        let failure =
            slot.failed.as_ref().filter(|(until, _)| now < *until).map(|(_, failure)| failure.clone());
        let stale_for = self.settings.stale_for;
        match &slot.stored {
            Some(stored) if now < stored.at + stored.ttl => {
                slot.visited = true;
                slot.hits = slot.hits.saturating_add(1);
                let left = (stored.at + stored.ttl).saturating_duration_since(now);
                let soon = left <= (stored.ttl / 10).max(Duration::from_secs(1))
                    && stored.ttl > Duration::from_secs(2);
                let prefetch = self.settings.prefetch && soon && slot.hits >= HOT && failure.is_none();
                Found::Fresh(Arc::clone(stored), prefetch)
            }
            Some(stored) if now < stored.at + stored.ttl + stale_for => {
                slot.visited = true;
                Found::Stale(Arc::clone(stored), failure)
            }
            _ => failure.map_or(Found::Nothing, Found::Failed),
        }
    }

    /// The answer, good for no longer than the settings say.
    pub(super) fn bounded(&self, stored: Arc<Stored>) -> Arc<Stored> {
        let CacheSettings { max_ttl, max_negative_ttl, .. } = self.settings;
        let ttl = stored.ttl.min(if stored.is_negative() { max_negative_ttl } else { max_ttl });
        if ttl == stored.ttl { stored } else { Arc::new(Stored { ttl, ..(*stored).clone() }) }
    }

    /// This is the answer now.
    pub(super) fn store(&mut self, question: &Question, stored: Arc<Stored>) {
        let stored = self.bounded(stored);
        let no_such_name = stored.code == ResponseCode::NXDomain && stored.answers.is_empty();
        let whatever_type = Question { kind: NO_SUCH_NAME, ..question.clone() };
        let (key, other) =
            if no_such_name { (whatever_type, question.clone()) } else { (question.clone(), whatever_type) };
        // What was said before and contradicts it.
        if self.slots.contains_key(&other) {
            self.put(other, None, None);
        }
        self.put(key, (stored.ttl > Duration::ZERO).then_some(stored), None);
    }

    /// The question could not be answered.
    pub(super) fn fail(&mut self, question: &Question, failure: Failure, now: Instant) {
        let stored = self.slots.get(question).and_then(|slot| slot.stored.clone());
        self.put(question.clone(), stored, Some((now + FAILURE_LASTS, failure)));
    }

    /// Forgets what `gone` says.
    pub(super) fn forget(&mut self, gone: impl Fn(&Name) -> bool) {
        self.round.retain(|question| !gone(&question.name));
        let bytes = &mut self.bytes;
        self.slots.retain(|question, slot| {
            let keep = !gone(&question.name);
            if !keep {
                *bytes -= cost(question, slot.stored.as_deref());
            }
            keep
        });
    }

    pub(super) fn size(&self) -> CacheSize {
        let stored = || self.slots.values().filter_map(|slot| slot.stored.as_ref());
        CacheSize {
            positive: stored().filter(|stored| !stored.is_negative()).count() as u64,
            negative: stored().filter(|stored| stored.is_negative()).count() as u64,
            bytes: self.bytes as u64,
            evicted: self.evicted,
        }
    }

    fn put(&mut self, key: Question, stored: Option<Arc<Stored>>, failed: Option<(Instant, Failure)>) {
        let after = cost(&key, stored.as_deref());
        if let Some(slot) = self.slots.get_mut(&key) {
            self.bytes -= cost(&key, slot.stored.as_deref());
            (slot.stored, slot.failed, slot.hits) = (stored, failed, 0);
        } else if stored.is_some() || failed.is_some() {
            self.round.push_back(key.clone());
            self.slots.insert(key, Slot { stored, failed, visited: false, hits: 0 });
        } else {
            return;
        }
        self.bytes += after;
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.bytes > self.settings.bytes {
            let Some(next) = self.round.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(&next) else { continue };
            if std::mem::take(&mut slot.visited) {
                // Asked for since the last round: it is looked at again in the next one.
                self.round.push_back(next);
                continue;
            }
            self.bytes -= cost(&next, slot.stored.as_deref());
            self.slots.remove(&next);
            self.evicted += 1;
        }
    }
}

/// What a slot takes: itself, its key twice, and its records with what they point to.
fn cost(key: &Question, stored: Option<&Stored>) -> usize {
    let records = |records: &[Record]| -> usize { records.iter().map(record_cost).sum() };
    let stored = stored
        .map_or(0, |stored| size_of::<Stored>() + records(&stored.answers) + records(&stored.authorities));
    size_of::<Slot>() + 2 * (size_of::<Question>() + key.name.len()) + stored
}

fn record_cost(record: &Record) -> usize {
    let data = match &record.data {
        RData::A(_) | RData::AAAA(_) => 0,
        RData::TXT(text) => text.txt_data.iter().map(|part| part.len() + size_of::<Box<[u8]>>()).sum(),
        // Names and the like. What is longer (keys, signatures) is rare.
        _ => 256,
    };
    size_of::<Record>() + record.name.len() + data
}

// === impl Stored ===

impl Stored {
    /// It says that there is none (RFC 2308).
    pub(super) fn is_negative(&self) -> bool {
        let is_soa = |record: &Record| matches!(record.data, RData::SOA(_));
        self.code != ResponseCode::NoError || self.answers.is_empty() || self.authorities.iter().any(is_soa)
    }

    /// As it is to be sent `now`. Addresses begin with another each `turn`.
    pub(super) fn reply(&self, now: Instant, origin: Origin, turn: u32) -> Reply {
        let age = now.saturating_duration_since(self.at);
        let good = u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX);
        let passed = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        let stale = matches!(origin, Origin::Stale(_));
        let aged = |record: &Record| {
            let mut record = record.clone();
            // No record outlives the whole: it would be cached downstream without the rest of the chain.
            record.ttl = if stale { STALE_TTL } else { record.ttl.min(good).saturating_sub(passed) };
            record
        };
        let mut answers: Vec<Record> = self.answers.iter().map(aged).collect();
        rotate(&mut answers, turn);
        Reply { code: self.code, answers, authorities: self.authorities.iter().map(aged).collect(), origin }
    }

    /// As it was just said by the upstream.
    pub(super) fn first_reply(&self, now: Instant, turn: u32) -> Reply {
        self.reply(now, Origin::Upstream(self.from), turn)
    }
}

/// Clients take the first address: each is the first in turn.
fn rotate(answers: &mut [Record], turn: u32) {
    let is_address = |record: &Record| matches!(record.data, RData::A(_) | RData::AAAA(_));
    let first = answers.iter().position(is_address).unwrap_or(answers.len());
    let Some(addresses) = answers.get_mut(first..).filter(|addresses| addresses.len() > 1) else { return };
    if addresses.iter().all(is_address) {
        let by = turn as usize % addresses.len();
        addresses.rotate_left(by);
    }
}

#[cfg(test)]
mod tests;
