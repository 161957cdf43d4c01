//! Writing addresses and ports, and keeping checksums right.
//!
//! A checksum may be whole, half (the sender left it to the hardware) or already summed up by the receiving hardware; the
//! kernel's helpers keep all three right if they are told which part of a change the pseudo header has.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::bpf_csum_diff,
    programs::TcContext,
};
use weft_abi::Address;

use super::{ETHERNET, SCTP, TCP, UDP, Work, part, sctp};
use crate::steps::hops::{Hops, IPV4_HOPS};

/// Without options, bytes.
const IPV4_HEADER: usize = 20;
const IPV4_CHECKSUM: usize = 10;
const IPV4_SOURCE: usize = 12;
const IPV4_DESTINATION: usize = 16;
const IPV6_SOURCE: usize = 8;
const IPV6_DESTINATION: usize = 24;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Where the transport's checksum is and how it is kept.
#[derive(Clone, Copy)]
struct Checksum {
    offset: usize,
    flags: u64,
}

/// Writes the hops and what the flow says wherever it differs from what the packet has.
#[inline(always)]
pub fn packet(ctx: &TcContext, work: &Work, hops: &Hops) -> Result<(), i64> {
    let (key, flow) = (&work.key, &work.flow);
    let at = work.transport as usize;
    let checksum = match key.protocol {
        // Later fragments have no transport header.
        _ if work.part == part::LATER => None,
        TCP => Some(Checksum { offset: at + TCP_CHECKSUM, flags: 0 }),
        UDP => Some(Checksum { offset: at + UDP_CHECKSUM, flags: u64::from(BPF_F_MARK_MANGLED_0) }),
        _ => None,
    };
    if work.ipv6 == 0 {
        if !v4(ctx, work, hops, checksum)? {
            return Ok(());
        }
    } else {
        if hops.left != work.hops {
            hops.store(ctx)?;
        }
        if key.source != flow.source {
            address(ctx, true, true, &key.source, &flow.source, checksum)?;
        }
        if key.destination != flow.destination {
            address(ctx, true, false, &key.destination, &flow.destination, checksum)?;
        }
    }
    let (before, after) =
        ([key.source_port_be, key.destination_port_be], [flow.source_port_be, flow.destination_port_be]);
    if before == after || work.part == part::LATER {
        return Ok(());
    }
    if key.protocol == SCTP {
        return sctp::ports(ctx, work, before, after);
    }
    let Some(checksum) = checksum else { return Err(-1) };
    ports_sum(ctx, work, checksum)?;
    ctx.store(at, &after, 0)
}

/// Writes hops, checksum and both addresses of an IPv4 header at once and, where they follow at once, the ports: each call of the kernel
/// costs about as much as a look-up. Says whether the ports are still to be written.
#[inline(always)]
fn v4(ctx: &TcContext, work: &Work, hops: &Hops, checksum: Option<Checksum>) -> Result<bool, i64> {
    let (key, flow) = (&work.key, &work.flow);
    let from = [key.source.words_be[3], key.destination.words_be[3]];
    let to = [flow.source.words_be[3], flow.destination.words_be[3]];
    if from == to {
        if hops.left != work.hops {
            hops.store(ctx)?;
        }
        return Ok(true);
    }
    let sum = u64::from(!from[0]) + u64::from(!from[1]) + u64::from(to[0]) + u64::from(to[1]);
    // At most four carries, which at most carry once more.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let difference = (sum & 0xffff_ffff) + (sum >> 32);
    if let Some(Checksum { offset, flags }) = checksum {
        ctx.l4_csum_replace(offset, 0, difference, u64::from(BPF_F_PSEUDO_HDR) | flags)?;
    }
    // RFC 1624, equation 3.
    let header = u64::from(!hops.checksum_be & 0xffff) + (difference & 0xffff) + (difference >> 16);
    let header = (header & 0xffff) + (header >> 16);
    let header = !((header & 0xffff) + (header >> 16)) as u16;
    let first = u32::from(hops.front()) | u32::from(header) << 16;
    let ports_follow = work.transport as usize == ETHERNET + IPV4_HEADER && work.part != part::LATER;
    match checksum {
        Some(checksum) if ports_follow => {
            ports_sum(ctx, work, checksum)?;
            let ports = u32::from(flow.source_port_be) | u32::from(flow.destination_port_be) << 16;
            // What is written in parts and read as a whole waits for the cache.
            let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
            ctx.store(IPV4_HOPS, &[pair(first, to[0]), pair(to[1], ports)], 0)?;
            Ok(false)
        }
        _ => ctx.store(IPV4_HOPS, &[first, to[0], to[1]], 0).map(|()| true),
    }
}

