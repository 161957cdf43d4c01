//! Real clients against the server: kubectl, and plain HTTP where the protocol itself is the claim.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its support as well")]

mod support;

mod access;
mod apply;
mod authorization;
mod basics;
mod consistency;
mod custom;
mod daily;
mod deletion;
mod logs;
mod patches;
mod printing;
mod real;
mod services;
mod validation;
mod watches;
