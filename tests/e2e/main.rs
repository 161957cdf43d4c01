//! End-to-end tests on the built binaries, a file a claim.

mod application;
mod containerd;
mod disruption;
mod kubectl;
mod lab_life;
mod pod_network;
mod verify;
mod workloads;
