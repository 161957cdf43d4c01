//! One address type for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Plain;

/// A 128-bit address in network byte order, IPv4 mapped as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
///
/// Four words rather than sixteen bytes, so that the kernel programs copy and compare it word by word.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The address's bytes in memory order: each word holds four of them in network order.
    pub words_be: [u32; 4],
}

/// The third word of an IPv4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();

const _: () = assert!(size_of::<Address>() == 16);

// SAFETY: four integers.
unsafe impl Plain for Address {}

impl Address {
    /// Bits that an IPv4 prefix is longer by once it is mapped.
    pub const V4_PREFIX_BITS: u32 = 96;

    /// An IPv4 address whose word is in network byte order, as it stands in a packet.
    #[inline(always)]
    pub const fn from_v4_be(address_be: u32) -> Address {
        Address { words_be: [0, 0, MAPPED, address_be] }
    }

    /// What stands for a network namespace of this node where an address stands for a client: its cookie in the discard-only
    /// prefix 100::/64 (RFC 6666), which no packet comes from.
    #[inline(always)]
    pub const fn of_netns(cookie: u64) -> Address {
        Address { words_be: [0x0100_0000_u32.to_be(), 0, (cookie >> 32) as u32, cookie as u32] }
    }

    /// The IPv4 address in network byte order, if this is one.
    #[inline(always)]
    pub const fn v4_be(&self) -> Option<u32> {
        if self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == MAPPED {
            Some(self.words_be[3])
        } else {
            None
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Address {
        let bytes = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let (words, _) = bytes.as_chunks::<4>();
        let mut words_be = [0; 4];
        words_be.iter_mut().zip(words).for_each(|(word, bytes)| *word = u32::from_ne_bytes(*bytes));
        Address { words_be }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> IpAddr {
        if let Some(v4_be) = address.v4_be() {
            return IpAddr::V4(Ipv4Addr::from(u32::from_be(v4_be)));
        }
        let mut bytes = [0; 16];
        let (chunks, _) = bytes.as_chunks_mut::<4>();
        chunks.iter_mut().zip(address.words_be).for_each(|(chunk, word)| *chunk = word.to_ne_bytes());
        IpAddr::V6(Ipv6Addr::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_way_there_and_back() {
        for text in ["10.244.1.2", "0.0.0.0", "255.255.255.255", "fd00:10:244::1", "::", "::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }

    #[test]
    fn an_ipv4_address_is_mapped_as_it_stands_in_a_packet() {
        let address = Address::from(IpAddr::from([10, 244, 1, 2]));
        assert_eq!(address.v4_be(), Some(u32::from_ne_bytes([10, 244, 1, 2])));
        assert_eq!(address, Address::from_v4_be(u32::from_ne_bytes([10, 244, 1, 2])));
        assert_eq!(Address::from(IpAddr::from([0; 16])).v4_be(), None);
    }
}
