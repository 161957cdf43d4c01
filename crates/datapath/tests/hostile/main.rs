//! A hostile neighbour: a root process in a Pod with raw sockets, an unprivileged one, and a host outside try what they must not be
//! able to do. What must be dropped is dropped and counted by its reason, and nobody else notices: meanwhile another Pod of the
//! same node, the node itself and another node are talked with, and lose no more than a hundredth.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "the tests of Services use all of it")]
#[path = "../services/cluster.rs"]
mod cluster;

mod errors;
mod flows;
mod frames;
mod hops;
mod neighbour;

mod outside;
mod packet;
mod raw;
mod tunnel;
