//! Tells the link that an address has moved here: gratuitous ARP (RFC 5227, section 2.3; both as a request and as a
//! reply, since devices heed one or the other) and unsolicited neighbour advertisements (RFC 4861, section 7.2.6).
//! Answers to questions are the data plane's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use socket2::{Domain, Socket, Type};

/// A hardware address.
pub type Mac = [u8; 6];

const EVERYBODY: Mac = [0xff; 6];
/// 33:33 and the last four bytes of ff02::1 (RFC 2464, section 7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Replace what you know.
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const ICMPV6: u8 = 58;
/// Neighbour discovery is taken from the link alone: nothing that was forwarded has this hop limit.
const HOP_LIMIT: u8 = 255;

/// The link that addresses are announced on.
#[derive(Debug)]
pub struct Link {
    index: u32,
    mac: Mac,
    socket: Socket,
}

impl Link {
    /// The interface with this index and hardware address, in the namespace of the calling thread.
    ///
    /// # Errors
    /// When no packet socket can be made (CAP_NET_RAW).
    pub fn open(index: u32, mac: Mac) -> io::Result<Self> {
        // Protocol 0: it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW.cloexec(), None)?;
        Ok(Self { index, mac, socket })
    }

    /// The interface's index and hardware address.
    pub fn interface(&self) -> (u32, Mac) {
        (self.index, self.mac)
    }

    /// Tells the link once.
    ///
    /// # Errors
    /// When the interface does not take the frames.
    pub fn tell(&self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(v4) => {
                self.send(&arp(self.mac, v4, ARP_REQUEST))?;
                self.send(&arp(self.mac, v4, ARP_REPLY))
            }
            IpAddr::V6(v6) => self.send(&advertisement(self.mac, v6)),
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let mut to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: i32::try_from(self.index).map_err(io::Error::other)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        for (place, byte) in to.sll_addr.iter_mut().zip(frame) {
            *place = *byte;
        }
        // SAFETY: `frame` and `to` are valid for their lengths for the duration of the call.
        let sent = unsafe {
            libc::sendto(
                std::os::fd::AsRawFd::as_raw_fd(&self.socket),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes()].concat()
}

/// An ARP packet of RFC 826 in which sender and target are the same.
fn arp(mac: Mac, address: Ipv4Addr, operation: u16) -> Vec<u8> {
    let mut frame = ethernet(EVERYBODY, mac, ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths of their addresses.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(if operation == ARP_REPLY { mac } else { [0; 6] });
    frame.extend(address.octets());
    frame
}

fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    // Lengths of options are counted in eight bytes.
    message.extend([TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend(mac);
    let sum = checksum(address, ALL_NODES, &message);
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// Of an ICMPv6 message, with its pseudo-header (RFC 8200, section 8.1).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut bytes = [&source.octets()[..], &destination.octets()].concat();
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, ICMPV6]);
    bytes.extend(message);
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let word = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_be_bytes(word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn gratuitous_arp_is_as_the_standard_has_it() {
        let frame = arp(MAC, Ipv4Addr::new(192, 168, 1, 130), ARP_REQUEST);
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6]);
        assert_eq!(&frame[14..22], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(frame[28..32], frame[38..42]);
    }

    #[test]
    fn an_advertisement_sums_up_to_zero() {
        let address: Ipv6Addr = "fd00::80".parse().unwrap();
        let frame = advertisement(MAC, address);
        assert_eq!((frame.len(), frame[20], frame[21]), (14 + 40 + 32, ICMPV6, 255));
        assert_eq!(checksum(address, ALL_NODES, &frame[54..]), 0);
    }
}
