//! Sockets in another network namespace: a socket stays where it was made.

use std::{
    fs::File,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

use super::{Place, Status};

/// Where a place is, and the addresses that it is reached at.
pub(crate) struct Found {
    /// The namespace's file; `None` is the agent's own.
    pub(crate) netns: Option<PathBuf>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Where `place` is, by the node's status.
///
/// # Errors
/// When there is no such Pod on this node.
pub(crate) fn find(place: &Place, status: &Status) -> Result<Found, String> {
    match place {
        Place::Host => Ok(Found { netns: None, addresses: status.node_addresses.clone() }),
        Place::Pod(key) => status
            .pods
            .iter()
            .find(|pod| pod.pod.as_ref() == Some(key))
            .map(|pod| Found { netns: Some(pod.netns.clone()), addresses: pod.addresses.clone() })
            .ok_or_else(|| format!("Pod {key} is not attached on node {}", status.node)),
    }
}

/// Runs `task` on a thread of its own in the namespace, for as long as it takes.
///
/// # Errors
/// When the namespace cannot be entered, or the task panicked.
pub(super) fn run_in<T: Send>(netns: Option<&Path>, task: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(path) = netns {
                let named =
                    |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                let file = File::open(path).map_err(named)?;
                setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| named(error.into()))?;
            }
            Ok(task())
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the task panicked")))
    })
}
