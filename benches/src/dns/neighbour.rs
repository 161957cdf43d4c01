//! Other work on the server's core, so that the server is the limit and not its client: dnsperf alone costs more for each question
//! than the servers that it measures.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::peers::SERVER_CORE;

/// With this argument alone, the benchmark's binary is the neighbour.
pub const FLAG: &str = "--neighbour";
/// What is left of the core.
pub const SHARE: f64 = 0.2;
/// Short, so that what clients have asked meanwhile fits the servers' sockets.
const PERIOD: Duration = Duration::from_millis(2);

/// A process that takes the server's core for most of each period.
pub struct Neighbour(Child);

// === impl Neighbour ===

impl Neighbour {
    /// Starts it, before all processes without real-time priority.
    pub fn start() -> anyhow::Result<Neighbour> {
        let mut command = Command::new("chrt");
        command.args(["--fifo", "1", "taskset", "-c", &SERVER_CORE.to_string()]);
        command.arg(std::env::current_exe()?).arg(FLAG).stdin(Stdio::piped());
        Ok(Neighbour(command.spawn().context("chrt")?))
    }

    /// Ends it. That it ended by itself is an error.
    pub fn end(mut self) -> anyhow::Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("the neighbour ended by itself: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Works until its input ends.
pub fn run() -> anyhow::Result<()> {
    // Whoever started it may be killed; a thread of its own sees that.
    let input = thread::spawn(|| std::io::stdin().read(&mut [0]));
    let mut period = Instant::now();
    while !input.is_finished() {
        let until = period + PERIOD.mul_f64(1.0 - SHARE);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        period += PERIOD;
        thread::sleep(period.saturating_duration_since(Instant::now()));
    }
    Ok(())
}
