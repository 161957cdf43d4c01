//! Who speaks for an address from outside: which Service gets it ([`allocate`]), which node answers for it
//! ([`election`], [`announcer`]), and how the link hears of that ([`link`]).
//!
//! Each address is a Lease that names a node, written when the address moves. The node answers only as long as it can prove that
//! nobody has voted it out: by promises of other nodes, or by a write of a Lease of its own. The data plane is told until when, so
//! that two nodes never answer for one address, whatever the network between them and the API does. docs/decisions/0004 has the
//! argument.

pub mod allocate;
pub mod announcer;
pub mod election;
mod hash;
pub mod link;
pub mod pools;
pub mod run;
mod wire;

pub use allocate::{CLASS, Decision, Problem, allocate};
pub use announcer::{Announcer, Peer, ballot::AMNESIA};
pub use election::{Election, Step, Terms};
pub use link::Link;
pub use pools::{Pools, PoolsError};
pub use run::{Fence, Inputs, LeaseStore, Refused, Votes, Wire, run};
pub use wire::UdpWire;
