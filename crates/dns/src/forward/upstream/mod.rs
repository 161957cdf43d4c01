//! A server that is asked: how it fares, and whether it leads back to us.

pub(super) mod check;
mod connection;
mod exchange;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

pub(super) use connection::Shared;
pub(super) use exchange::ExchangeError;

use super::counts::{Answered, UpstreamCounts};
use crate::{question::Question, settings::ServerAddress};
use exchange::{Way, exchange};

/// So many questions are on their way to a server at once, each with a socket of its own; more fail at once.
const MOST: usize = 256;
const MOST_WHILE_DOWN: usize = 8;
/// Failures after which a server counts as down, if it has answered nothing since the last of these questions was sent.
const FAILURES: u32 = 2;
/// A server that is down is asked whether it is back after this, then after twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long such a question waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// A server that does not lead back here is looked at again after this.
const LOOK_FOR_LOOP: Duration = Duration::from_secs(600);
/// The connection to a server that is asked over TCP is closed when nothing was asked for so long: sooner than most servers do.
const IDLE: Duration = Duration::from_secs(8);
/// What was measured counts half as much after so long: a server that was slow is tried again.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Servers whose round trips differ by less than this are equally good.
const NO_DIFFERENCE: Duration = Duration::from_millis(32);

/// A server that is asked.
pub(super) struct Upstream {
    server: ServerAddress,
    /// Of one that is asked over TCP alone.
    shared: Option<Shared>,
    health: Mutex<Health>,
    without_edns: AtomicBool,
    looping: AtomicBool,
    /// Its marker came back since it was last sent.
    marker_seen: AtomicBool,
    /// Questions that are on their way to it.
    asking: AtomicUsize,
    /// Wakes the search for loops.
    again: Arc<Notify>,
    pub(super) counts: UpstreamCounts,
}

#[derive(Default)]
struct Health {
    /// Round trip, smoothed, and when it was last measured.
    trip: Option<(Duration, Instant)>,
    /// Failures since the last answer.
    failures: u32,
    down: bool,
    why: Option<String>,
    /// When it last answered anything.
    answered_at: Option<Instant>,
    /// When it last did not answer what every server answers.
    check_failed_at: Option<Instant>,
    is_being_checked: bool,
}

/// A place among those who ask a server, until it is dropped.
struct Place<'a>(&'a AtomicUsize);

// === impl Upstream ===

impl Upstream {
    pub(super) fn new(server: ServerAddress) -> Self {
        Self {
            server,
            shared: server.tcp.then(|| Shared::new(server.address, IDLE)),
            health: Mutex::default(),
            without_edns: AtomicBool::new(false),
            looping: AtomicBool::new(false),
            marker_seen: AtomicBool::new(false),
            asking: AtomicUsize::new(0),
            again: Arc::default(),
            counts: UpstreamCounts::default(),
        }
    }

    pub(super) fn server(&self) -> ServerAddress {
        self.server
    }

