//! What is counted, for metrics.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hickory_proto::op::ResponseCode;

use super::cache::CacheSize;

/// Upper bounds of the buckets of durations, in seconds; what is longer is in one more.
pub const BUCKETS: [f64; 16] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048,
    4.096, 8.192,
];

/// How long something took, how often.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Durations {
    /// By the buckets of [`BUCKETS`]; the last is for what is longer.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// All of them together, in seconds.
    pub sum: f64,
}

/// What the forwarder did since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForwardCounts {
    /// Questions answered from memory with records.
    pub positive_hits: u64,
    /// Questions answered from memory with "there is none".
    pub negative_hits: u64,
    /// Questions that somebody had to be asked for.
    pub misses: u64,
    /// Answers given after their time.
    pub stale: u64,
    /// Answers fetched before they were asked for again.
    pub prefetches: u64,
    /// Questions that joined one on its way.
    pub joined: u64,
    /// Questions refused, since too many were on their way.
    pub refused: u64,
    /// Questions for which all servers were down.
    pub all_down: u64,
    /// Names and addresses that are configured.
    pub hosts: u64,
    /// What is remembered.
    pub cache: CacheSize,
    /// The servers that are asked.
    pub upstreams: Vec<UpstreamStatus>,
    /// Why there are none for what is nobody else's.
    pub no_upstreams: Option<String>,
}

/// A server that is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamStatus {
    /// Where it is.
    pub server: String,
    /// The domain that it is asked for; `.` for all that is nobody else's.
    pub domain: String,
    /// Why it is not asked; `None` when it is.
    pub down: Option<String>,
    /// Its round trip, smoothed.
    pub trip: Option<Duration>,
    /// Its answers, by response code.
    pub answers: Vec<(String, Durations)>,
    /// Questions that it did not answer.
    pub failures: u64,
    /// Health checks that it did not answer.
    pub health_check_failures: u64,
}

/// Counted as it happens.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) positive_hits: AtomicU64,
    pub(super) negative_hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) stale: AtomicU64,
    pub(super) prefetches: AtomicU64,
    pub(super) joined: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) all_down: AtomicU64,
}

/// Of one server.
#[derive(Default)]
pub(super) struct UpstreamCounts {
    answers: Mutex<Vec<(ResponseCode, Durations)>>,
    failures: AtomicU64,
    health_check_failures: AtomicU64,
}

/// An answer of a server.
pub(super) struct Answered {
    pub(super) code: ResponseCode,
    pub(super) took: Duration,
}

// === impl Durations ===

impl Durations {
    /// It took so long.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BUCKETS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.sum += seconds;
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

// === impl Counts ===

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    pub(super) fn read(&self) -> ForwardCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ForwardCounts {
            positive_hits: read(&self.positive_hits),
            negative_hits: read(&self.negative_hits),
            misses: read(&self.misses),
            stale: read(&self.stale),
            prefetches: read(&self.prefetches),
            joined: read(&self.joined),
            refused: read(&self.refused),
            all_down: read(&self.all_down),
            ..ForwardCounts::default()
        }
    }
}

// === impl UpstreamCounts ===

impl UpstreamCounts {
    pub(super) fn answered(&self, answered: Answered) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let at = answers.iter().position(|(code, _)| *code == answered.code).unwrap_or_else(|| {
            answers.push((answered.code, Durations::default()));
            answers.len() - 1
        });
        if let Some((_, durations)) = answers.get_mut(at) {
            durations.observe(answered.took);
        }
    }

    pub(super) fn failed(&self) {
        count(&self.failures);
    }

    pub(super) fn health_check_failed(&self) {
        count(&self.health_check_failures);
    }

    /// By response code, as `NOERROR`; what failed; health checks that failed.
    pub(super) fn read(&self) -> (Vec<(String, Durations)>, u64, u64) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        (
            answers.iter().map(|(code, durations)| (code_name(*code), *durations)).collect(),
            self.failures.load(Ordering::Relaxed),
            self.health_check_failures.load(Ordering::Relaxed),
        )
    }
}

/// A response code by its number, as dig writes it.
pub fn rcode_name(code: usize) -> String {
    code_name(u8::try_from(code).map_or(ResponseCode::ServFail, ResponseCode::from_low))
}

/// As dig writes it.
pub fn code_name(code: ResponseCode) -> String {
    let name = match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        other => return format!("RCODE{}", u16::from(other)),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_is_not_shorter() {
        let mut durations = Durations::default();
        for micros in [1, 250, 251, 9_000_000] {
            durations.observe(Duration::from_micros(micros));
        }
        assert_eq!((durations.buckets[0], durations.buckets[1], durations.buckets[16]), (2, 1, 1));
        assert_eq!(durations.count(), 4);
    }
}
