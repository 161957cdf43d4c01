//! Real clients against the server.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its support as well")]

#[allow(dead_code, reason = "shared by all claims; not every one needs everything")]
mod support;

mod basics;
