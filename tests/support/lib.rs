//! What end-to-end tests are written with: labs that come up from the built binaries and are gone after the test,
//! also after a panic, and claims about Pods and nodes that read as such.
//!
//! `WEFT_KEEP=1` keeps the labs of tests that fail; each failed claim prints how to look inside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod api;
mod arp;
mod binaries;
pub mod client;
mod lab;
mod leftovers;
mod place;
mod stopped;
mod wait;

pub use api::Api;
pub use arp::who_has;
pub use binaries::{Output, run, weft, weft_path};
pub use client::{Load, Outcome, Requests};
pub use lab::{Lab, LabBuilder, ManifestFile};
pub use leftovers::{assert_nothing_left, leftovers, machine_state};
pub use place::{Answer, Echo, Place};
pub use stopped::Stopped;
pub use wait::{wait_for, wait_until};
