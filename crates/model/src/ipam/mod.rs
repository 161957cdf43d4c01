//! Which address of the node's Pod ranges a Pod gets.

mod pool;
mod range;

pub use pool::{Cursor, Exhausted, Ipam, IpamError, ReserveError};
pub use range::{PodRange, RangeTooSmall};
