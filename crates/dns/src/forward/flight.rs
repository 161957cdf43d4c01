//! Questions that are on their way: who asks the same meanwhile waits for the same answer.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use super::{Failure, cache::Stored};
use crate::question::Question;

/// So many questions are on their way at once to the servers of a domain; more are refused.
const ROOM: usize = 1024;

/// What came of it.
pub(super) type Outcome = Result<Arc<Stored>, Failure>;

/// Where the outcome will be; its sender is gone when it was given up.
pub(super) type Arrival = watch::Receiver<Option<Outcome>>;

/// Questions that are on their way.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Question, Arrival>>>);

/// The duty to land: whoever holds it fetches the answer. Dropped, the question is not on its way any more.
pub(super) struct Flight {
    flights: Flights,
    question: Question,
    outcome: watch::Sender<Option<Outcome>>,
    of_domain: Arc<AtomicUsize>,
}

/// Takes part in a flight.
pub(super) enum Boarded {
    /// Somebody fetches it already.
    With(Arrival),
    /// Fetch it.
    First(Flight, Arrival),
    /// Too many are on their way.
    Full,
}

// === impl Flights ===

impl Flights {
    /// `of_domain` counts those to the same servers.
    pub(super) fn board(&self, question: &Question, of_domain: &Arc<AtomicUsize>) -> Boarded {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = of_domain.load(Ordering::Relaxed) >= ROOM;
        match flights.entry(question.clone()) {
            Entry::Occupied(flight) => Boarded::With(flight.get().clone()),
            Entry::Vacant(_) if full => Boarded::Full,
            Entry::Vacant(vacant) => {
                let (outcome, arrival) = watch::channel(None);
                vacant.insert(arrival.clone());
                of_domain.fetch_add(1, Ordering::Relaxed);
                let (flights, of_domain) = (self.clone(), Arc::clone(of_domain));
                let flight = Flight { flights, question: question.clone(), outcome, of_domain };
                Boarded::First(flight, arrival)
            }
        }
    }
}

// === impl Flight ===

impl Flight {
    /// This came of it.
    pub(super) fn land(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.of_domain.fetch_sub(1, Ordering::Relaxed);
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.question);
    }
}