    /// Asks it, until `deadline`, and remembers how it fared.
    ///
    /// # Errors
    /// When it did not answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        question: &Question,
        deadline: Instant,
    ) -> Result<Message, ExchangeError> {
        let Some(_place) = self.place() else {
            // Nothing is learned of it.
            self.counts.failed();
            return Err(ExchangeError::Crowded);
        };
        let begun = Instant::now();
        let asking = self.ask_either_way(question, deadline);
        tokio::pin!(asking);
        let outcome = match timeout(self.way().again, &mut asking).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.check(begun);
                asking.await
            }
        };
        let took = begun.elapsed();
        match &outcome {
            Ok(message) => {
                self.is_up(took);
                self.counts.answered(Answered { code: message.metadata.response_code, took });
            }
            Err(error) => {
                self.counts.failed();
                self.failed(error, begun);
            }
        }
        outcome
    }

    /// A place among those who ask it. One that is down has few: who it keeps waiting would take what others need.
    fn place(&self) -> Option<Place<'_>> {
        let most = if self.is_down() { MOST_WHILE_DOWN } else { MOST };
        let place = Place(&self.asking);
        (self.asking.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }

    async fn ask_either_way(&self, question: &Question, deadline: Instant) -> Result<Message, ExchangeError> {
        let way = self.way();
        let message = exchange(way, random_id(), question, deadline).await?;
        // Servers from before 1999 do not know EDNS, and some of them answer so.
        let unknown = matches!(message.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp);
        if !way.edns || !unknown || message.edns.is_some() {
            return Ok(message);
        }
        let plain = exchange(Way { edns: false, ..way }, random_id(), question, deadline).await?;
        let better = plain.metadata.response_code != message.metadata.response_code;
        self.without_edns.fetch_or(better, Ordering::Relaxed);
        Ok(plain)
    }

    fn way(&self) -> Way<'_> {
        let trip = self.trip().unwrap_or(Duration::from_millis(100));
        Way {
            address: self.server.address,
            shared: self.shared.as_ref(),
            edns: !self.without_edns.load(Ordering::Relaxed),
            again: (trip * 3).clamp(Duration::from_millis(250), Duration::from_secs(1)),
        }
    }

    /// It is not to be expected to answer.
    pub(super) fn is_down(&self) -> bool {
        self.health().down || self.is_looping()
    }

    /// Questions to it come back to us.
    pub(super) fn is_looping(&self) -> bool {
        self.looping.load(Ordering::Relaxed)
    }

    /// Why it is not expected to answer.
    pub(super) fn why_down(&self) -> Option<String> {
        if self.is_looping() {
            return Some("leads back here: name other servers with dns.upstreams".to_owned());
        }
        let health = self.health();
        health.down.then(|| health.why.clone().unwrap_or_default())
    }

    /// The less the better: servers of equal rank are taken in the order in which they are named.
    pub(super) fn rank(&self) -> (bool, u32) {
        let trip = self.trip().unwrap_or_default();
        let times = trip.as_millis() / NO_DIFFERENCE.as_millis().max(1);
        (self.is_down(), times.checked_ilog2().map_or(0, |log| log + 1))
    }

    /// It should have answered after this.
    pub(super) fn expected(&self) -> Duration {
        let trip = self.trip().unwrap_or(Duration::from_millis(70));
        (trip * 3).clamp(Duration::from_millis(50), Duration::from_millis(400))
    }

    /// Its smoothed round trip, as far as it still counts.
    pub(super) fn trip(&self) -> Option<Duration> {
        let (trip, at) = self.health().trip?;
        let halves = at.elapsed().as_secs() / HALF_LIFE.as_secs().max(1);
        Some(trip / 2_u32.saturating_pow(u32::try_from(halves.min(31)).unwrap_or(31)))
    }

    fn is_up(&self, took: Duration) {
        let decayed = self.trip();
        let mut health = self.health();
        let smoothed = decayed.map_or(took, |trip| trip - trip / 4 + took / 4);
        let now = Instant::now();
        (health.trip, health.answered_at) = (Some((smoothed, now)), Some(now));
        (health.failures, health.why) = (0, None);
        if std::mem::take(&mut health.down) {
            tracing::info!("DNS server {} answers again", self.server);
        }
    }

    /// A question that was sent at `begun` failed. That says something of the server only if it has answered nothing since:
    /// else the question's own domain is what is dead, behind a server that is well.
    fn failed(self: &Arc<Self>, error: &ExchangeError, begun: Instant) {
        {
            let mut health = self.health();
            if health.answered_at >= Some(begun) {
                return;
            }
            // That many datagrams without an answer are no accident.
            let failures = if matches!(error, ExchangeError::Silent(3..)) { FAILURES } else { 1 };
            health.failures = health.failures.saturating_add(failures);
            health.why = Some(error.to_string());
        }
        if !self.goes_down(begun) {
            self.check(begun);
        }
    }

    /// Counts it as down if it has failed often enough and, since `begun`, did not answer what every server answers. Whether it
    /// has done so.
    fn goes_down(self: &Arc<Self>, begun: Instant) -> bool {
        {
            let mut health = self.health();
            if health.down || health.failures < FAILURES || health.check_failed_at < Some(begun) {
                return false;
            }
            health.down = true;
            let why = health.why.as_deref().unwrap_or_default();
            tracing::warn!("DNS server {} is not asked until it answers again: it {why}", self.server);
        }
        self.await_return();
        true
    }

    /// Asks what every server answers, unless it has answered anything since `begun`, or that is being asked already.
    fn check(self: &Arc<Self>, begun: Instant) {
        {
            let mut health = self.health();
            let is_known = health.down
                || health.is_being_checked
                || health.answered_at.max(health.check_failed_at) >= Some(begun);
            if is_known {
                return;
            }
            health.is_being_checked = true;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let begun = Instant::now();
            let answers = this.is_back().await;
            {
                let mut health = this.health();
                health.is_being_checked = false;
                if !answers {
                    health.check_failed_at = Some(Instant::now());
                }
            }
            if !answers {
                this.goes_down(begun);
            }
        });
    }

    /// Asks whether it is back until it is.
    fn await_return(self: &Arc<Self>) {
        let this = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                let Some(upstream) = this.upgrade() else { return };
                if !upstream.health().down || upstream.is_back().await {
                    return;
                }
            }
        });
    }

    async fn is_back(&self) -> bool {
        // Every recursive server has the answer at hand.
        let root = Question { name: Name::root(), kind: RecordType::NS, signed: false };
        let begun = Instant::now();
        let answer = exchange(self.way(), random_id(), &root, begun + PATIENCE).await;
        match answer {
            Ok(_) => self.is_up(begun.elapsed()),
            Err(_) => self.counts.health_check_failed(),
        }
        answer.is_ok()
    }

    /// Asks for `marker` again and again: whoever sees the question says [`Upstream::loops`] (as CoreDNS finds loops). Loops come
    /// and go with the configuration of others.
    pub(super) fn look_for_loop(self: &Arc<Self>, marker: Name) {
        let this: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            let question = Question { name: marker, kind: RecordType::HINFO, signed: false };
            loop {
                let Some(upstream) = this.upgrade() else { return };
                upstream.marker_seen.store(false, Ordering::Relaxed);
                let answer =
                    exchange(upstream.way(), random_id(), &question, Instant::now() + PATIENCE).await;
                // Without an answer nothing is known: it is as it was.
                if answer.is_ok() && !upstream.marker_seen.load(Ordering::Relaxed) {
                    upstream.looping.store(false, Ordering::Relaxed);
                }
                let settled = answer.is_ok() && !upstream.is_looping();
                let pause = if settled { LOOK_FOR_LOOP } else { LONGEST_PAUSE };
                let again = Arc::clone(&upstream.again);
                drop(upstream);
                let _ = timeout(pause, again.notified()).await;
            }
        });
    }

    /// It is to be looked at again whether it leads back here.
    pub(super) fn look_again(&self) {
        self.again.notify_one();
    }

    /// Its marker came back.
    pub(super) fn loops(&self) {
        self.marker_seen.store(true, Ordering::Relaxed);
        if !self.looping.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "DNS server {} leads back to this node's own DNS and is not asked: name other servers with dns.upstreams of \
                 the ConfigMap kube-system/weft, or in the node's resolv.conf",
                self.server
            );
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Who looks for loops sees that it is gone.
        self.again.notify_one();
    }
}

/// Asks a server one question and takes whatever it answers: for those who want to know what it says.
///
/// # Errors
/// When it did not answer in time.
pub(crate) async fn ask_plainly(
    address: SocketAddr,
    question: &Question,
    patience: Duration,
) -> Result<Message, String> {
    let way = Way { address, shared: None, edns: true, again: patience };
    let answer = exchange(way, random_id(), question, Instant::now() + patience).await;
    answer.map_err(|error| error.to_string())
}

/// A number that nobody can foretell: a keyed hash of a counter is a pseudo-random function of it.
pub(super) fn random() -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    KEY.hash_one(COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn random_id() -> u16 {
    (random() >> 48) as u16
}
