//! What Kubernetes says of Services, a test a rule, and the planner against a naive reference.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod build;
mod dns;
mod endpoints;
mod frontends;
mod outside;
mod policies;
mod random;
mod reference;
mod topology;
mod unreachable;
