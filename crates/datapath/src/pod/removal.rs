//! Removing interfaces in the background: the kernel takes tens of milliseconds to let go of one, and nobody needs to
//! wait for that once no packet passes any more.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use weft_netns::{Netlink, NetlinkError, netlink::or_gone};

/// The thread that removes interfaces. Dropping it waits until all are gone.
#[derive(Debug)]
pub(crate) struct Removal {
    queue: Option<mpsc::Sender<u32>>,
    pending: Arc<Pending>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Pending {
    indexes: Mutex<BTreeSet<u32>>,
    less: Condvar,
}

impl Removal {
    /// Starts the thread in the calling thread's namespace.
    pub(crate) fn start() -> Result<Removal, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let (queue, indexes) = mpsc::channel();
        let pending = Arc::new(Pending::default());
        let work = Arc::clone(&pending);
        let run = move || {
            for index in indexes {
                // One that fails is found again by whoever compares what is there with what should be.
                if let Err(error) = or_gone(netlink.delete_link(index)) {
                    tracing::warn!(index, %error, "a Pod's interface was not removed");
                }
                work.lock().remove(&index);
                work.less.notify_all();
            }
        };
        let thread =
            thread::Builder::new().name("removal".to_owned()).spawn(run).map_err(NetlinkError::Socket)?;
        Ok(Removal { queue: Some(queue), pending, thread: Some(thread) })
    }

    /// Removes an interface soon.
    pub(crate) fn enqueue(&self, index: u32) -> Result<(), NetlinkError> {
        self.pending.lock().insert(index);
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(index).is_ok());
        if sent {
            return Ok(());
        }
        self.pending.lock().remove(&index);
        Err(NetlinkError::Socket(io::Error::other("the removal thread has ended")))
    }

    /// The interfaces that are about to go.
    pub(crate) fn pending(&self) -> BTreeSet<u32> {
        self.pending.lock().clone()
    }

    /// Waits until everything that was enqueued is gone.
    pub(crate) fn wait(&self) {
        let mut indexes = self.pending.lock();
        while !indexes.is_empty() {
            indexes = self.pending.less.wait(indexes).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there is in the log already.
            let _ = thread.join();
        }
    }
}