/// Makes the transport's checksum follow its ports.
#[inline(always)]
fn ports_sum(ctx: &TcContext, work: &Work, checksum: Checksum) -> Result<(), i64> {
    let (key, flow) = (&work.key, &work.flow);
    let word = |ports: [u16; 2]| u64::from(u32::from(ports[0]) | u32::from(ports[1]) << 16);
    let before = word([key.source_port_be, key.destination_port_be]);
    let after = word([flow.source_port_be, flow.destination_port_be]);
    if before == after {
        return Ok(());
    }
    ctx.l4_csum_replace(checksum.offset, before, after, checksum.flags | 4)
}

/// Writes one address of the IP header.
#[inline(always)]
fn address(
    ctx: &TcContext,
    ipv6: bool,
    source: bool,
    from: &Address,
    to: &Address,
    checksum: Option<Checksum>,
) -> Result<(), i64> {
    let pseudo = u64::from(BPF_F_PSEUDO_HDR);
    if ipv6 {
        let offset = ETHERNET + if source { IPV6_SOURCE } else { IPV6_DESTINATION };
        if let Some(Checksum { offset, flags }) = checksum {
            ctx.l4_csum_replace(offset, 0, difference(from, to), pseudo | flags)?;
        }
        // The address and the checksum that makes up for it are both in what the hardware summed up.
        return ctx.store(offset, &to.words_be, u64::from(BPF_F_RECOMPUTE_CSUM));
    }
    let offset = ETHERNET + if source { IPV4_SOURCE } else { IPV4_DESTINATION };
    let (from, to) = (from.words_be[3], to.words_be[3]);
    if let Some(Checksum { offset, flags }) = checksum {
        ctx.l4_csum_replace(offset, u64::from(from), u64::from(to), pseudo | flags | 4)?;
    }
    ctx.l3_csum_replace(ETHERNET + IPV4_CHECKSUM, u64::from(from), u64::from(to), 4)?;
    ctx.store(offset, &to, 0)
}

/// What a checksum changes by when one address is written over another.
#[inline(always)]
pub fn difference(from: &Address, to: &Address) -> u64 {
    // SAFETY: the helper reads sixteen bytes of each.
    let difference = unsafe {
        bpf_csum_diff(
            from.words_be.as_ptr().cast_mut(),
            size_of::<Address>() as u32,
            to.words_be.as_ptr().cast_mut(),
            size_of::<Address>() as u32,
            0,
        )
    };
    u64::from(difference as u32)
}

/// Writes the addresses of an ICMP error's IP header, whose checksum is at `checksum` and has a pseudo header in IPv6 alone.
#[inline(always)]
pub fn outer(
    ctx: &TcContext,
    work: &Work,
    source: &Address,
    destination: &Address,
    checksum: usize,
) -> Result<(), i64> {
    let ipv6 = work.ipv6 != 0;
    let checksum = if ipv6 { Some(Checksum { offset: checksum, flags: 0 }) } else { None };
    if work.key.source != *source {
        address(ctx, ipv6, true, &work.key.source, source, checksum)?;
    }
    if work.key.destination != *destination {
        address(ctx, ipv6, false, &work.key.destination, destination, checksum)?;
    }
    Ok(())
}

/// Writes one address of an IPv4 header within an ICMP error, at `header`. Address and header checksum make up for each other.
#[inline(always)]
pub fn inner_v4(
    ctx: &TcContext,
    header: usize,
    source: bool,
    from: &Address,
    to: &Address,
) -> Result<(), i64> {
    let (from, to) = (from.words_be[3], to.words_be[3]);
    ctx.l3_csum_replace(header + IPV4_CHECKSUM, u64::from(from), u64::from(to), 4)?;
    ctx.store(header + if source { IPV4_SOURCE } else { IPV4_DESTINATION }, &to, 0)
}

/// Writes one address of an IPv6 header within an ICMP error, at `header`; the error's checksum covers it.
#[inline(always)]
pub fn inner_v6(
    ctx: &TcContext,
    header: usize,
    source: bool,
    from: &Address,
    to: &Address,
    checksum: usize,
) -> Result<(), i64> {
    ctx.l4_csum_replace(checksum, 0, difference(from, to), 0)?;
    ctx.store(header + if source { IPV6_SOURCE } else { IPV6_DESTINATION }, &to.words_be, 0)
}
