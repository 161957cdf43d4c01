//! End-to-end tests on the built binaries, a file a claim.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod application;
mod client;
mod containerd;
mod cri;
mod disruption;
mod dns;
mod entering;
mod kubectl;
mod lab_life;
mod missing_features;
mod misspelt;
mod pod_network;
mod refusals;
mod services;
mod sessions;
mod slow_machine;
mod symptoms;
mod traits;
mod verify;
mod volumes;
mod workloads;
