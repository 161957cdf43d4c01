//! What is heard from the API, brought into the zone.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use weft_model::{dns::NamespaceEvent, services::Event};

use super::Dns;
use crate::cluster::Heard;

/// So many changes are made at a time: who asks waits meanwhile.
const AT_A_TIME: usize = 32;

/// Upper bounds of the buckets of programming latencies, in seconds, as CoreDNS has them.
pub(super) const BUCKETS: [f64; 20] = {
    let mut bounds = [0.001; 20];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 2.0;
        at += 1;
    }
    bounds
};

/// From a change as it is heard to the first answer that may show it, by what changed.
#[derive(Debug, Default)]
pub(super) struct Programming {
    services: Mutex<Latencies>,
    endpoints: Mutex<Latencies>,
}

/// How long, how often.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latencies {
    /// By the buckets of [`BUCKETS`]; the last is for what is longer.
    pub(super) buckets: [u64; BUCKETS.len() + 1],
    /// All of them together, in seconds.
    pub(super) sum: f64,
}

/// While nothing is heard for so long, what was known before the start is answered. What clients asked in vain they ask again after
/// 2.5 s at the earliest (musl; glibc after 5 s), and where the API server is there, all is heard of before.
const SILENCE: Duration = Duration::from_secs(2);

/// What is heard becomes what is answered. `ready` becomes true when nothing is missing any more, or, if something was known before
/// the start, when nothing is heard.
pub(super) async fn feed(
    dns: Dns,
    mut heard: Heard,
    mut namespaces: mpsc::Receiver<(Instant, NamespaceEvent)>,
    ready: watch::Sender<bool>,
) {
    let (mut events, mut names) = (Vec::new(), Vec::new());
    let mut whole = false;
    let mut silent_at = tokio::time::Instant::now() + SILENCE;
    loop {
        let before = dns.age_of_names(whole).filter(|_| !*ready.borrow());
        tokio::select! {
            () = sleep_until(silent_at), if before.is_some() => {
                let known_for = before.unwrap_or_default().as_secs();
                tracing::warn!(
                    "nothing is heard of the API server: DNS is answered from what was known {known_for} s ago, and what \
                     was not known then with SERVFAIL"
                );
                ready.send_replace(true);
                continue;
            }
            count = heard.recv_many(&mut events, AT_A_TIME) => {
                if count == 0 {
                    return;
                }
            }
            count = namespaces.recv_many(&mut names, AT_A_TIME) => {
                if count == 0 {
                    return;
                }
            }
        }
        // A list begins when it is asked for, whether or not there is an answer.
        let is_answer = |event: &Event| !matches!(event, Event::ServicesBegin | Event::SlicesBegin);
        if events.iter().any(|(_, event)| is_answer(event))
            || names.iter().any(|(_, event)| *event != NamespaceEvent::Begin)
        {
            silent_at = tokio::time::Instant::now() + SILENCE;
        }
        let synced = {
            let mut zone = dns.0.zone.write().unwrap_or_else(PoisonError::into_inner);
            events.iter().for_each(|(_, event)| zone.hear(event));
            names.iter().for_each(|(_, event)| zone.hear_namespace(event));
            zone.is_synced()
        };
        // The first list is no change.
        if whole {
            dns.0.programming.done(&events);
        }
        events.clear();
        names.clear();
        if synced && !whole {
            whole = true;
            ready.send_replace(true);
            let size = dns.0.zone.read().unwrap_or_else(PoisonError::into_inner).size();
            tracing::info!(?size, "the cluster's names are known");
            crate::memory::give_back();
        }
    }
}

// === impl Programming ===

impl Programming {
    fn done(&self, events: &[(Instant, Event)]) {
        for (at, event) in events {
            let latencies = match event {
                Event::Service(_) | Event::ServiceGone(_) => &self.services,
                Event::Slice(_) | Event::SliceGone(_) => &self.endpoints,
                _ => continue,
            };
            latencies.lock().unwrap_or_else(PoisonError::into_inner).observe(at.elapsed());
        }
    }

    /// Those of Services, and those of endpoints.
    pub(super) fn read(&self) -> [Latencies; 2] {
        [&self.services, &self.endpoints].map(|one| *one.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Latencies ===

impl Latencies {
    fn observe(&mut self, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let at = BUCKETS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.sum += seconds;
    }
}
