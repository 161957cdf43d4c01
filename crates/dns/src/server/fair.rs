//! Who goes without an answer when there is no time for all.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
};

/// Counts clients while one thread does not keep up. Who asks more than one and a half times an even share is not answered
/// until it keeps up again: not to answer is cheap, so that the questions of the others are reached before they are lost.
#[derive(Debug)]
pub struct Fair {
    /// By the hash of their addresses; a place may be shared.
    counts: Box<[u32; PLACES]>,
    clients: u32,
    all: u32,
    /// Full batches in a row.
    behind: u32,
    hasher: RandomState,
}

const PLACES: usize = 1024;
/// So many full batches in a row are no burst any more.
const BURST: u32 = 16;
/// Counts are of the last so many questions or half as many.
const WINDOW: u32 = 8192;

// === impl Fair ===

impl Fair {
    pub fn new() -> Self {
        let counts = Box::new([0; PLACES]);
        Self { counts, clients: 0, all: 0, behind: 0, hasher: RandomState::new() }
    }

    /// A batch was taken; it was full, so that more is waiting.
    pub fn batch(&mut self, is_full: bool) {
        if is_full {
            self.behind = self.behind.saturating_add(1);
        } else if self.behind > 0 {
            self.behind = 0;
            self.counts.fill(0);
            (self.clients, self.all) = (0, 0);
        }
    }

    /// There is no time for all.
    pub fn is_behind(&self) -> bool {
        self.behind >= BURST
    }

    /// While behind: this client asked; whether it is answered.
    pub fn admit(&mut self, client: IpAddr) -> bool {
        let place = self.hasher.hash_one(client) as usize % PLACES;
        let Some(count) = self.counts.get_mut(place) else { return true };
        self.clients += u32::from(*count == 0);
        *count += 1;
        self.all += 1;
        let is_greedy =
            self.clients > 1 && u64::from(*count) * u64::from(self.clients) * 2 > u64::from(self.all) * 3;
        if self.all >= WINDOW {
            self.forget_half();
        }
        !is_greedy
    }

    fn forget_half(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.all = self.counts.iter().sum();
        self.clients = self.counts.iter().map(|count| u32::from(*count > 0)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind() -> Fair {
        let mut fair = Fair::new();
        (0..BURST).for_each(|_| fair.batch(true));
        assert!(fair.is_behind());
        fair
    }

    /// Which share of its questions each client has answered; they ask in turn, as often as said.
    fn shares(fair: &mut Fair, clients: &[u32]) -> Vec<f64> {
        let mut answered = vec![0_u32; clients.len()];
        const ROUNDS: u32 = 1000;
        for _ in 0..ROUNDS {
            for (number, often) in clients.iter().enumerate() {
                for _ in 0..*often {
                    answered[number] += u32::from(fair.admit(IpAddr::from([10, 244, 0, number as u8])));
                }
            }
        }
        answered
            .iter()
            .zip(clients)
            .map(|(answered, often)| f64::from(*answered) / f64::from(often * ROUNDS))
            .collect()
    }

    #[test]
    fn who_floods_is_shed_and_the_others_are_not() {
        let shares = shares(&mut behind(), &[100, 1, 1, 1]);
        assert!(shares[0] < 0.05, "{shares:?}");
        assert!(shares[1..].iter().all(|share| *share > 0.95), "{shares:?}");
    }

    #[test]
    fn a_client_alone_and_clients_alike_are_answered() {
        assert_eq!(shares(&mut behind(), &[100]), [1.0]);
        assert!(shares(&mut behind(), &[10, 12, 9]).iter().all(|share| *share > 0.9));
    }

    #[test]
    fn who_keeps_up_again_starts_anew() {
        let mut fair = behind();
        shares(&mut fair, &[100, 1]);
        fair.batch(false);
        assert!(!fair.is_behind());
        (0..BURST).for_each(|_| fair.batch(true));
        assert_eq!(shares(&mut fair, &[10]), [1.0]);
    }
}
