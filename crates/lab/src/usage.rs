//! What a person asks for wrongly.

/// What was asked for is wrong, or names what is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);
