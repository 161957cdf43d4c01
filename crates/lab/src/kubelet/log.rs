//! What containers say, kept in memory for `kubectl logs`.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{broadcast, watch};
use weft_apiserver::Output;

/// Older lines are forgotten.
const KEPT_LINES: usize = 10_000;
/// How far a listener may be behind.
const KEPT_PIECES: usize = 256;

/// The logs of every container of the lab.
#[derive(Default)]
pub(crate) struct Logs {
    containers: Mutex<HashMap<(String, String), Runs>>,
}

/// The current run of a container and the one before it.
type Runs = [Option<Arc<ContainerLog>>; 2];

/// One run of one container.
pub(crate) struct ContainerLog {
    lines: Mutex<Lines>,
    written: watch::Sender<Written>,
    /// As it is said, for whoever listens.
    said: broadcast::Sender<Output>,
}

/// How many lines were written, and whether that is all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) lines: u64,
    pub(crate) ended: bool,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<(Timestamp, Bytes)>,
    forgotten: u64,
}

impl Logs {
    /// Begins the log of a container's next run; the one before it becomes the previous.
    pub(super) fn begin(&self, uid: &str, container: &str) -> Arc<ContainerLog> {
        let log = Arc::new(ContainerLog {
            lines: Mutex::default(),
            written: watch::Sender::new(Written::default()),
            said: broadcast::Sender::new(KEPT_PIECES),
        });
        let mut containers = lock(&self.containers);
        let runs = containers.entry((uid.to_owned(), container.to_owned())).or_default();
        *runs = [Some(log.clone()), runs[0].take()];
        log
    }

    /// The log of the running or the previous run.
    pub(crate) fn get(&self, uid: &str, container: &str, previous: bool) -> Option<Arc<ContainerLog>> {
        let containers = lock(&self.containers);
        let [current, before] = containers.get(&(uid.to_owned(), container.to_owned()))?;
        if previous { before.clone() } else { current.clone() }
    }

    /// Forgets a Pod that is gone.
    pub(super) fn forget(&self, uid: &str) {
        lock(&self.containers).retain(|(of, _), _| of != uid);
    }
}

impl ContainerLog {
    /// Adds a line, without its end.
    pub(super) fn write(&self, line: impl Into<Bytes>) {
        let line = line.into();
        let mut whole = BytesMut::from(&line[..]);
        whole.extend_from_slice(b"\n");
        self.tell(Output::Stdout(whole.freeze()));
        self.keep(line);
    }

    /// Passes on what a container has just said, to whoever listens: maybe nobody.
    pub(super) fn tell(&self, piece: Output) {
        let _ = self.said.send(piece);
    }

    /// What is said from now on.
    pub(super) fn listen(&self) -> broadcast::Receiver<Output> {
        self.said.subscribe()
    }

    /// Keeps a line that was told.
    pub(super) fn keep(&self, line: impl Into<Bytes>) {
        let mut lines = lock(&self.lines);
        lines.kept.push_back((Timestamp::now(), line.into()));
        if lines.kept.len() > KEPT_LINES {
            lines.kept.pop_front();
            lines.forgotten += 1;
        }
        drop(lines);
        self.written.send_modify(|written| written.lines += 1);
    }

    pub(super) fn end(&self) {
        self.written.send_modify(|written| written.ended = true);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Written> {
        self.written.subscribe()
    }

    /// The kept lines from number `from` on, and the number of the next one.
    pub(crate) fn since(&self, from: u64) -> (Vec<(Timestamp, Bytes)>, u64) {
        let lines = lock(&self.lines);
        let skip = usize::try_from(from.saturating_sub(lines.forgotten)).unwrap_or(usize::MAX);
        let next = lines.forgotten + lines.kept.len() as u64;
        (lines.kept.iter().skip(skip).cloned().collect(), next)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_before_stays_readable() {
        let logs = Logs::default();
        logs.begin("1", "web").write("one");
        let second = logs.begin("1", "web");
        second.write("two");
        second.write("three");
        let text = |previous| logs.get("1", "web", previous).unwrap().since(0).0.len();
        assert_eq!((text(true), text(false)), (1, 2));
        assert_eq!(second.since(1).0[0].1, "three");
        logs.forget("1");
        assert!(logs.get("1", "web", false).is_none());
    }
}
