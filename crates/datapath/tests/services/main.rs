//! Services packet by packet: what socket hooks cannot see, and what comes from outside.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod again;
mod choice;
mod cluster;
mod direct;
mod inside;
mod labels;
mod lasting;
mod node_socket;
mod outside;
mod owners;
mod paths;
mod raw;
mod stale;
mod strangers;
