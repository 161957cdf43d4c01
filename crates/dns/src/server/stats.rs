//! What was asked and answered, counted by each thread for itself.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::query::kind;

/// Types that are counted by themselves; [`OTHER`] is all others.
pub const KINDS: [&str; 12] =
    ["A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "SOA", "NS", "MX", "HTTPS", "ANY", OTHER];
/// What types without a place of their own are called.
pub const OTHER: &str = "other";
/// By what questions come.
pub const PROTOCOLS: [&str; 2] = ["udp", "tcp"];
/// From what clients' addresses are; CoreDNS's words.
pub const FAMILIES: [&str; 2] = ["1", "2"];
/// How many response codes there are without EDNS.
pub const CODES: usize = 16;
/// Seconds. CoreDNS's first one is 0.00025; what is answered from memory is faster than that.
pub const DURATIONS: usize = 20;
const FIRST_DURATION: f64 = 0.00025 / 16.0;
/// Octets, as CoreDNS counts them; the last is without end.
pub const SIZES: [u16; 14] =
    [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];

/// What a server has counted since it started.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Questions by [`PROTOCOLS`], [`FAMILIES`] and [`KINDS`].
    pub requests: [[[u64; KINDS.len()]; 2]; 2],
    /// Answers by code.
    pub responses: [u64; CODES],
    /// From question to answer, by [`KINDS`].
    pub durations: [Histogram<{ DURATIONS + 1 }>; KINDS.len()],
    /// Questions' octets, by [`PROTOCOLS`].
    pub request_sizes: [Histogram<{ SIZES.len() + 1 }>; 2],
    /// Answers' octets, by [`PROTOCOLS`].
    pub response_sizes: [Histogram<{ SIZES.len() + 1 }>; 2],
    /// Messages that were no queries.
    pub ignored: u64,
    /// Questions that were answered SERVFAIL since too many were waiting for others.
    pub refused: u64,
    /// Questions that were dropped, of clients that asked more than their share when there was no time for all.
    pub shed: u64,
    /// Answers that the kernel did not take.
    pub unsent: u64,
}

/// How often a value was at most so much; the last place is for all greater ones. Not cumulative.
#[derive(Clone, Copy, Debug)]
pub struct Histogram<const N: usize> {
    /// By place.
    pub counts: [u64; N],
    /// Of all values: octets, or microseconds.
    pub sum: u64,
}

/// The counters of one thread.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: [[[AtomicU64; KINDS.len()]; 2]; 2],
    responses: [AtomicU64; CODES],
    durations: [Counted<{ DURATIONS + 1 }>; KINDS.len()],
    request_sizes: [Counted<{ SIZES.len() + 1 }>; 2],
    response_sizes: [Counted<{ SIZES.len() + 1 }>; 2],
    pub(super) ignored: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) shed: AtomicU64,
    pub(super) unsent: AtomicU64,
}

#[derive(Debug)]
struct Counted<const N: usize> {
    counts: [AtomicU64; N],
    sum: AtomicU64,
}

/// What is counted of one question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Place in [`PROTOCOLS`].
    pub protocol: usize,
    /// Who asked.
    pub client: IpAddr,
    /// The type asked.
    pub kind: u16,
    /// The question's octets.
    pub size: usize,
}

/// The upper ends of all but the last place of [`Stats::durations`], in seconds.
pub fn duration_bounds() -> [f64; DURATIONS] {
    std::array::from_fn(|place| FIRST_DURATION * f64::from(1_u32 << place))
}

fn duration_place(duration: Duration) -> usize {
    // In units of the first bound, which is 15,625 ns.
    let units = duration.as_nanos().div_ceil(15_625).max(1);
    let place = (u128::BITS - (units - 1).leading_zeros()) as usize;
    place.min(DURATIONS)
}

fn size_place(size: usize) -> usize {
    SIZES.iter().position(|bound| size <= usize::from(*bound)).unwrap_or(SIZES.len())
}

