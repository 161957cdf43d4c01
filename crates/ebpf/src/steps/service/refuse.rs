//! Saying no: a TCP reset (RFC 9293 section 3.10.7.1), or an ICMP error (RFC 792, RFC 4443) for everything else and for what
//! is too large.

use core::hint::black_box;

use aya_ebpf::{
    bindings::{BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::{bpf_csum_diff, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes},
    programs::TcContext,
};
use weft_abi::{Config, Counter, OVERLAY_VNI};

use super::{
    ETHERNET, TCP, Verdict, Work, hook, part,
    send::{by_link, to_node},
    table::{ACK, FIN, RST, SYN},
};
use crate::{
    maps::{CONFIG, REFUSALS},
    steps::{count, deliver::through_device, parse::skb},
};

const TTL: u8 = 64;
/// ICMP errors to clients outside: one a millisecond and CPU, and so many at once.
const REFUSAL_GAP_NS: u64 = 1_000_000;
const REFUSALS_BURST: u64 = 50;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const UDP: u8 = super::UDP;

/// What is quoted of the transport: as much as tells its receiver which of its packets it was.
const QUOTED_TCP: u32 = 20;
const QUOTED: u32 = 8;
/// Room for a quotation, in words and in bytes: headers with some options.
pub const QUOTE_WORDS: usize = 12;
const MOST_QUOTED: u32 = (QUOTE_WORDS * size_of::<u64>()) as u32;

/// [`weft_abi::Step::Refuse`].
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Verdict {
    let Some(work) = super::work() else { return Verdict::drop(Counter::MissingStep) };
    let Some(config) = CONFIG.get(0) else { return Verdict::drop(Counter::MissingStep) };
    // What cannot be answered: a later fragment, a reset.
    if work.part == part::LATER {
        return Verdict::drop(Counter::Fragment);
    }
    let is_reset = work.key.protocol == TCP && work.mtu == 0;
    if work.mtu == 0 {
        if !is_reset && work.hook == hook::UPLINK_INGRESS && !may_refuse(work.now_ns) {
            return Verdict::drop(Counter::RefusalRate);
        }
        count::packet(Counter::Refused);
    }
    if is_reset && work.tcp & RST != 0 {
        return Verdict::drop(Counter::Untranslated);
    }
    let Ok(macs) = ctx.load::<[[u8; 6]; 2]>(0) else { return Verdict::drop(Counter::Malformed) };
    let made = if is_reset { reset(ctx, work) } else { error(ctx, work) };
    if made.is_err() || ctx.store(0, &[macs[1], macs[0]], 0).is_err() {
        return Verdict::drop(Counter::Untranslated);
    }
    answer(ctx, config, work)
}

/// Whether a client outside, whose address may be anybody's, is sent one more ICMP error: a token bucket a CPU, kept as the time
/// at which it is full again. The kernel limits its own in the same way (`icmp_msgs_per_sec`, `icmp_msgs_burst`), and resets
/// and what path MTUs need as little. Pods cannot lie about their address, and one is not to silence what others are told.
#[inline(always)]
fn may_refuse(now_ns: u64) -> bool {
    let Some(full_ns) = REFUSALS.get_ptr_mut(0) else { return false };
    // SAFETY: the value is this CPU's, and programs of one CPU do not interrupt each other here.
    unsafe {
        if *full_ns > now_ns + REFUSALS_BURST * REFUSAL_GAP_NS {
            return false;
        }
        *full_ns = (*full_ns).max(now_ns) + REFUSAL_GAP_NS;
    }
    true
}

/// Back to where the packet came from.
#[inline(always)]
fn answer(ctx: &TcContext, config: &Config, work: &Work) -> Verdict {
    match work.hook {
        hook::OVERLAY_INGRESS | hook::ENTRY => through_device(ctx, config, &work.tunnel, OVERLAY_VNI),
        hook::DIRECT => by_link(config.uplink_ifindex),
        hook::OVERLAY_EGRESS | hook::UPLINK_EGRESS => to_node(ctx, config, work.hook),
        // SAFETY: a helper without pointers, and the context pointer is valid while the program runs.
        hook::POD_EGRESS | hook::UPLINK_INGRESS => {
            Verdict(unsafe { bpf_redirect((*skb(ctx)).ifindex, 0) } as i32)
        }
        _ => Verdict::drop(Counter::Untranslated),
    }
}

/// Turns the packet into the reset that answers it.
#[inline(always)]
fn reset(ctx: &TcContext, work: &mut Work) -> Result<(), i64> {
    const LENGTH: u32 = 20;
    let at = work.transport as usize;
    // Ports, sequence number, acknowledgement, offset and flags.
    let asked: [u32; 4] = ctx.load(at)?;
    let header = (u32::from_be(asked[3]) >> 28) * 4;
    let end = end_of_packet(ctx, work)?;
    let payload = end.wrapping_sub(work.transport).wrapping_sub(header);
    let of = |flag: u32| u32::from(work.tcp & flag != 0);
    let (sequence, acknowledgement, flags) = if work.tcp & ACK != 0 {
        (asked[2], 0, RST)
    } else {
        let next = u32::from_be(asked[1]).wrapping_add(payload).wrapping_add(of(SYN)).wrapping_add(of(FIN));
        (0, next.to_be(), RST | ACK)
    };
    let half = is_half(ctx, at + TCP_CHECKSUM)?;
    let key = &work.key;
    let ports = u32::from(key.destination_port_be) | u32::from(key.source_port_be) << 16;
    let mut tcp = [ports, sequence, acknowledgement, (5 << 28 | flags << 16).to_be(), 0];
    let pseudo = pseudo(work, TCP, LENGTH);
    let sum = if half { pseudo } else { add(pseudo, sum(&tcp)) };
    // The checksum of what is left to the hardware is the pseudo header's alone, not complemented.
    let checksum = if half { fold(sum) } else { !fold(sum) };
    tcp[4] = u32::from(checksum);
    tail(ctx, network(work) + LENGTH + ETHERNET as u32)?;
    ip_header(ctx, work, TCP, LENGTH)?;
    ctx.store(ETHERNET + network(work) as usize, &tcp, u64::from(BPF_F_RECOMPUTE_CSUM))
}

/// Turns the packet into the ICMP error that it gets: port unreachable, or too large.
#[inline(always)]
fn error(ctx: &TcContext, work: &mut Work) -> Result<(), i64> {
    let transport = if work.key.protocol == TCP { QUOTED_TCP } else { QUOTED };
    let header = work.transport - ETHERNET as u32;
    let quoted = header + transport;
    let half = match work.key.protocol {
        TCP => is_half(ctx, work.transport as usize + TCP_CHECKSUM)?,
        UDP => is_half(ctx, work.transport as usize + UDP_CHECKSUM)?,
        _ => false,
    };
    tail(ctx, quoted + ETHERNET as u32)?;
    // If the hardware completes the quoted transport's checksum, all of it sums up to the complement of what the sender put
    // there.
    let (summed, transport_sum) = if half {
        let field =
            work.transport as usize + if work.key.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let pseudo: u16 = ctx.load(field)?;
        (header, u32::from(!pseudo))
    } else {
        (quoted, 0)
    };
    work.words = [0; QUOTE_WORDS];
    load(ctx, &mut work.words, summed)?;
    // SAFETY: the helper reads the buffer alone.
    let inner =
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, work.words.as_mut_ptr().cast(), MOST_QUOTED, 0) };
    let inner = add(inner as u32, transport_sum);

    let length = 8 + quoted;
    let (kind, code): (u32, u32) = match (work.ipv6 != 0, work.mtu != 0) {
        (false, false) => (3, 3),
        (false, true) => (3, 4),
        (true, false) => (1, 4),
        (true, true) => (2, 0),
    };
    let mut icmp = [(kind << 24 | code << 16).to_be(), work.mtu.to_be()];
    let pseudo = if work.ipv6 != 0 { pseudo(work, ICMPV6, length) } else { 0 };
    let all = add(add(inner, sum(&icmp)), pseudo);
    // The third and fourth byte.
    icmp[0] |= u32::from(!fold(all)) << 16;
    let network = network(work);
    ctx.adjust_room((network + 8) as i32, BPF_ADJ_ROOM_MAC, 0)?;
    ip_header(ctx, work, if work.ipv6 != 0 { ICMPV6 } else { ICMP }, length)?;
    ctx.store(ETHERNET + network as usize, &icmp, u64::from(BPF_F_RECOMPUTE_CSUM))
}

