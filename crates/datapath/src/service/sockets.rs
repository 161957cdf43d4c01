//! Ending the sockets whose backend is gone: the application learns it at once, instead of waiting for answers of nobody.
//!
//! Only sockets that were given the backend for a Service end, not those that named its address themselves: the programs remember
//! the former by cookie. A thread of its own, because looking through a namespace's sockets takes milliseconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::mpsc,
    thread::{self, JoinHandle},
};

use aya::maps::{HashMap, Map, MapData, MapError};
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use weft_abi::{SocketPeer, maps};
use weft_netns::{
    NetlinkError, Netns,
    netlink::{NetlinkSocket, or_gone},
};

use super::backends::Gone;
use crate::table::{BpfTableError, Raw};

/// `NETLINK_SOCK_DIAG`, `SOCK_DIAG_BY_FAMILY`, `SOCK_DESTROY` (linux/sock_diag.h, linux/inet_diag.h).
const NETLINK_SOCK_DIAG: isize = 4;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// Of `inet_diag_req_v2` and `inet_diag_msg`: where the socket's identity is, and how long it is. Its last eight bytes are
/// the cookie.
const REQUEST_ID: usize = 8;
const ANSWER_ID: usize = 4;
const ID: usize = 48;
const COOKIE: usize = 40;

/// Backends that are gone, and where sockets may be.
struct Task {
    gone: Vec<Gone>,
    /// Namespaces by cookie.
    namespaces: BTreeMap<u64, PathBuf>,
}

/// The thread that ends sockets. Dropping it waits until it is done.
pub(crate) struct SocketEnder {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl SocketEnder {
    /// Starts the thread in the calling thread's namespace, whose cookie is `own`; `sockets` is the table of connected sockets.
    pub(crate) fn start(sockets: MapData, own: u64) -> Result<SocketEnder, BpfTableError> {
        let at = |source| BpfTableError::Map { map: maps::SOCKETS, source };
        let mut sockets = HashMap::try_from(Map::HashMap(sockets)).map_err(at)?;
        let (tasks, inbox) = mpsc::channel::<Task>();
        let run = move || {
            while let Ok(mut task) = inbox.recv() {
                // One look through the tables serves all that is waiting.
                while let Ok(more) = inbox.try_recv() {
                    task.gone.extend(more.gone);
                    task.namespaces.extend(more.namespaces);
                }
                if let Err(error) = end(&mut sockets, own, &task) {
                    tracing::warn!(%error, "sockets of backends that are gone were not all ended");
                }
            }
        };
        let thread = thread::Builder::new()
            .name("socket-ender".to_owned())
            .spawn(run)
            .map_err(|source| BpfTableError::Read { map: maps::SOCKETS, source })?;
        Ok(SocketEnder { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Ends soon what is connected to these backends in these namespaces.
    pub(crate) fn end(&self, gone: Vec<Gone>, namespaces: BTreeMap<u64, PathBuf>) {
        let task = Task { gone, namespaces };
        if self.tasks.as_ref().is_none_or(|tasks| tasks.send(task).is_err()) {
            tracing::warn!(
                "the thread that ends sockets has ended; sockets of backends that are gone stay open"
            );
        }
    }
}

impl Drop for SocketEnder {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A panic there is in the log already.
            let _ = thread.join();
        }
    }
}

/// Why sockets were not ended.
#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error("table of sockets: {0}")]
    Map(#[from] MapError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

fn end(sockets: &mut HashMap<MapData, u64, Raw<SocketPeer>>, own: u64, task: &Task) -> Result<(), EndError> {
    let gone: BTreeSet<(u32, u32)> =
        task.gone.iter().map(|gone| (gone.index, gone.backend.generation)).collect();
    let mut found: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut protocols = BTreeSet::new();
    for entry in sockets.iter() {
        let (cookie, Raw(peer)) = match entry {
            Ok(entry) => entry,
            // Removed by its program while it was read.
            Err(MapError::KeyNotFound) => continue,
            Err(error) => return Err(error.into()),
        };
        if gone.contains(&(peer.backend, peer.generation)) {
            found.entry(peer.netns_cookie).or_default().insert(cookie);
            protocols.insert(peer.frontend.protocol);
        }
    }
    let mut first_error = None;
    for (namespace, cookies) in found {
        let ended = if namespace == own {
            end_in_namespace(&protocols, &cookies)
        } else {
            // A namespace that nobody knows belongs to no Pod of ours, or is gone with its sockets.
            let Some(path) = task.namespaces.get(&namespace) else { continue };
            let entered = Netns::from_path(path)
                .and_then(|netns| netns.run(|| end_in_namespace(&protocols, &cookies)))
                .map_err(NetlinkError::from);
            if !path.exists() {
                continue;
            }
            entered.and_then(|ended| ended)
        };
        if let Err(error) = ended {
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), |error| Err(error.into()))
}

/// Ends the sockets with these cookies in the calling thread's namespace.
fn end_in_namespace(protocols: &BTreeSet<u8>, cookies: &BTreeSet<u64>) -> Result<(), NetlinkError> {
    let mut netlink = NetlinkSocket::open(NETLINK_SOCK_DIAG)?;
    for (family, protocol) in [libc::AF_INET, libc::AF_INET6]
        .into_iter()
        .flat_map(|family| protocols.iter().map(move |p| (family, *p)))
    {
        let what = || format!("list the sockets of protocol {protocol}");
        let list = Message::request(BY_FAMILY, family as u8, protocol, &[0; ID]);
        for socket in netlink.request(&what, list, NLM_F_DUMP)? {
            let Some(id) = socket.id() else { continue };
            let cookie = id.get(COOKIE..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
            if !cookie.is_some_and(|cookie| cookies.contains(&cookie)) {
                continue;
            }
            let what = || "end a socket whose backend is gone".to_owned();
            let request = Message::request(DESTROY, family as u8, protocol, id);
            // It may have ended by itself.
            or_gone(netlink.request(&what, request, 0).map(drop))?;
        }
    }
    Ok(())
}

/// A message of sock_diag: its type and its bytes.
#[derive(Clone, Debug)]
struct Message {
    kind: u16,
    bytes: Vec<u8>,
}

impl Message {
    /// `inet_diag_req_v2`.
    fn request(kind: u16, family: u8, protocol: u8, id: &[u8]) -> Message {
        let mut bytes = vec![family, protocol, 0, 0];
        // Every state but listening and closed.
        let states = !(1_u32 << 10 | 1 << 7);
        bytes.extend(states.to_ne_bytes());
        debug_assert_eq!(bytes.len(), REQUEST_ID);
        bytes.extend(id);
        Message { kind, bytes }
    }

    /// The identity in an `inet_diag_msg`.
    fn id(&self) -> Option<&[u8]> {
        self.bytes.get(ANSWER_ID..ANSWER_ID + ID)
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Message, DecodeError> {
        Ok(Message { kind: header.message_type, bytes: payload.to_vec() })
    }
}
