//! Packets as nobody's stack would send them.

use std::net::{IpAddr, SocketAddr};

use weft_abi::GATEWAY_MAC;

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ICMP: u8 = 1;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// An IP packet whose header says the truth, until it is changed.
#[derive(Clone)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hops: u8,
    pub protocol: u8,
    pub payload: Vec<u8>,
}

impl Ip {
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Ip {
        Ip { source, destination, hops: 64, protocol, payload }
    }

    /// A datagram.
    pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Ip {
        let mut udp = Vec::new();
        udp.extend(from.port().to_be_bytes());
        udp.extend(to.port().to_be_bytes());
        udp.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        let ip = Ip::new(from.ip(), to.ip(), UDP, udp);
        ip.with_checksum(6)
    }

    /// An ICMP message of either family: type, code, four bytes, and what follows.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, four: [u8; 4], rest: &[u8]) -> Ip {
        let mut icmp = vec![kind, code, 0, 0];
        icmp.extend(four);
        icmp.extend(rest);
        let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
        Ip::new(source, destination, protocol, icmp).with_checksum(2)
    }

    pub fn hops(mut self, hops: u8) -> Ip {
        self.hops = hops;
        self
    }

    /// Fills the transport's checksum in, which is at this offset.
    pub fn with_checksum(mut self, at: usize) -> Ip {
        let length = u32::try_from(self.payload.len()).unwrap();
        let mut summed = Vec::new();
        if self.protocol != ICMP {
            summed.extend(octets(self.source));
            summed.extend(octets(self.destination));
            summed.extend(length.to_be_bytes());
            summed.extend([0, 0, 0, self.protocol]);
        }
        summed.extend(&self.payload);
        let sum = checksum(&summed).to_be_bytes();
        self.payload[at..at + 2].copy_from_slice(&sum);
        self
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u16::try_from(self.payload.len()).unwrap();
        let mut bytes = Vec::new();
        if self.source.is_ipv4() {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + length).to_be_bytes());
            bytes.extend([0, 7, 0, 0, self.hops, self.protocol, 0, 0]);
            bytes.extend(octets(self.source));
            bytes.extend(octets(self.destination));
            resum(&mut bytes);
        } else {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([self.protocol, self.hops]);
            bytes.extend(octets(self.source));
            bytes.extend(octets(self.destination));
        }
        bytes.extend(&self.payload);
        bytes
    }

    /// The packet in a frame to a Pod's gateway.
    pub fn frame(&self) -> Vec<u8> {
        frame(if self.source.is_ipv4() { IPV4 } else { IPV6 }, &self.bytes())
    }
}

/// A frame to a Pod's gateway.
pub fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = GATEWAY_MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 7]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Writes the checksum of an IPv4 header without options.
pub fn resum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum(&header[..20]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
