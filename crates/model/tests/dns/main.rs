//! The zone against a naive reference: all records written out, and searched.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod random;
mod reference;
