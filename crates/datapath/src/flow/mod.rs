//! Flows whose packets are translated, and what else the kernel programs remember: user space lets go of what has ended.

mod announce;
mod sides;
mod sweep;

pub use announce::AnnounceError;
pub(crate) use announce::Announcements;
pub(crate) use sweep::Sweeper;
pub use sweep::{Fullness, Swept};
