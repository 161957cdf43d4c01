//! The largest segment (RFC 9293 section 3.7.1): both ends are told what fits into the overlay, which neither of them sees.

use aya_ebpf::programs::TcContext;
use weft_abi::Config;

use super::{TCP, Work, table::SYN};

const DATA_OFFSET: usize = 12;
const HEADER: usize = 20;
const CHECKSUM: usize = 16;
/// Options that are looked at; the segment size comes first or nearly so.
const OPTIONS: usize = 10;
const END: u8 = 0;
const NOTHING: u8 = 1;
const SEGMENT_SIZE: u8 = 2;

/// Lowers the segment size of a SYN or SYN-ACK to what the overlay takes.
#[inline(always)]
pub fn clamp(ctx: &TcContext, config: &Config, work: &Work) {
    if work.key.protocol != TCP || work.tcp & SYN == 0 {
        return;
    }
    let headers = if work.ipv6 != 0 { 60 } else { 40 };
    // Options that are cut short are the receiver's to refuse.
    let _ = lower(ctx, work.transport as usize, config.overlay_mtu.saturating_sub(headers) as u16);
}

#[inline(always)]
fn lower(ctx: &TcContext, tcp: usize, most: u16) -> Result<(), i64> {
    let end = tcp + usize::from(ctx.load::<u8>(tcp + DATA_OFFSET)? >> 4) * 4;
    let mut at = tcp + HEADER;
    for _ in 0..OPTIONS {
        if at + 4 > end {
            break;
        }
        let [kind, length]: [u8; 2] = ctx.load(at)?;
        match kind {
            END => break,
            NOTHING => at += 1,
            SEGMENT_SIZE => {
                let size_be: u16 = ctx.load(at + 2)?;
                if u16::from_be(size_be) > most {
                    // An option may begin at an odd byte; the checksum sums by even ones.
                    let (from, to) = if (at - tcp) & 1 == 0 {
                        (size_be, most.to_be())
                    } else {
                        (size_be.swap_bytes(), most.to_be().swap_bytes())
                    };
                    ctx.l4_csum_replace(tcp + CHECKSUM, u64::from(from), u64::from(to), 2)?;
                    ctx.store(at + 2, &most.to_be(), 0)?;
                }
                break;
            }
            _ => at += usize::from(length).max(2),
        }
    }
    Ok(())
}
