//! What the API server answered, or why it did not, in words.

use std::{error::Error, fmt};

/// A request failed.
#[derive(Debug)]
pub struct ApiError(kube::Error);

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for ApiError {
    /// The server's own words; else every cause, from the outermost to the one that says what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let kube::Error::Api(status) = &self.0 {
            return write!(f, "{} ({} {})", status.message, status.code, status.reason);
        }
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !said.contains(&words) {
                write!(f, ": {words}")?;
                said = words;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for ApiError {}

impl ApiError {
    pub(crate) fn kube(&self) -> &kube::Error {
        &self.0
    }
}
