//! ICMP errors: translated with the flow that they are about (RFC 5508 section 4.2, RFC 792, RFC 4443).
//!
//! An error travels against the packet inside it. So the other direction of that packet is the direction of the error, and what
//! its flow writes is written into the error: to its own header as it is, to the packet inside the other way round.
//!
//! A Pod may tell of what was sent to it, and of nothing else: it is on nobody's path. Of a tunnel to a node of this link that node
//! may tell alone: there is no router between.

use aya_ebpf::programs::TcContext;
use weft_abi::{Address, Config, Counter, Flow, FlowKey};

use super::{
    SCTP, TCP, UDP, Verdict, Work,
    flow::{hops_of_translated, lookup, without_flow},
    hook, is_own, label, part, send, translate,
};
use crate::{
    maps::CONFIG,
    steps::{count, deliver::route, link, ways::way},
};

/// ICMP header in front of the packet that an error is about, bytes.
const ICMP_HEADER: usize = 8;
const ICMP_CHECKSUM: usize = 2;
const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: u8 = 44;

/// [`weft_abi::Step::Error`].
#[inline(always)]
pub fn packet(ctx: &TcContext) -> Verdict {
    let Some(work) = super::work() else { return Verdict::drop(Counter::MissingStep) };
    let Some(config) = CONFIG.get(0) else { return Verdict::drop(Counter::MissingStep) };
    let header = work.transport as usize + ICMP_HEADER;
    work.other = FlowKey::default();
    let inside = if work.ipv6 != 0 { ipv6(ctx, work, header) } else { ipv4(ctx, work, header) };
    // An error is no larger than what everything carries: in fragments is only what is to be hidden.
    if work.hook == hook::POD_EGRESS && (work.part != part::WHOLE || work.other.source != work.key.source) {
        return Verdict::drop(Counter::ForeignError);
    }
    if work.hook == hook::UPLINK_INGRESS && is_about_tunnel(config, work) {
        let end = &work.other.source;
        let Ok(from) = link::source(ctx) else { return Verdict::drop(Counter::Malformed) };
        if way(config, end).is_some_and(|way| link::is_anothers(ctx, config, way, end, from)) {
            return Verdict::drop(Counter::ForeignError);
        }
    }
    let known =
        inside.filter(|_| !is_of_addressed(work)).and_then(|ports| find(work).map(|flow| (ports, flow)));
    let Some((ports, flow)) = known else {
        return match work.hook {
            hook::ENTRY => Verdict::drop(Counter::TunnelSource),
            _ => without_flow(ctx, work),
        };
    };
    work.flow = flow;
    let (client, port_be) = (work.other.source, work.other.source_port_be);
    let way = label::choose_path(config, work, &client, port_be, true);
    let hops = match hops_of_translated(config, work) {
        Ok(hops) => hops,
        Err(verdict) => return verdict,
    };
    if hops.left != work.hops && hops.store(ctx).is_err() {
        return Verdict::drop(Counter::Malformed);
    }
    if translated(ctx, work, header, ports).is_err() {
        return Verdict::drop(Counter::Untranslated);
    }
    count::packet(Counter::ErrorTranslated);
    // Not a flow's own packet: nothing of a transport is to be changed in it.
    work.tcp = 0;
    send::on(ctx, config, work, way)
}

/// Whether an error is about a packet of this node's own tunnels.
#[inline(always)]
fn is_about_tunnel(config: &Config, work: &Work) -> bool {
    work.other.protocol == UDP
        && work.other.source_port_be == config.vxlan_port_be
        && is_own(config, &work.other.destination)
}

/// Whether the host's stack tells of a packet that it did not send on to a Pod which a host outside had addressed: it was not translated
/// yet, so that it looks like one of a Service that the same host asks from the same port.
#[inline(always)]
fn is_of_addressed(work: &Work) -> bool {
    work.hook == hook::UPLINK_EGRESS
        && lookup(&work.other.turned()).is_some_and(|flow| flow.flags & Flow::ADDRESSED != 0)
}

