//! Hops: what the programs forward has one less to go, as with any router (RFC 1812 section 5.3.1, RFC 8200 section 3). A loop
//! therefore ends, and nothing that must stay on its link (hop limit 255, RFC 4861 section 7.1) is taken for that elsewhere.
//!
//! What the host's stack forwards loses its hop there. So a packet without a hop left is handed to the stack, which tells the
//! sender (time exceeded), as it tells of everything else that a router must tell.

use aya_ebpf::{bindings::BPF_F_RECOMPUTE_CSUM, programs::TcContext};

use super::parse::ETHERNET;

/// Protocol and checksum follow.
pub const IPV4_HOPS: usize = ETHERNET + 8;
const IPV6_HOPS: usize = ETHERNET + 7;

/// What a packet's header says of how far it may go. Plain numbers, because of what has values to spare the compiler makes what the
/// verifier takes for unset, and all of one size, because what is written in parts and read as a whole waits for the cache.
#[derive(Clone, Copy)]
pub struct Hops {
    pub left: u32,
    /// Not zero: IPv6, which has none of what follows.
    pub ipv6: u32,
    /// What lies between hops and checksum.
    pub protocol: u32,
    /// The header's checksum as it stands in the packet.
    pub checksum_be: u32,
    /// Not zero: they are written where they lie, which is half as much work as a call of the kernel. For that the kernel makes every
    /// packet that comes to the program its own first, which is a call as well for those that somebody else holds too: not worth it
    /// in steps, which write more than this.
    pub in_place: u32,
}

impl Hops {
    /// Whether the packet may not be forwarded.
    #[inline(always)]
    pub fn are_spent(&self) -> bool {
        self.left <= 1
    }

    /// One less, of which there must be two.
    #[inline(always)]
    pub fn lost(&self) -> Hops {
        // RFC 1624 section 3: the first byte of a word falls by one, so the sum rises by as much.
        let sum = self.checksum_be + u32::from(0x0100_u16.to_be());
        Hops { left: self.left.wrapping_sub(1), checksum_be: (sum & 0xffff) + (sum >> 16), ..*self }
    }

    /// The word of an IPv4 header that they are in.
    #[inline(always)]
    pub fn front(&self) -> u16 {
        u16::from_ne_bytes([self.left as u8, self.protocol as u8])
    }

    /// Writes them into the packet.
    #[inline(always)]
    pub fn store(&self, ctx: &TcContext) -> Result<(), i64> {
        if self.ipv6 != 0 {
            // There is no checksum that makes up for it in what the hardware summed up.
            return ctx.store(IPV6_HOPS, &(self.left as u8), u64::from(BPF_F_RECOMPUTE_CSUM));
        }
        if self.in_place == 0 {
            return ctx.store(IPV4_HOPS, &(u32::from(self.front()) | self.checksum_be << 16), 0);
        }
        let words = [self.front(), self.checksum_be as u16];
        let start = ctx.data() + IPV4_HOPS;
        if start + size_of_val(&words) > ctx.data_end() {
            return Err(-1);
        }
        // SAFETY: the bounds were checked. Frames begin at even addresses, and so do their headers.
        unsafe { *(start as *mut [u16; 2]) = words };
        Ok(())
    }
}
