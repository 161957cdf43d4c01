//! What a plugin says when it fails.

use std::fmt;

use super::{SpecVersion, call::quote};

/// Error codes of the specification, and Weft's own from 100.
pub mod code {
    /// The configuration asks for a version that is not spoken.
    pub const VERSION: u32 = 1;
    /// The container is not known.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// Something does not decode.
    pub const DECODE: u32 = 6;
    /// The network configuration is wrong.
    pub const CONFIG: u32 = 7;
    /// A passing condition.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no ADD can be served.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The node's Pod range is full.
    pub const EXHAUSTED: u32 = 100;
    /// The kernel refused.
    pub const KERNEL: u32 = 101;
    /// CHECK: the attachment is not as ADD left it.
    pub const BROKEN: u32 = 102;
    /// The interface, or a host port, is somebody else's.
    pub const EXISTS: u32 = 103;
}

/// An error as CNI prints it on stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of [`code`].
    pub code: u32,
    /// What failed.
    pub msg: String,
    /// Where, why, and what to do.
    pub details: String,
}

// === impl Failure ===

impl Failure {
    /// Fails with `code`.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// What to print when the configuration asked for `version`.
    pub fn to_json(&self, version: SpecVersion) -> String {
        format!(
            "{{\"cniVersion\":{},\"code\":{},\"msg\":{},\"details\":{}}}\n",
            quote(version.as_str()),
            self.code,
            quote(&self.msg),
            quote(&self.details)
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (CNI code {})", self.msg, self.details, self.code)
    }
}

impl std::error::Error for Failure {}
