//! Processes that stand still.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait_until;

/// A process that stands still until this is dropped.
pub struct Stopped(Pid);

impl Stopped {
    /// Stops it. On a busy machine its threads run on for a moment after the signal: this waits for the last.
    pub fn process(pid: Pid) -> Stopped {
        kill(pid, Signal::SIGSTOP).unwrap();
        let stopped = Stopped(pid);
        wait_until("every thread to stand still", || {
            fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().all(|thread| {
                // Its state follows its name, which is in parentheses and may hold some.
                fs::read_to_string(thread.path().join("stat"))
                    .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
            })
        });
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been ended.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