#[inline(always)]
fn find(work: &mut Work) -> Option<weft_abi::Flow> {
    if let Some(flow) = lookup(&work.other)
        && (work.hook != hook::ENTRY
            || !flow.is_forward() && route(&work.other.source).is_some_and(|r| r.tunnel == work.tunnel))
    {
        return Some(*flow);
    }
    if work.hook != hook::ENTRY {
        return None;
    }
    let key = label::entered(work, &work.other)?;
    lookup(&key).filter(|flow| label::is_of(flow, &work.other)).map(|flow| *flow)
}

/// The offset of the ports of the packet inside, whose other direction becomes [`Work::other`].
#[inline(always)]
fn ipv4(ctx: &TcContext, work: &mut Work, header: usize) -> Option<usize> {
    let words: [u32; 5] = ctx.load(header).ok()?;
    let (source, destination) = (Address::from_v4_be(words[3]), Address::from_v4_be(words[4]));
    between(work, source, destination);
    // A later fragment says nothing of its ports.
    if u32::from_be(words[1]) & 0x1fff != 0 {
        return None;
    }
    let protocol = (u32::from_be(words[2]) >> 16) as u8;
    let ports = header + (u32::from_be(words[0]) >> 24 & 0xf) as usize * 4;
    turned(ctx, work, protocol, ports)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, work: &mut Work, header: usize) -> Option<usize> {
    let words: [u32; 10] = ctx.load(header).ok()?;
    let source = Address { words_be: [words[2], words[3], words[4], words[5]] };
    let destination = Address { words_be: [words[6], words[7], words[8], words[9]] };
    between(work, source, destination);
    let mut protocol = (u32::from_be(words[1]) >> 8) as u8;
    let mut ports = header + IPV6_HEADER;
    if protocol == FRAGMENT_HEADER {
        let fragment: u32 = u32::from_be(ctx.load(ports).ok()?);
        if fragment & 0xfff8 != 0 {
            return None;
        }
        protocol = (fragment >> 24) as u8;
        ports += 8;
    }
    turned(ctx, work, protocol, ports)
}

/// Whose packet it is that the error is about, turned round.
#[inline(always)]
fn between(work: &mut Work, source: Address, destination: Address) {
    work.other.source = destination;
    work.other.destination = source;
}

#[inline(always)]
fn turned(ctx: &TcContext, work: &mut Work, protocol: u8, ports: usize) -> Option<usize> {
    if !matches!(protocol, TCP | UDP | SCTP) {
        return None;
    }
    let [source_port_be, destination_port_be]: [u16; 2] = ctx.load(ports).ok()?;
    work.other.source_port_be = destination_port_be;
    work.other.destination_port_be = source_port_be;
    work.other.protocol = protocol;
    Some(ports)
}

#[inline(always)]
fn translated(ctx: &TcContext, work: &Work, header: usize, ports: usize) -> Result<(), i64> {
    let (flow, other) = (&work.flow, &work.other);
    let checksum = work.transport as usize + ICMP_CHECKSUM;
    // The packet inside came from where the error goes, and went where the flow comes from.
    for (is_source, from, to) in
        [(true, &other.destination, &flow.destination), (false, &other.source, &flow.source)]
    {
        if from == to {
            continue;
        }
        if work.ipv6 != 0 {
            translate::inner_v6(ctx, header, is_source, from, to, checksum)?;
        } else {
            translate::inner_v4(ctx, header, is_source, from, to)?;
        }
    }
    let before = [other.destination_port_be, other.source_port_be];
    let after = [flow.destination_port_be, flow.source_port_be];
    if before != after {
        let words = |ports: [u16; 2]| u64::from(u32::from(ports[0]) | u32::from(ports[1]) << 16);
        ctx.l4_csum_replace(checksum, words(before), words(after), 4)?;
        ctx.store(ports, &after, 0)?;
    }
    // Sent by the other end itself, it comes from the address that the receiver knows; by a router, from that router.
    let source = if work.key.source == other.source { flow.source } else { work.key.source };
    translate::outer(ctx, work, &source, &flow.destination, checksum)
}
