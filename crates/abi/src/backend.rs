//! Where Services' connections end.

use crate::{Address, Plain};

/// Most backends: the endpoints of all Services, an address and port each.
pub const MAX_BACKENDS: u32 = 262_144;

/// A backend. Entries are never removed: what is gone keeps its address, loses its flags and counts its generation up, so
/// that whatever remembers it by index and generation sees that it is over.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Its address.
    pub address: Address,
    /// Its port, network byte order.
    pub port_be: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Backend::LIVE`] and the like.
    pub flags: u8,
    /// How often this entry has stood for another backend before.
    pub generation: u32,
}

const _: () = assert!(size_of::<Backend>() == 24);

// SAFETY: integers without padding.
unsafe impl Plain for Backend {}

/// How many words tell of each port (host byte order) whether a backend has it or had it: a bit a port. Most sockets that programs
/// see have a peer at another port and need not be looked up.
pub const BACKEND_PORT_WORDS: u32 = 1024;

/// Index and bit of a port.
#[inline(always)]
pub const fn backend_port(port: u16) -> (u32, u64) {
    ((port >> 6) as u32, 1 << (port & 63))
}

impl Backend {
    /// Some Service lists it: what is connected to it may go on, also while it terminates.
    pub const LIVE: u8 = 1;
    /// It answers (its endpoint is `serving`): a UDP flow may stay with it.
    pub const SERVING: u8 = 2;
}
