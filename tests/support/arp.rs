//! Who answers for an address on the link.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send,
        socket,
    },
};
use std::os::fd::{AsRawFd, OwnedFd};
use weft_netns::Netlink;

use crate::Place;

/// Asks the link of `from` who has an IPv4 address and returns the hardware addresses of all that answer within
/// `patience`.
pub fn who_has(from: &Place, address: Ipv4Addr, patience: Duration) -> BTreeSet<[u8; 6]> {
    let IpAddr::V4(own) = from.address() else { panic!("{} has no IPv4 address first", from.what()) };
    from.netns().run(|| ask(own, address, patience)).unwrap().unwrap()
}

fn ask(own: Ipv4Addr, address: Ipv4Addr, patience: Duration) -> io::Result<BTreeSet<[u8; 6]>> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link("eth0")).map_err(io::Error::other)?;
    let mac: [u8; 6] = link.mac.as_slice().try_into().map_err(io::Error::other)?;
    let socket = open(link.index)?;
    let mut frame = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &own.octets()].concat();
    frame.extend([0; 6]);
    frame.extend(address.octets());
    send(socket.as_raw_fd(), &frame, MsgFlags::empty())?;
    let deadline = Instant::now() + patience;
    let mut found = BTreeSet::new();
    while Instant::now() < deadline {
        let mut buffer = [0; 128];
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            // An ARP reply about the address.
            Ok(length) if length >= 42 && buffer[20..22] == [0, 2] && buffer[28..32] == address.octets() => {
                found.insert(buffer[22..28].try_into().unwrap());
            }
            Ok(_) => {}
            Err(nix::Error::EAGAIN) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn open(index: u32) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0x0806_u16.to_be(),
        sll_ifindex: i32::try_from(index).unwrap(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to a whole sockaddr_ll on this stack.
    let address = unsafe {
        LinkAddr::from_raw(
            std::ptr::from_ref(&address).cast(),
            Some(size_of::<libc::sockaddr_ll>() as libc::socklen_t),
        )
    };
    bind(socket.as_raw_fd(), &address.unwrap())?;
    Ok(socket)
}
