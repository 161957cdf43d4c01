//! SCTP's checksum (RFC 9260 section 6.8: CRC32c over the whole packet, addresses not among it).
//!
//! A CRC is linear: when four bytes change, it changes by what those four bytes and as many zeros as follow them would make. Zeros
//! are skipped by powers of two, so the cost does not depend on the packet's length.

use core::hint::black_box;

use aya_ebpf::{bindings::BPF_F_RECOMPUTE_CSUM, programs::TcContext};

use super::{Work, part};

const CHECKSUM: usize = 8;
/// x^32 + … of CRC32c, bits reversed, as the CRC itself has them.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;
/// Bits of the length of an IP packet.
const LENGTH_BITS: usize = 16;

/// `SKIP[n]` is x^(8 · 2^n): what 2^n zero bytes multiply by.
static SKIP: [u32; LENGTH_BITS] = skips();

/// Writes both ports.
#[inline(always)]
pub fn ports(ctx: &TcContext, work: &Work, before: [u16; 2], after: [u16; 2]) -> Result<(), i64> {
    // How many bytes follow is known of whole packets alone.
    if work.part != part::WHOLE {
        return Err(-1);
    }
    let at = work.transport as usize;
    let checksum: u32 = ctx.load(at + CHECKSUM)?;
    // Zero: the sender leaves it to the hardware, or to the kernel where a packet is encapsulated.
    if checksum != 0 {
        let change = word(before) ^ word(after);
        let length = length(ctx, work)?.wrapping_sub(work.transport);
        let checksum = u32::from_le(checksum) ^ behind(change, length);
        ctx.store(at + CHECKSUM, &checksum.to_le(), u64::from(BPF_F_RECOMPUTE_CSUM))?;
    }
    ctx.store(at, &after, u64::from(BPF_F_RECOMPUTE_CSUM))
}

/// The end of the IP packet in the frame, which may be padded.
#[inline(always)]
fn length(ctx: &TcContext, work: &Work) -> Result<u32, i64> {
    let (offset, header) = if work.ipv6 != 0 { (18, 54) } else { (16, 14) };
    Ok(u32::from(u16::from_be(ctx.load::<u16>(offset)?)) + header)
}

/// The ports as the CRC takes them in: the first byte lowest.
#[inline(always)]
fn word(ports_be: [u16; 2]) -> u32 {
    u32::from(ports_be[0]) | u32::from(ports_be[1]) << 16
}

/// What the CRC changes by when the first four of `length` bytes change by `change`.
///
/// Without a branch, and a function of its own, so that the verifier walks it once.
#[inline(never)]
fn behind(change: u32, length: u32) -> u32 {
    let mut value = change;
    for (bit, skip) in SKIP.iter().enumerate() {
        let chosen = 0_u32.wrapping_sub(length >> bit & 1);
        value = times(value, ONE ^ (ONE ^ *skip) & black_box(chosen));
    }
    value
}

/// The product of two polynomials, modulo CRC32c's.
const fn times(a: u32, b: u32) -> u32 {
    let (mut product, mut a, mut bit) = (0, a, 0);
    while bit < 32 {
        product ^= a & 0_u32.wrapping_sub(b >> (31 - bit) & 1);
        a = a >> 1 ^ POLYNOMIAL & 0_u32.wrapping_sub(a & 1);
        bit += 1;
    }
    product
}

const fn skips() -> [u32; LENGTH_BITS] {
    let mut skips = [0; LENGTH_BITS];
    // x^8.
    let mut skip = ONE >> 8;
    let mut bit = 0;
    while bit < LENGTH_BITS {
        skips[bit] = skip;
        skip = times(skip, skip);
        bit += 1;
    }
    skips
}
