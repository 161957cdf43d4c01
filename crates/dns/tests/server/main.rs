//! The server as its clients see it: over sockets, on loopback.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod explain;
mod names;
mod protocol;
mod real;
mod support;
mod walk;