/// Copies the beginning of the IP packet.
#[inline(always)]
fn load(ctx: &TcContext, words: &mut [u64; QUOTE_WORDS], length: u32) -> Result<(), i64> {
    // The verifier must see the very number that it is given compared.
    let length = black_box(u64::from(length));
    if length == 0 || length > u64::from(MOST_QUOTED) {
        return Err(-1);
    }
    // SAFETY: the buffer has room for as many bytes.
    let result = unsafe {
        bpf_skb_load_bytes(skb(ctx).cast(), ETHERNET as u32, words.as_mut_ptr().cast(), length as u32)
    };
    if result == 0 { Ok(()) } else { Err(result) }
}

/// Bytes of the IP header of an answer.
#[inline(always)]
fn network(work: &Work) -> u32 {
    if work.ipv6 != 0 { 40 } else { 20 }
}

/// Where the IP packet ends in the frame, which may be padded (or, of GSO, longer than any one packet).
#[inline(always)]
fn end_of_packet(ctx: &TcContext, work: &Work) -> Result<u32, i64> {
    let (offset, before) = if work.ipv6 != 0 { (18, 54) } else { (16, 14) };
    Ok(u32::from(u16::from_be(ctx.load::<u16>(offset)?)) + before)
}

/// Writes the IP header of an answer with `length` bytes behind it.
#[inline(always)]
fn ip_header(ctx: &TcContext, work: &Work, protocol: u8, length: u32) -> Result<(), i64> {
    let key = &work.key;
    if work.ipv6 != 0 {
        let (from, to) = (key.destination.words_be, key.source.words_be);
        let header = [
            (6_u32 << 28).to_be(),
            (length << 16 | u32::from(protocol) << 8 | u32::from(TTL)).to_be(),
            from[0],
            from[1],
            from[2],
            from[3],
            to[0],
            to[1],
            to[2],
            to[3],
        ];
        return ctx.store(ETHERNET, &header, u64::from(BPF_F_RECOMPUTE_CSUM));
    }
    let mut header = [
        (0x4500_0000 | (length + 20)).to_be(),
        // Don't fragment.
        0x4000_u32.to_be(),
        (u32::from(TTL) << 24 | u32::from(protocol) << 16).to_be(),
        key.destination.words_be[3],
        key.source.words_be[3],
    ];
    header[2] |= u32::from(!fold(sum(&header))) << 16;
    ctx.store(ETHERNET, &header, u64::from(BPF_F_RECOMPUTE_CSUM))
}

