//! A synchronous rtnetlink client (RFC 3549): one socket, one request at a time.
//!
//! A socket belongs for ever to the namespace it was made in, so one value can serve another namespace from any
//! thread.

mod address;
mod link;
mod neighbour;
mod route;
mod tc;

use std::{fmt::Debug, io};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use address::Address;
pub use link::{Link, VethSpec, VxlanSpec};
pub use neighbour::{Neighbour, NeighbourSpec};
pub use route::{Route, RouteSpec};
pub use tc::Blocks;

use crate::{Netns, NetnsError};

/// A netlink socket of any protocol that answers requests with acknowledgements.
#[derive(Debug)]
pub struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
}

/// An rtnetlink socket in one namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: NetlinkSocket,
}

/// What the kernel, or the way to it, said no to.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Refused {
        /// The request in words.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel's answer could not be read.
    #[error("netlink answer not understood: {0}")]
    Answer(String),
    /// No such interface.
    #[error("no interface {0}")]
    NoLink(String),
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

impl NetlinkError {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The object is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// The object is not there (the kernel says so in several ways, depending on the kind of object).
    pub fn is_not_found(&self) -> bool {
        matches!(self, NetlinkError::NoLink(_))
            || matches!(
                self.errno(),
                Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
            )
    }
}

/// Turns "it is there already" into success.
pub fn or_exists(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    result.or_else(|error| if error.is_exists() { Ok(()) } else { Err(error) })
}

/// Turns "it is not there" into success.
pub fn or_gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    result.or_else(|error| if error.is_not_found() { Ok(()) } else { Err(error) })
}

impl NetlinkSocket {
    /// Opens a socket of a netlink protocol (`NETLINK_*`) in the calling thread's namespace.
    pub fn open(protocol: isize) -> Result<NetlinkSocket, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Older kernels lack these; they only make errors clearer and dumps smaller.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(NetlinkSocket { socket, sequence: 0 })
    }

    /// Sends one request and collects what comes back until the kernel acknowledges it or, for a dump, until its end.
    pub fn request<M>(
        &mut self,
        what: &dyn Fn() -> String,
        message: M,
        flags: u16,
    ) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags | if dump { 0 } else { NLM_F_ACK };
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.send(&bytes)?;
        self.collect(what)
    }

    /// Sends bytes that are already messages (a batch, whose acknowledgement carries `sequence`).
    pub fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.socket.send(bytes, 0)?;
        Ok(())
    }

    /// A new sequence number, for [`NetlinkSocket::send`]; [`NetlinkSocket::collect`] waits for its answers.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Collects the answers to the request with the newest sequence number.
    pub fn collect<M>(&mut self, what: &dyn Fn() -> String) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkDeserializable + Debug,
    {
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest)
                    .map_err(|error| NetlinkError::Answer(error.to_string()))?;
                let length = (message.header.length as usize + 3) & !3;
                rest = rest.get(length.max(16)..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    // The late answer to a request that failed half-way.
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(code) => {
                            let source = io::Error::from_raw_os_error(code.get().abs());
                            return Err(NetlinkError::Refused { what: what(), source });
                        }
                    },
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    other => return Err(NetlinkError::Answer(format!("{other:?}"))),
                }
            }
        }
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Netlink, NetlinkError> {
        Ok(Netlink { socket: NetlinkSocket::open(NETLINK_ROUTE)? })
    }

    /// Opens a socket in `netns`.
    pub fn open_in(netns: &Netns) -> Result<Netlink, NetlinkError> {
        netns.run(Netlink::open)?
    }

    fn change(
        &mut self,
        what: &dyn Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.socket.request(what, message, flags).map(|_| ())
    }

    fn dump(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.socket.request(&|| what.to_owned(), message, NLM_F_DUMP)
    }
}
