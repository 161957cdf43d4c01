//! ARP (RFC 826) and neighbour solicitations (RFC 4861 section 7.2.4) for LoadBalancer addresses, answered exactly as long as
//! this node's lease on them lasts.

use aya_ebpf::{
    bindings::BPF_F_RECOMPUTE_CSUM,
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    programs::TcContext,
};
use weft_abi::{Address, Config, Counter};

use super::{
    ETHERNET, Verdict,
    refuse::{fold, sum, tail},
};
use crate::{
    maps::{ANNOUNCED, CONFIG},
    steps::{count, parse::skb},
};

const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();
const HOP_LIMIT: u8 = 255;
/// Solicited, override.
const SOLICITED: u32 = 0x6000_0000;
const OVERRIDE: u32 = 0x2000_0000;

/// [`weft_abi::Step::Neighbour`].
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Verdict {
    let Some(config) = CONFIG.get(0) else { return Verdict::NEXT };
    // SAFETY: the context pointer is valid while the program runs.
    let ethertype = unsafe { (*skb(ctx)).protocol } as u16;
    let answered = if ethertype == ETHERTYPE_ARP { arp(ctx, config) } else { solicitation(ctx, config) };
    match answered {
        Ok(true) => {
            count::packet(Counter::Announced);
            // SAFETY: a helper without pointers.
            Verdict(unsafe { bpf_redirect(config.uplink_ifindex, 0) } as i32)
        }
        // The host's own addresses are its own affair.
        Ok(false) => Verdict::NEXT,
        Err(_) => Verdict::drop(Counter::Untranslated),
    }
}

/// Whether this node answers for the address, now.
#[inline(always)]
fn is_announced(address: &Address) -> bool {
    // SAFETY: a word that is read while it is written is the one or the other; the clock helper has no pointers.
    unsafe { ANNOUNCED.get(address).is_some_and(|announced| bpf_ktime_get_ns() < announced.until_ns) }
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Arp {
    /// Ethernet and IPv4, six and four bytes long.
    kinds_be: [u16; 3],
    operation_be: u16,
    sender_mac: [u8; 6],
    sender_be: u32,
    target_mac: [u8; 6],
    target_be: u32,
}

#[inline(always)]
fn arp(ctx: &TcContext, config: &Config) -> Result<bool, i64> {
    const KINDS: [u16; 3] = [1_u16.to_be(), 0x0800_u16.to_be(), 0x0604_u16.to_be()];
    const REQUEST: u16 = 1_u16.to_be();
    const REPLY: u16 = 2_u16.to_be();
    let Ok(asked) = ctx.load::<Arp>(ETHERNET) else { return Ok(false) };
    let (kinds, operation, target_be) = (asked.kinds_be, asked.operation_be, asked.target_be);
    if kinds != KINDS || operation != REQUEST || !is_announced(&Address::from_v4_be(target_be)) {
        return Ok(false);
    }
    let answer = Arp {
        kinds_be: KINDS,
        operation_be: REPLY,
        sender_mac: config.uplink_mac,
        sender_be: target_be,
        target_mac: asked.sender_mac,
        target_be: asked.sender_be,
    };
    ctx.store(ETHERNET, &answer, u64::from(BPF_F_RECOMPUTE_CSUM))?;
    ctx.store(0, &[asked.sender_mac, config.uplink_mac], 0)?;
    Ok(true)
}

#[inline(always)]
fn solicitation(ctx: &TcContext, config: &Config) -> Result<bool, i64> {
    /// IPv6 header and a solicitation or advertisement without options.
    const ICMP: usize = ETHERNET + 40;
    const SOLICITATION: u32 = 135 << 24;
    const ADVERTISEMENT: u32 = 136 << 24;
    const LENGTH: u32 = 32;
    const NEXT_HEADER: u32 = 58;
    let Ok(ip) = ctx.load::<[u32; 10]>(ETHERNET) else { return Ok(false) };
    let Ok(asked) = ctx.load::<[u32; 6]>(ICMP) else { return Ok(false) };
    let target = Address { words_be: [asked[2], asked[3], asked[4], asked[5]] };
    // Nothing that crossed a router, and nothing behind an extension header.
    let fits = u32::from_be(ip[1]) & 0xffff == NEXT_HEADER << 8 | u32::from(HOP_LIMIT)
        && u32::from_be(asked[0]) & 0xffff_0000 == SOLICITATION;
    if !fits || !is_announced(&target) {
        return Ok(false);
    }
    let macs: [[u8; 6]; 2] = ctx.load(0)?;
    let mut to = [ip[2], ip[3], ip[4], ip[5]];
    let mut flags = SOLICITED;
    let mut to_mac = macs[1];
    if to == [0; 4] {
        // Duplicate address detection: all nodes are told.
        to = [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()];
        flags = OVERRIDE;
        to_mac = [0x33, 0x33, 0, 0, 0, 1];
    }
    let from = target.words_be;
    let mac = config.uplink_mac;
    // Option 2, target link-layer address, one unit of eight bytes.
    let option =
        [u32::from_ne_bytes([2, 1, mac[0], mac[1]]), u32::from_ne_bytes([mac[2], mac[3], mac[4], mac[5]])];
    let mut icmp =
        [ADVERTISEMENT.to_be(), flags.to_be(), from[0], from[1], from[2], from[3], option[0], option[1]];
    let pseudo =
        [from[0], from[1], from[2], from[3], to[0], to[1], to[2], to[3], LENGTH.to_be(), NEXT_HEADER.to_be()];
    let total = super::refuse::add(sum(&icmp), sum(&pseudo));
    icmp[0] |= u32::from(!fold(total)) << 16;
    let header = [
        (6_u32 << 28).to_be(),
        (LENGTH << 16 | NEXT_HEADER << 8 | u32::from(HOP_LIMIT)).to_be(),
        from[0],
        from[1],
        from[2],
        from[3],
        to[0],
        to[1],
        to[2],
        to[3],
    ];
    tail(ctx, (ICMP as u32) + LENGTH)?;
    let recompute = u64::from(BPF_F_RECOMPUTE_CSUM);
    ctx.store(ETHERNET, &header, recompute)?;
    ctx.store(ICMP, &icmp, recompute)?;
    ctx.store(0, &[to_mac, mac], 0)?;
    Ok(true)
}
