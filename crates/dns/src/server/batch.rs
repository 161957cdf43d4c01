//! Many datagrams by one system call.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd as _,
    ptr,
};

use super::send::Outbox;

/// Datagrams at a time.
pub const SIZE: usize = 64;
/// The longest question: what is longer is cut off, and then malformed.
pub const QUESTION: usize = 2048;
/// What an address may take.
const ADDRESS: u32 = size_of::<libc::sockaddr_storage>() as u32;
/// The longest answer.
pub const ANSWER: usize = super::writer::LARGEST_UDP;

/// Room for the questions and answers of one thread.
pub struct Batch {
    questions: Box<[[u8; QUESTION]]>,
    addresses: Box<[libc::sockaddr_storage]>,
    /// What the kernel fills; points into the above, and nothing of that moves.
    received: Box<[libc::mmsghdr]>,
    /// For each of them.
    _vectors: Box<[libc::iovec]>,
    /// How many the kernel filled last.
    count: usize,
    /// The types asked.
    kinds: [u16; SIZE],
    outbox: Outbox,
}

/// A question, and room for its answer.
pub struct Datagram<'b> {
    /// What came.
    pub question: &'b [u8],
    /// From whom.
    pub peer: SocketAddr,
    /// Where the answer goes.
    pub answer: &'b mut [u8; ANSWER],
}

// === impl Batch ===

impl Batch {
    pub fn new() -> Self {
        // SAFETY: all of them are plain numbers and pointers, for which zero is a value.
        let (address, header, vector): (libc::sockaddr_storage, libc::mmsghdr, libc::iovec) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        let mut questions = vec![[0; QUESTION]; SIZE].into_boxed_slice();
        let mut addresses = vec![address; SIZE].into_boxed_slice();
        let mut vectors = vec![vector; SIZE].into_boxed_slice();
        let mut received = vec![header; SIZE].into_boxed_slice();
        let slots = received.iter_mut().zip(&mut vectors).zip(&mut questions).zip(&mut addresses);
        for (((header, vector), question), address) in slots {
            vector.iov_base = question.as_mut_ptr().cast();
            vector.iov_len = question.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = ADDRESS;
        }
        let (count, kinds, outbox) = (0, [0; SIZE], Outbox::new());
        Self { questions, addresses, received, _vectors: vectors, count, kinds, outbox }
    }

    /// Takes what is there; how much.
    ///
    /// # Errors
    /// What the kernel says; [`io::ErrorKind::WouldBlock`] when there is nothing.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // The kernel has written how long the addresses were.
        self.received.iter_mut().take(self.count).for_each(|one| one.msg_hdr.msg_namelen = ADDRESS);
        self.count = 0;
        // SAFETY: every header points to one vector, and that to a buffer as long as it says; all of them are this value's, on
        // the heap, and written by nobody else during the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.received.as_mut_ptr(),
                SIZE as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.count)
    }

    /// One of those received last, if its peer can be answered.
    pub fn datagram(&mut self, place: usize) -> Option<Datagram<'_>> {
        let length = usize::try_from(self.received.get(place)?.msg_len).ok()?;
        let peer = read_address(self.addresses.get(place)?)?;
        Some(Datagram {
            question: self.questions.get(place)?.get(..length)?,
            peer,
            answer: self.outbox.room(place)?,
        })
    }

    /// The answer to the one at `place`, which asks for this type, is the first `length` octets of its room.
    pub fn answered(&mut self, place: usize, length: usize, peer: SocketAddr, kind: u16) {
        self.set_kind(place, kind);
        self.outbox.queue(place, length, peer);
    }

    /// The one at `place` asks for this type.
    pub fn set_kind(&mut self, place: usize, kind: u16) {
        if let Some(kept) = self.kinds.get_mut(place) {
            *kept = kind;
        }
    }

    /// The type that the one at `place` asks for.
    pub fn kind(&self, place: usize) -> u16 {
        self.kinds.get(place).copied().unwrap_or_default()
    }

    /// Every answer so far: the question's octets, the client, the type asked, the answer.
    pub fn each_answer(&mut self, mut each: impl FnMut(usize, SocketAddr, u16, &[u8])) {
        for (place, length, peer) in self.outbox.queued() {
            let asked = self.received.get(place).map_or(0, |one| one.msg_len as usize);
            let answer = self.outbox.answer(place, length);
            each(asked, peer, self.kind(place), answer);
        }
    }

    /// Sends all answers; how many the kernel did not take.
    pub fn send(&mut self, socket: &UdpSocket) -> u64 {
        let received = &self.received;
        let length = |place: usize| received.get(place).map_or(0, |one| one.msg_hdr.msg_namelen);
        self.outbox.send(socket, &mut self.addresses, length)
    }
}

fn read_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one, and the storage is large enough and aligned for all.
            let v4 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(
                SocketAddrV6::new(address, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id)
                    .into(),
            )
        }
        _ => None,
    }
}
