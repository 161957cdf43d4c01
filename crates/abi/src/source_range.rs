//! Who may come to a frontend (`loadBalancerSourceRanges`).

use crate::{Address, Plain};

/// Most ranges of all Services.
pub const MAX_SOURCE_RANGES: u32 = 65_536;

/// Data of a longest-prefix key: the first 32 bits always count, the address by the length of its range.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// Index of the Service port.
    pub service_port: u32,
    /// Base address of the range.
    pub address: Address,
}

const _: () = assert!(size_of::<SourceRange>() == 20);

// SAFETY: integers without padding.
unsafe impl Plain for SourceRange {}

impl SourceRange {
    /// Bits before the address.
    pub const SERVICE_PORT_BITS: u32 = 32;
}
