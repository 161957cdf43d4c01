//! Waiting for a condition, with a deadline and an account of what was seen.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

/// Longer than anything takes, on a machine that builds beside the tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `look` until it says `Ok`, and panics with the last `Err` when that takes too long.
#[track_caller]
pub fn wait_for<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(5);
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() > deadline => {
                panic!("waited {} s for {what}; last seen: {seen:?}", PATIENCE.as_secs())
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Calls `look` until it says true.
#[track_caller]
pub fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    wait_for(what, || if look() { Ok(()) } else { Err("not yet") });
}
