//! Reading ports: past IPv6 extension headers, and of fragments by what their first one said.

use aya_ebpf::programs::TcContext;
use weft_abi::{Address, Counter, Fragment};

use super::{ETHERNET, SCTP, TCP, UDP, Verdict, Work, part};
use crate::{
    maps::FRAGMENTS,
    steps::parse::{self, skb},
};

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Extension headers that are looked past; nobody sends more, and what hides behind more is malformed.
const EXTENSIONS: usize = 6;
/// Offset of TCP's flags, bytes.
const TCP_FLAGS: usize = 13;

/// What follows the IP header.
pub enum Transport {
    /// Ports, or the first fragment of something that has them.
    Ports,
    /// A protocol without ports.
    Bare,
    /// An ICMP error.
    Error,
    /// A neighbour solicitation.
    Neighbour,
    /// Another message of neighbour discovery (RFC 4861 section 4).
    Discovery,
    /// A later fragment of what nobody here has seen the first of: its ports are unknown.
    Headless,
}

/// Fills in the packet's key.
#[inline(always)]
pub fn read(ctx: &TcContext, work: &mut Work) -> Result<Transport, Verdict> {
    // SAFETY: the context pointer is valid while the program runs.
    let ethertype = unsafe { (*skb(ctx)).protocol } as u16;
    work.key.reserved = [0; 3];
    work.key.entry = 0;
    work.key.source_port_be = 0;
    work.key.destination_port_be = 0;
    work.tcp = 0;
    let known = if ethertype == ETHERTYPE_IPV4 { ipv4(ctx, work) } else { ipv6(ctx, work) };
    known.ok_or_else(|| Verdict::drop(Counter::Malformed))?;
    if work.part == part::LATER {
        return Ok(later(work));
    }
    let at = work.transport as usize;
    let first = |offset: usize| ctx.load::<u8>(at + offset).map_err(|_| Verdict::drop(Counter::Malformed));
    match work.key.protocol {
        TCP => {
            // Ports, numbers, and at last the flags.
            let words: [u16; 7] = parse::words(ctx, at).map_err(|_| Verdict::drop(Counter::Malformed))?;
            work.key.source_port_be = words[0];
            work.key.destination_port_be = words[1];
            work.tcp = u32::from(u16::from_be(words[TCP_FLAGS / 2]) as u8);
            Ok(Transport::Ports)
        }
        UDP | SCTP => {
            let ports: [u16; 2] = parse::words(ctx, at).map_err(|_| Verdict::drop(Counter::Malformed))?;
            work.key.source_port_be = ports[0];
            work.key.destination_port_be = ports[1];
            Ok(Transport::Ports)
        }
        ICMP if work.ipv6 == 0 => match first(0)? {
            3 | 4 | 5 | 11 | 12 => Ok(Transport::Error),
            _ => Ok(Transport::Bare),
        },
        ICMPV6 if work.ipv6 != 0 => match first(0)? {
            1..=4 => Ok(Transport::Error),
            NEIGHBOUR_SOLICITATION => Ok(Transport::Neighbour),
            133..=137 => Ok(Transport::Discovery),
            _ => Ok(Transport::Bare),
        },
        _ => Ok(Transport::Bare),
    }
}

/// Remembers the ports of a fragmented packet for its other fragments.
#[inline(always)]
pub fn remember_fragment(work: &Work) {
    if work.part == part::FIRST {
        let ports = Fragment {
            source_port_be: work.key.source_port_be,
            destination_port_be: work.key.destination_port_be,
        };
        // The table makes room by itself; where it cannot, the other fragments are dropped and counted.
        let _ = FRAGMENTS.insert(&work.fragment, &ports, 0);
    }
}

#[inline(always)]
fn later(work: &mut Work) -> Transport {
    if !matches!(work.key.protocol, TCP | UDP | SCTP) {
        return Transport::Headless;
    }
    // SAFETY: an entry that is replaced while it is read makes one fragment miss its flow.
    let Some(ports) = (unsafe { FRAGMENTS.get(&work.fragment) }) else { return Transport::Headless };
    work.key.source_port_be = ports.source_port_be;
    work.key.destination_port_be = ports.destination_port_be;
    Transport::Ports
}

#[inline(always)]
fn ipv4(ctx: &TcContext, work: &mut Work) -> Option<()> {
    /// More fragments, and the offset of this one.
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let header: [u16; 10] = parse::words(ctx, ETHERNET).ok()?;
    let first = u16::from_be(header[0]);
    if first >> 12 != 4 {
        return None;
    }
    let pair = |at: usize| Address::from_v4_be(u32::from(header[at]) | u32::from(header[at + 1]) << 16);
    work.ipv6 = 0;
    work.transport = ETHERNET as u32 + u32::from(first >> 8 & 0xf) * 4;
    work.key.protocol = u16::from_be(header[4]) as u8;
    work.hops = u32::from(u16::from_be(header[4]) >> 8);
    work.header_checksum = u32::from(header[5]);
    work.key.source = pair(6);
    work.key.destination = pair(8);
    let fragment = u16::from_be(header[3]);
    fragmented(work, fragment & OFFSET != 0, fragment & MORE != 0, u32::from(u16::from_be(header[2])));
    Some(())
}

#[inline(always)]
fn ipv6(ctx: &TcContext, work: &mut Work) -> Option<()> {
    const HEADER: u32 = 40;
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION_OPTIONS: u8 = 60;
    let header: [u32; 10] = ctx.load(ETHERNET).ok()?;
    work.ipv6 = 1;
    work.part = part::WHOLE;
    work.key.source = Address { words_be: [header[2], header[3], header[4], header[5]] };
    work.key.destination = Address { words_be: [header[6], header[7], header[8], header[9]] };
    work.hops = u32::from_be(header[1]) & 0xff;
    let mut next = (u32::from_be(header[1]) >> 8) as u8;
    let mut at = ETHERNET as u32 + HEADER;
    for _ in 0..EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let [following, length]: [u8; 2] = ctx.load(at as usize).ok()?;
                next = following;
                at += (u32::from(length) + 1) * 8;
            }
            FRAGMENT => {
                let words: [u32; 2] = ctx.load(at as usize).ok()?;
                let offset = u32::from_be(words[0]) as u16;
                next = (u32::from_be(words[0]) >> 24) as u8;
                at += 8;
                work.key.protocol = next;
                fragmented(work, offset & !7 != 0, offset & 1 != 0, words[1]);
                if work.part == part::LATER {
                    break;
                }
            }
            _ => break,
        }
    }
    if work.part != part::LATER && matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT) {
        return None;
    }
    work.key.protocol = next;
    work.transport = at;
    Some(())
}

#[inline(always)]
fn fragmented(work: &mut Work, later: bool, more: bool, id_be: u32) {
    work.part = if later {
        part::LATER
    } else if more {
        part::FIRST
    } else {
        part::WHOLE
    };
    if work.part != part::WHOLE {
        work.fragment.source = work.key.source;
        work.fragment.destination = work.key.destination;
        work.fragment.id_be = id_be;
        work.fragment.protocol = work.key.protocol;
        work.fragment.reserved = [0; 3];
    }
}
