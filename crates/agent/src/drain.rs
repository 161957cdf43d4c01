//! One way to stop: everything that runs sees the drain begin, finishes what it has, and returns.

use tokio::sync::watch;

/// Sees the drain begin. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Drain(watch::Receiver<bool>);

/// Begins the drain.
#[derive(Debug)]
pub(crate) struct Begin(watch::Sender<bool>);

/// A drain that has not begun.
pub(crate) fn drain() -> (Begin, Drain) {
    let (begin, drain) = watch::channel(false);
    (Begin(begin), Drain(drain))
}

impl Drain {
    /// Resolves when the drain has begun.
    pub(crate) async fn begun(&mut self) {
        // Whoever would begin it is gone: it has begun.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

impl Begin {
    /// Begins the drain.
    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }
}
