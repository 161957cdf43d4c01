//! Who speaks for an address from outside: which Service gets it ([`allocate`]), which node answers for it
//! ([`election`], [`announcer`]), and how the link hears of that ([`link`]).
//!
//! Each address is a Lease, held by one node. The holder answers only until a time of its own monotonic clock, counted
//! from before the request that renewed the Lease was sent; the others take over only when the Lease has not changed for
//! its duration by their own clocks. So two nodes never answer for one address, whatever the network between them and the
//! API does, and clocks need not agree. That the holder really stops is the data plane's: it is told the time.

pub mod allocate;
pub mod announcer;
pub mod election;
mod hash;
pub mod link;
pub mod pools;
pub mod run;

pub use allocate::{CLASS, Decision, Problem, allocate};
pub use announcer::Announcer;
pub use election::{Election, Step, Terms};
pub use link::Link;
pub use pools::{Pools, PoolsError};
pub use run::{Fence, Inputs, LeaseStore, Refused, run};
