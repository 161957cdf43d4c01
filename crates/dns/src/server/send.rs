//! Many answers by one system call, and those to one client by one way through the kernel.
//!
//! A client that asks for A and AAAA at once has two answers. They leave as one packet, which the kernel cuts up at its end
//! (`UDP_SEGMENT`): all pieces of it have one length, but the last, which may be shorter.

use std::{cmp::Reverse, io, net::SocketAddr, net::UdpSocket, os::fd::AsRawFd as _, ptr};

use super::batch::{ANSWER, SIZE};

/// Answers that wait to be sent.
pub struct Outbox {
    answers: Box<[[u8; ANSWER]]>,
    queued: Vec<Queued>,
    /// For each packet; set anew for each call.
    headers: Box<[libc::mmsghdr]>,
    segments: Box<[Segments]>,
    /// How many answers each packet has.
    counts: [usize; SIZE],
    /// For each answer.
    vectors: Box<[libc::iovec]>,
    /// The kernel and the devices can cut packets up.
    can_cut: bool,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queued {
    peer: SocketAddr,
    length: usize,
    /// Of the answer, and of the question's address.
    place: usize,
}

/// The control message that says how long the pieces of a packet are.
#[repr(C)]
#[derive(Clone, Copy)]
struct Segments {
    header: libc::cmsghdr,
    length: u16,
    padding: [u8; 6],
}

/// Octets of one packet at most; less than 64 KiB with any headers.
const PACKET: usize = 60_000;

// === impl Outbox ===

impl Outbox {
    pub fn new() -> Self {
        // SAFETY: all of them are plain numbers and pointers, for which zero is a value.
        let (header, segments, vector): (libc::mmsghdr, Segments, libc::iovec) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            answers: vec![[0; ANSWER]; SIZE].into(),
            queued: Vec::with_capacity(SIZE),
            headers: vec![header; SIZE].into(),
            segments: vec![segments; SIZE].into(),
            counts: [0; SIZE],
            vectors: vec![vector; SIZE].into(),
            can_cut: true,
        }
    }

    /// Room for the answer at `place`.
    pub fn room(&mut self, place: usize) -> Option<&mut [u8; ANSWER]> {
        self.answers.get_mut(place)
    }

    /// The first `length` octets of the room at `place` are for this client.
    pub fn queue(&mut self, place: usize, length: usize, peer: SocketAddr) {
        // One for each place at most, so that there is room for all.
        if place < SIZE && self.queued.len() < SIZE {
            self.queued.push(Queued { peer, length: length.min(ANSWER), place });
        }
    }

    /// What is queued: place, length, for whom.
    pub fn queued(&self) -> impl Iterator<Item = (usize, usize, SocketAddr)> {
        self.queued.iter().map(|one| (one.place, one.length, one.peer))
    }

    /// The answer at `place`.
    pub fn answer(&self, place: usize, length: usize) -> &[u8] {
        self.answers.get(place).and_then(|answer| answer.get(..length)).unwrap_or_default()
    }

