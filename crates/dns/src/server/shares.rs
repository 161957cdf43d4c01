//! What all clients share, and what one may have of it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Places that are taken, by client.
#[derive(Debug)]
pub struct Shares {
    taken: Mutex<Taken>,
    of_client: usize,
    of_all: usize,
}

#[derive(Debug, Default)]
struct Taken {
    by_client: HashMap<IpAddr, usize>,
    all: usize,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    client: IpAddr,
}

// === impl Shares ===

impl Shares {
    /// So many for one client, and for all.
    pub fn new(of_client: usize, of_all: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), of_client, of_all })
    }

    /// A place for this client, if it and all together have one left.
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_client.get(&client).copied().unwrap_or_default();
        if own >= self.of_client || taken.all >= self.of_all {
            return None;
        }
        taken.by_client.insert(client, own + 1);
        taken.all += 1;
        Some(Share { shares: Arc::clone(self), client })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        match taken.by_client.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.by_client.remove(&self.client)),
        }
    }
}