/// The sum of an answer's pseudo header.
#[inline(always)]
fn pseudo(work: &Work, protocol: u8, length: u32) -> u32 {
    let (from, to) = (&work.key.destination.words_be, &work.key.source.words_be);
    let rest = [length.to_be(), u32::from(protocol).to_be()];
    if work.ipv6 != 0 {
        return add(sum(&rest), add(sum(from), sum(to)));
    }
    add(sum(&rest), sum(&[from[3], to[3]]))
}

/// The sum of words, for [`fold`].
#[inline(always)]
pub fn sum<const N: usize>(words: &[u32; N]) -> u32 {
    words.iter().fold(0, |total, word| add(total, *word))
}

/// Adds with the carry brought round.
#[inline(always)]
pub fn add(a: u32, b: u32) -> u32 {
    let total = u64::from(a) + u64::from(b);
    (total as u32).wrapping_add((total >> 32) as u32)
}

/// Sixteen bits of a sum, in the order of the packet.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Cuts the frame or makes it longer; segmentation is off from here on.
#[inline(always)]
pub fn tail(ctx: &TcContext, length: u32) -> Result<(), i64> {
    // SAFETY: the context pointer is valid while the program runs.
    let result = unsafe { bpf_skb_change_tail(skb(ctx), length, 0) };
    if result == 0 { Ok(()) } else { Err(result) }
}

/// Whether the sender left the checksum at `offset` to the hardware: the kernel then refuses to change it for anything but the
/// pseudo header.
#[inline(always)]
fn is_half(ctx: &TcContext, offset: usize) -> Result<bool, i64> {
    let before: u16 = ctx.load(offset)?;
    ctx.l4_csum_replace(offset, 0, 1, 2)?;
    let after: u16 = ctx.load(offset)?;
    ctx.store(offset, &before, 0)?;
    Ok(before == after)
}