    /// Sends all of it to the `addresses` at the same places, which are so long; how many answers the kernel did not take.
    pub fn send(
        &mut self,
        socket: &UdpSocket,
        addresses: &mut [libc::sockaddr_storage],
        length: impl Fn(usize) -> u32,
    ) -> u64 {
        self.queued.sort_unstable_by_key(|one| (one.peer, Reverse(one.length)));
        let (mut packets, mut first) = (0, 0);
        while let Some(rest) = self.queued.get(first..).filter(|rest| !rest.is_empty()) {
            let count = if self.can_cut { pieces(rest) } else { 1 };
            self.prepare(packets, first, count, addresses, &length);
            packets += 1;
            first += count;
        }
        let mut failed = 0;
        let mut sent = 0;
        while let Some(rest) = self.headers.get_mut(sent..packets).filter(|rest| !rest.is_empty()) {
            // SAFETY: there are as many headers as said; each points to vectors, a control message and an address that are this
            // value's or borrowed, and each vector to an answer.
            let now = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, libc::MSG_DONTWAIT)
            };
            match usize::try_from(now) {
                Ok(now) if now > 0 => sent += now,
                // The first one could not be sent; the others may be.
                _ => {
                    let error = io::Error::last_os_error();
                    failed += self.send_again(socket, sent, &error);
                    sent += 1;
                }
            }
        }
        self.queued.clear();
        failed
    }

    /// Makes the packet of `count` answers from `first` on.
    fn prepare(
        &mut self,
        packet: usize,
        first: usize,
        count: usize,
        addresses: &mut [libc::sockaddr_storage],
        length: &impl Fn(usize) -> u32,
    ) {
        let Some(queued) = self.queued.get(first..first + count) else { return };
        let (Some(vectors), Some(header), Some(segments)) = (
            self.vectors.get_mut(first..first + count),
            self.headers.get_mut(packet),
            self.segments.get_mut(packet),
        ) else {
            return;
        };
        for (one, vector) in queued.iter().zip(&mut *vectors) {
            if let Some(answer) = self.answers.get_mut(one.place) {
                vector.iov_base = answer.as_mut_ptr().cast();
                vector.iov_len = one.length;
            }
        }
        let Some(one) = queued.first() else { return };
        let Some(address) = addresses.get_mut(one.place) else { return };
        let message = &mut header.msg_hdr;
        message.msg_name = ptr::from_mut(address).cast();
        message.msg_namelen = length(one.place);
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = count;
        (message.msg_control, message.msg_controllen) = (ptr::null_mut(), 0);
        if count > 1 {
            segments.header.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<u16>();
            segments.header.cmsg_level = libc::SOL_UDP;
            segments.header.cmsg_type = libc::UDP_SEGMENT;
            segments.length = one.length as u16;
            message.msg_control = ptr::from_mut(segments).cast();
            message.msg_controllen = size_of::<Segments>();
        }
        if let Some(kept) = self.counts.get_mut(packet) {
            *kept = count;
        }
    }

    /// A packet of several answers was not taken: each by itself, and from now on all of them, if it is the cutting that is not
    /// possible here. How many answers were not taken either.
    fn send_again(&mut self, socket: &UdpSocket, packet: usize, error: &io::Error) -> u64 {
        let count = self.counts.get(packet).copied().unwrap_or_default();
        if count < 2 {
            return 1;
        }
        let cannot = [libc::EINVAL, libc::EIO, libc::EOPNOTSUPP, libc::ENOPROTOOPT];
        if error.raw_os_error().is_some_and(|error| cannot.contains(&error)) {
            tracing::info!(%error, "answers are sent one by one");
            self.can_cut = false;
        }
        let first: usize = self.counts.iter().take(packet).sum();
        let mut failed = 0;
        for one in self.queued.get(first..first + count).unwrap_or_default() {
            failed += u64::from(socket.send_to(self.answer(one.place, one.length), one.peer).is_err());
        }
        failed
    }
}

/// How many of these, which are sorted by client and falling length, make one packet.
fn pieces(queued: &[Queued]) -> usize {
    let Some(first) = queued.first() else { return 0 };
    let most = (PACKET / first.length.max(1)).max(1);
    let is_like = |one: &&Queued| one.peer == first.peer && one.length == first.length;
    let like = queued.iter().take(most).take_while(is_like).count();
    // One shorter may end it.
    let ends = queued
        .get(like)
        .is_some_and(|one| one.peer == first.peer && one.length < first.length && like < most);
    like + usize::from(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the answers to clients (by their ports) of these lengths are put into packets.
    fn packets(answers: &[(u16, usize)]) -> Vec<Vec<(u16, usize)>> {
        let queue = |(place, (port, length)): (usize, &(u16, usize))| {
            let peer = SocketAddr::from(([10, 244, 0, 1], *port));
            Queued { peer, length: *length, place }
        };
        let mut queued: Vec<Queued> = answers.iter().enumerate().map(queue).collect();
        queued.sort_unstable_by_key(|one| (one.peer, Reverse(one.length)));
        let mut packets = Vec::new();
        let mut rest = queued.as_slice();
        while !rest.is_empty() {
            let (packet, others) = rest.split_at(pieces(rest));
            packets.push(packet.iter().map(|one| (one.peer.port(), one.length)).collect());
            rest = others;
        }
        packets
    }

    #[test]
    fn answers_to_one_client_leave_together() {
        // A, then AAAA that is longer.
        assert_eq!(packets(&[(1, 80), (2, 80), (1, 140)]), [vec![(1, 140), (1, 80)], vec![(2, 80)]]);
        assert_eq!(packets(&[(1, 80), (1, 80), (1, 80)]), [vec![(1, 80); 3]]);
        // Only the last may be shorter.
        assert_eq!(packets(&[(1, 90), (1, 80), (1, 80)]), [vec![(1, 90), (1, 80)], vec![(1, 80)]]);
    }

    #[test]
    fn a_packet_is_never_too_long() {
        let all = packets(&[(1, 1232); 64]);
        assert!(all.iter().all(|packet| packet.len() * 1232 <= PACKET));
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 64);
    }
}
