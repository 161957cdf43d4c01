//! Sockets that send and see whole frames.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use weft_netns::{Netlink, Netns};

use crate::support::DEADLINE;

/// What every hostile packet carries, so that it is known wherever it arrives.
pub const MARK: &[u8] = b"hostile neighbour";

/// All frames of an interface.
pub struct Frames(OwnedFd);

impl Frames {
    pub fn open(netns: &Netns, interface: &str) -> Frames {
        let index = Netlink::open_in(netns).unwrap().link(interface).unwrap().index;
        let protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let open = || {
            // SAFETY: a call without pointers, whose descriptor is ours.
            let socket = unsafe {
                let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
                let descriptor = libc::socket(libc::AF_PACKET, kind, i32::from(protocol));
                assert!(descriptor >= 0, "{}", io::Error::last_os_error());
                OwnedFd::from_raw_fd(descriptor)
            };
            // SAFETY: zero is a value of every field.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
            address.sll_protocol = protocol;
            address.sll_ifindex = i32::try_from(index).unwrap();
            let size = u32::try_from(size_of_val(&address)).unwrap();
            // SAFETY: the address outlives the call and its size is given.
            let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
            socket
        };
        Frames(netns.run(open).unwrap())
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the frame outlives the call and its length is given.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, isize::try_from(frame.len()).unwrap(), "{}", io::Error::last_os_error());
    }

    /// The next frame that somebody else sent and that satisfies this.
    pub fn next(&self, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.within(DEADLINE, &mut wanted)
    }

    /// The same, if it comes soon.
    pub fn soon(&self, mut wanted: impl FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.within(Duration::from_millis(300), &mut wanted)
    }

    /// Whether a frame with the mark is there by now.
    pub fn saw_mark(&self) -> bool {
        self.within(Duration::ZERO, &mut has_mark).is_some()
    }

    fn within(&self, time: Duration, wanted: &mut dyn FnMut(&[u8]) -> bool) -> Option<Vec<u8>> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd as _;
        let deadline = std::time::Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            if poll(&mut polled, PollTimeout::try_from(left).unwrap()).unwrap() == 0 {
                return None;
            }
            let mut buffer = vec![0; 65_536];
            // SAFETY: zero is a value of every field.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut size = u32::try_from(size_of_val(&from)).unwrap();
            // SAFETY: the buffers outlive the call and their sizes are given.
            let length = unsafe {
                let (buffer, from) = (buffer.as_mut_ptr().cast(), (&raw mut from).cast());
                libc::recvfrom(self.0.as_raw_fd(), buffer, 65_536, 0, from, &raw mut size)
            };
            buffer.truncate(usize::try_from(length).unwrap());
            if from.sll_pkttype != libc::PACKET_OUTGOING && wanted(&buffer) {
                return Some(buffer);
            }
        }
    }
}

pub fn has_mark(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|window| window == MARK)
}