fn kind_place(of: u16) -> usize {
    const MX: u16 = 15;
    const HTTPS: u16 = 65;
    match of {
        kind::A => 0,
        kind::AAAA => 1,
        kind::SRV => 2,
        kind::PTR => 3,
        kind::CNAME => 4,
        kind::TXT => 5,
        kind::SOA => 6,
        kind::NS => 7,
        MX => 8,
        HTTPS => 9,
        kind::ANY => 10,
        _ => 11,
    }
}

// === impl Counters ===

impl Counters {
    /// This was asked, and answered with these octets after so long.
    pub fn count(&self, asked: Asked, answer: &[u8], after: Duration) {
        let Asked { protocol, client, kind, size } = asked;
        let (kind, family) = (kind_place(kind), usize::from(client.is_ipv6()));
        let request =
            self.requests.get(protocol).and_then(|one| one.get(family)).and_then(|one| one.get(kind));
        add(request, 1);
        // The fourth octet ends with the code (RFC 1035 section 4.1.1).
        let code = answer.get(3).map(|octet| usize::from(octet & 0xf));
        add(code.and_then(|code| self.responses.get(code)), 1);
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        add_to(self.durations.get(kind), duration_place(after), micros);
        add_to(self.request_sizes.get(protocol), size_place(size), size as u64);
        add_to(self.response_sizes.get(protocol), size_place(answer.len()), answer.len() as u64);
    }
}

fn add(counter: Option<&AtomicU64>, more: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(more, Relaxed);
    }
}

fn add_to<const N: usize>(counted: Option<&Counted<N>>, place: usize, value: u64) {
    if let Some(counted) = counted {
        add(counted.counts.get(place), 1);
        add(Some(&counted.sum), value);
    }
}

impl<const N: usize> Default for Counted<N> {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

// === impl Stats ===

impl Stats {
    /// All threads' counters together.
    pub(super) fn sum(of: &[Arc<Counters>]) -> Self {
        let mut stats = Self::default();
        for one in of {
            let requests = one.requests.as_flattened().as_flattened();
            add_all(stats.requests.as_flattened_mut().as_flattened_mut(), requests);
            add_all(&mut stats.responses, &one.responses);
            add_histograms(&mut stats.durations, &one.durations);
            add_histograms(&mut stats.request_sizes, &one.request_sizes);
            add_histograms(&mut stats.response_sizes, &one.response_sizes);
            stats.ignored += one.ignored.load(Relaxed);
            stats.refused += one.refused.load(Relaxed);
            stats.shed += one.shed.load(Relaxed);
            stats.unsent += one.unsent.load(Relaxed);
        }
        stats
    }
}

fn add_all(to: &mut [u64], from: &[AtomicU64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from.load(Relaxed));
}

fn add_histograms<const N: usize>(to: &mut [Histogram<N>], from: &[Counted<N>]) {
    for (to, from) in to.iter_mut().zip(from) {
        add_all(&mut to.counts, &from.counts);
        to.sum += from.sum.load(Relaxed);
    }
}

// === impl Histogram ===

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { counts: [0; N], sum: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_where_their_bound_says() {
        let bounds = duration_bounds();
        assert_eq!(bounds[4], 0.00025);
        for (place, bound) in bounds.iter().enumerate() {
            let at = Duration::from_nanos((bound * 1e9).round() as u64);
            assert_eq!(duration_place(at), place, "{bound}");
            assert_eq!(duration_place(at + Duration::from_nanos(1)), place + 1, "{bound}");
        }
        assert_eq!(duration_place(Duration::ZERO), 0);
        assert_eq!(duration_place(Duration::MAX), DURATIONS);
    }

    #[test]
    fn sizes_are_counted_where_their_bound_says() {
        assert_eq!([0, 1, 100, 101, 64_000, 65_535].map(size_place), [0, 1, 1, 2, 13, 14]);
    }
}
