//! Next-fit allocation over the node's Pod ranges.

use std::{
    collections::{HashSet, VecDeque},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{PodRange, RangeTooSmall};

/// How many released addresses of a range rest even when the cursor comes to them at once.
const RESTING: usize = 64;

/// The addresses of this node's Pods: of each range one, given out together or not at all.
///
/// Next-fit: the search goes on where it ended, so that an address rests for a walk through the range. Those that were
/// released last rest even when the search comes to them, for as long as there is another. Memory grows with the
/// addresses in use, not with the range.
#[derive(Clone, Debug)]
pub struct Ipam {
    pools: Vec<Pool>,
}

/// Where each range's search ended, to be kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor(pub Vec<IpAddr>);

/// The ranges cannot be allocated from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// A range is too small.
    #[error(transparent)]
    TooSmall(#[from] RangeTooSmall),
    /// A node has at most one range a family.
    #[error("Pod ranges {0} and {1} are of one family: a node has at most one of each (Node.spec.podCIDRs)")]
    OneFamily(IpNet, IpNet),
}

/// No address is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no address left in Pod range {range}: all {capacity} are in use; delete Pods of this node, or give it a larger range"
)]
pub struct Exhausted {
    /// The range that is full.
    pub range: IpNet,
    /// How many Pods it has room for.
    pub capacity: u128,
}

/// An address cannot be marked as in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// Another has it.
    #[error("address {0} is in use already")]
    Taken(IpAddr),
    /// No range has it, or the node keeps it for itself.
    #[error("address {0} is not one of this node's Pod addresses")]
    Outside(IpAddr),
}

#[derive(Clone, Debug)]
struct Pool {
    range: PodRange,
    used: HashSet<u128>,
    /// Released, oldest first; none of them in `used`.
    resting: VecDeque<u128>,
    /// Offset at which the next search begins.
    next: u128,
}

// === impl Ipam ===

impl Ipam {
    /// Nothing given out yet of `ranges`.
    ///
    /// # Errors
    /// When a range has no room for a Pod, or two are of one family.
    pub fn new(ranges: &[IpNet]) -> Result<Self, IpamError> {
        let mut pools: Vec<Pool> = Vec::with_capacity(ranges.len());
        for &net in ranges {
            let range = PodRange::new(net)?;
            if let Some(other) = pools.iter().find(|p| p.range.net().addr().is_ipv4() == net.addr().is_ipv4())
            {
                return Err(IpamError::OneFamily(other.range.net(), net));
            }
            pools.push(Pool::new(range));
        }
        Ok(Self { pools })
    }

    /// An address of each range, in the order of the ranges; none at all when one range is full.
    ///
    /// # Errors
    /// Names the range that is full.
    pub fn allocate(&mut self) -> Result<Vec<IpAddr>, Exhausted> {
        let found = self.pools.iter().map(Pool::find).collect::<Result<Vec<_>, _>>()?;
        Ok(self.pools.iter_mut().zip(found).map(|(pool, offset)| pool.take(offset)).collect())
    }

    /// Marks `addresses` as in use: what was given out before a restart. All of them or none.
    ///
    /// # Errors
    /// When one is in use already, stands twice in `addresses`, or is no Pod's address here.
    pub fn reserve(&mut self, addresses: &[IpAddr]) -> Result<(), ReserveError> {
        let mut found = Vec::with_capacity(addresses.len());
        for &address in addresses {
            let at = self.locate(address).ok_or(ReserveError::Outside(address))?;
            if found.contains(&at) || self.pools[at.0].used.contains(&at.1) {
                return Err(ReserveError::Taken(address));
            }
            found.push(at);
        }
        for (pool, offset) in found {
            self.pools[pool].mark(offset);
        }
        Ok(())
    }

    /// Takes `addresses` back. What is not in use is passed over.
    pub fn release(&mut self, addresses: &[IpAddr]) {
        for &address in addresses {
            if let Some((pool, offset)) = self.locate(address) {
                self.pools[pool].release(offset);
            }
        }
    }

    /// `address` is in use.
    pub fn is_used(&self, address: IpAddr) -> bool {
        self.locate(address).is_some_and(|(pool, offset)| self.pools[pool].used.contains(&offset))
    }

    /// The ranges, in the order that addresses are given out in.
    pub fn ranges(&self) -> impl Iterator<Item = PodRange> + '_ {
        self.pools.iter().map(|pool| pool.range)
    }

    /// Of each range, how many addresses are free.
    pub fn free(&self) -> impl Iterator<Item = (IpNet, u128)> + '_ {
        self.pools.iter().map(|pool| (pool.range.net(), pool.range.capacity() - pool.used.len() as u128))
    }

    /// Where the search of each range goes on.
    pub fn cursor(&self) -> Cursor {
        Cursor(self.pools.iter().map(|pool| pool.range.at(pool.next)).collect())
    }

    /// Goes on where `cursor` says; what of it lies outside the ranges is passed over.
    pub fn resume(&mut self, cursor: &Cursor) {
        for &address in &cursor.0 {
            if let Some((pool, offset)) = self.locate(address) {
                self.pools[pool].next = offset;
            }
        }
    }

    /// The pool and the offset in it of a Pod's address.
    fn locate(&self, address: IpAddr) -> Option<(usize, u128)> {
        self.pools.iter().enumerate().find_map(|(i, pool)| Some((i, pool.range.offset(address)?)))
    }
}

// === impl Pool ===

impl Pool {
    fn new(range: PodRange) -> Self {
        Self { range, used: HashSet::new(), resting: VecDeque::new(), next: range.first_offset() }
    }

    /// The next free offset that is not resting; else the one that has rested longest.
    fn find(&self) -> Result<u128, Exhausted> {
        // Each step but the last meets an address in use or resting: no more steps than there are of those.
        let steps = (self.used.len() + self.resting.len() + 1) as u128;
        let mut offset = self.next;
        for _ in 0..steps.min(self.range.capacity()) {
            if !self.used.contains(&offset) && !self.resting.contains(&offset) {
                return Ok(offset);
            }
            offset = self.after(offset);
        }
        self.resting
            .front()
            .copied()
            .ok_or(Exhausted { range: self.range.net(), capacity: self.range.capacity() })
    }

    fn take(&mut self, offset: u128) -> IpAddr {
        self.mark(offset);
        self.next = self.after(offset);
        self.range.at(offset)
    }

    fn mark(&mut self, offset: u128) {
        self.used.insert(offset);
        self.resting.retain(|&resting| resting != offset);
    }

    fn release(&mut self, offset: u128) {
        if self.used.remove(&offset) {
            if self.resting.len() == RESTING {
                self.resting.pop_front();
            }
            self.resting.push_back(offset);
        }
    }

    fn after(&self, offset: u128) -> u128 {
        if offset >= self.range.last_offset() { self.range.first_offset() } else { offset + 1 }
    }
}
